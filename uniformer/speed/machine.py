"""What this machine and this installation have: processor, memory, libraries, extras, caches, fonts. For `doctor`.

Nothing is written and nothing is asked of a network. torch is imported where its own answers are wanted.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from uniformer.errors import counted
from uniformer.speed.known_faults import numbers
from uniformer.speed.timings import RUNTIMES, cache_folder, cpu_name
from uniformer.support.checks import Check, Verdict

#: Of processors: what decides how fast it is here, and what has had faults. As /proc/cpuinfo names them.
FLAGS = (
    "avx2", "avx_vnni", "avx_ne_convert", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "bf16", "i8mm", "sve",
)  # fmt: skip
GB = 1 << 30
LETTERS = {"A": "English", "é": "accents", "Ж": "Cyrillic", "ש": "Hebrew", "ع": "Arabic", "漢": "Chinese"}


# ---- the machine -----------------------------------------------------------------------------------------------------


def processor_flags() -> tuple[str, ...]:
    """What of `FLAGS` the processor has; nothing where the system does not tell."""
    text = _text("/proc/cpuinfo")
    line = re.search(r"^(?:flags|Features)\s*: (.*)", text, re.MULTILINE)
    has = set(line[1].split()) if line else set()
    return tuple(flag for flag in FLAGS if flag in has)


def look_at_machine() -> Iterator[Check]:
    """Processor, cores, memory."""
    part = "machine"
    system = f"{platform.system()} {platform.machine()}"
    yield Check(part, "processor", "", f"{cpu_name()}; {', '.join(processor_flags()) or 'features unknown'}; {system}")
    cores = cores_here()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    found = f"{counted(cores, 'core')} for this process of {os.cpu_count()}, OMP_NUM_THREADS={threads or 'unset'}"
    too_many = (int(threads) if threads.isdigit() else os.cpu_count() or 1) > cores
    remedy = f"OMP_NUM_THREADS={cores}: threads that share cores wait for one another" if too_many else ""
    yield Check(part, "threads", "", found, "bad" if too_many else "ok", remedy)
    if kilobytes := re.search(r"^MemAvailable:\s*(\d+)", _text("/proc/meminfo"), re.MULTILINE):
        yield Check(part, "memory", "", f"{int(kilobytes[1]) * 1024 / GB:.1f} GB free")


def cores_here() -> int:
    """Cores that this process may use, by its affinity and its group's quota."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _text("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    return max(1, min(mine, int(quota) // int(period))) if quota.isdigit() and period.isdigit() else mine


def look_at_torch() -> Iterator[Check]:
    """What torch computes with here."""
    import torch

    part, about = "torch", torch.__config__.show()
    onednn = re.search(r"MKL-DNN v(\S+)", about)
    asked = os.environ.get("ONEDNN_MAX_CPU_ISA")
    limit = f", kept to {asked} by ONEDNN_MAX_CPU_ISA" if asked else ""
    told = f"{onednn[1]}{limit}" if onednn and torch.backends.mkldnn.is_available() else "not in this build"
    yield Check(part, "oneDNN", "", told)
    kernels = torch.backends.cpu.get_cpu_capability()
    yield Check(part, "kernels", "", f"{kernels}, {counted(torch.get_num_threads(), 'thread')}")
    none = f"none in use (built for CUDA {torch.version.cuda})" if torch.version.cuda else "none: built for CPUs"
    yield Check(part, "GPU", "", ", ".join(gpus()) or none)


def gpus() -> list[str]:
    """Names of the GPUs that torch can use."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_name(number) for number in range(count)]


def cudnn_version() -> str | None:
    """Of the cuDNN that torch loads, such as 9.26.0."""
    import torch

    number = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    return None if number is None else f"{number // 10000}.{number // 100 % 100}.{number % 100}"


# ---- the installation ------------------------------------------------------------------------------------------------


class Requirement(NamedTuple):
    """A package that the installation names, and the version from which on it does."""

    package: str
    least: str
    extra: str  #: "" where everybody needs it


def requirements() -> list[Requirement]:
    """Of the installed `uniformer`. Raises `PackageNotFoundError` where it runs from a folder alone."""
    found = []
    for line in metadata.requires("uniformer") or []:
        match = re.match(r"([\w.-]+)\s*>=\s*([\d.]+)(?:.*extra == ['\"]([\w-]+))?", line)
        if match and match[3] not in ("test", "dev"):
            found.append(Requirement(match[1], match[2], match[3] or ""))
    return found


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def look_at_libraries() -> Iterator[Check]:
    """Python, and the packages that the installation needs."""
    part = "libraries"
    yield Check(part, "Python", "", f"{platform.python_version()} ({sys.executable})")
    try:
        wanted = [r for r in requirements() if not r.extra]
    except metadata.PackageNotFoundError:
        yield Check(part, "uniformer", "", "not installed: it runs from its folder", "absent", "pip install .")
        return
    yield Check(part, "uniformer", "", metadata.version("uniformer"))
    versions = versions_of([*(r.package for r in wanted), *RUNTIMES])
    is_small = "torch" not in versions and any(name in versions for name in RUNTIMES)
    for package, least, _ in wanted:
        remedy = f"pip install '{package}>={least}'"
        if package not in versions and is_small and package not in ("numpy", "av", "pillow", "rich"):
            yield Check(part, package, "", "not installed: exported networks run without it", "absent", remedy)
        else:
            yield _of_version(part, package, least, versions, remedy, needed=True)


def look_at_extras() -> Iterator[Check]:
    """The optional packages."""
    by_extra: dict[str, list[Requirement]] = {}
    for requirement in requirements():
        if requirement.extra:
            by_extra.setdefault(requirement.extra, []).append(requirement)
    for extra, wanted in by_extra.items():
        remedy, versions = f"pip install 'uniformer[{extra}]'", versions_of(r.package for r in wanted)
        each = [_of_version("extras", r.package, r.least, versions, remedy) for r in wanted]
        found = ", ".join(f"{c.name} {c.found}" for c in each)
        old = any(check.verdict == "bad" and check.name in versions for check in each)
        is_here = all(check.verdict == "ok" for check in each)
        verdict: Verdict = "ok" if is_here else "bad" if old else "absent"
        yield Check("extras", extra, "", found, verdict, "" if is_here else remedy)


def _of_version(
    part: str, package: str, least: str, versions: Mapping[str, str], remedy: str, needed: bool = False
) -> Check:
    version = versions.get(package)
    if version is None:
        return Check(part, package, "", "not installed", "bad", remedy, needed)
    if numbers(version) < numbers(least):
        return Check(part, package, "", f"{version}, expected {least} or later", "bad", remedy, needed)
    return Check(part, package, "", version, needed=needed)


# ---- folders and fonts -----------------------------------------------------------------------------------------------


def look_at_caches() -> Iterator[Check]:
    """Where checkpoints, measurements and temporary files go, and whether they can."""
    yield _folder("temporary files", Path(tempfile.gettempdir()), "TMPDIR=FOLDER")
    yield _folder("measurements", cache_folder(), "XDG_CACHE_HOME=FOLDER")
    if placed := os.environ.get("UNIFORMER_CHECKPOINTS"):
        yield _folder("placed checkpoints", Path(placed).expanduser(), "UNIFORMER_CHECKPOINTS=FOLDER", is_read=True)
    try:
        from huggingface_hub import constants
    except ImportError:
        return
    yield _folder("checkpoints of the hub", Path(constants.HF_HUB_CACHE), "HF_HOME=FOLDER")
    yield _folder("checkpoints of Google Drive", Path(constants.HF_HOME) / "uniformer", "HF_HOME=FOLDER")


def _folder(name: str, path: Path, remedy: str, *, is_read: bool = False) -> Check:
    """`is_read`: it is only looked into."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if is_read and path.is_dir() and os.access(path, os.R_OK | os.X_OK):
        return Check("caches", name, "", str(path))
    if is_read:
        return Check("caches", name, "", f"{path}: cannot be read", "bad", remedy)
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        return Check("caches", name, "", f"{path}: cannot be written", "bad", remedy)
    free = f"{shutil.disk_usage(there).free / GB:.1f} GB free"
    return Check("caches", name, "", f"{path}{'' if path.exists() else ' (not there yet)'}, {free}")


def look_at_fonts() -> Iterator[Check]:
    """Which letters the font has that names are drawn with in pictures."""
    from PIL import ImageFont

    font = ImageFont.load_default(16)
    none = bytes(font.getmask("\U0010fffe"))  # the box that stands for a letter that is not there
    lacking = [script for letter, script in LETTERS.items() if bytes(font.getmask(letter)) == none]
    found = ", ".join(
        [*(script for script in LETTERS.values() if script not in lacking), *map("no {}".format, lacking)]
    )
    remedy = "such letters are boxes in drawn pictures; results, tables and pages have them" if lacking else ""
    yield Check("fonts", "of drawn names", "six letters drawn", found, "absent" if lacking else "ok", remedy)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
