"""A .pth file is read as data: all that torch writes, and nothing that ends the process or takes more than there is."""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import pathlib
import pickle
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import refused, same, tiny_model
from uniformer.checkpoints.keys import to_reference
from uniformer.checkpoints.load import load_checkpoint, load_model
from uniformer.checkpoints.pickles import Inert, OddTensor, read_pickle

# ---- what torch writes -----------------------------------------------------------------------------------------------

GRID = torch.arange(24.0).view(6, 4)
TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
         torch.uint8, torch.bool, torch.complex64, torch.complex128]  # fmt: skip
NEWER = [
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.uint16,
    torch.uint32,
    torch.uint64,
]  # without a storage of theirs
WRITTEN: dict[str, Any] = {
    "types": [torch.arange(3).to(dtype) for dtype in TYPES],
    "newer types": [torch.arange(3).to(dtype) for dtype in NEWER],
    "views": {"all": GRID, "rows": GRID[1:], "turned": GRID.t(), "every other": GRID[::2, 1], "none": GRID[:0]},
    "shapes": [torch.tensor(5), torch.zeros(0, 5), torch.zeros(1, 1).expand(1, 1), torch.zeros(2, 3, 4, 4)],
    "parameters": {"one": torch.nn.Parameter(GRID), "module": dict(torch.nn.BatchNorm2d(3).state_dict())},
    "channels last": torch.arange(96.0).view(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    "plain": {"n": None, "t": (True, 1.5, -3, 2**70), "s": "tekst ü", 0: [1, [2, {}]], "nested": {"deep": {"er": ()}}},
    "optimizer": {"state": {0: {"exp_avg": GRID, "step": torch.tensor(3.0)}}, "param_groups": [{"params": [0, 1]}]},
    "ordered": dict(collections.OrderedDict(a=GRID, b=1)),
}


def alike(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        told = (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        return told and a.contiguous().flatten().view(torch.uint8).equal(b.contiguous().flatten().view(torch.uint8))
    if isinstance(a, dict):
        return list(a) == list(b) and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(alike, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("kind", WRITTEN)
def test_what_torch_writes_is_read(kind: str, form: str, tmp_path: Path) -> None:
    for protocol in (2, 3, 4, 5):
        path = tmp_path / f"{protocol}.pth"
        torch.save(WRITTEN[kind], path, pickle_protocol=protocol, _use_new_zipfile_serialization=form == "zip")
        assert alike(WRITTEN[kind], read_pickle(path))


def test_tensors_of_one_storage_stay_so(tmp_path: Path) -> None:
    torch.save({"a": GRID, "b": GRID[2]}, tmp_path / "a.pth")
    read = read_pickle(tmp_path / "a.pth")
    read["a"][2] = 7.0
    assert read["b"].tolist() == [7.0] * 4


def test_bytes_in_the_other_order(tmp_path: Path) -> None:
    torch.save({"a": GRID, "b": torch.arange(5)}, tmp_path / "little.pth")
    with zipfile.ZipFile(tmp_path / "little.pth") as old, zipfile.ZipFile(tmp_path / "big.pth", "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("byteorder"):
                data = b"big"
            elif "/data/" in info.filename:
                data = np.frombuffer(data, "f4" if info.file_size == 96 else "i8").byteswap().tobytes()
            new.writestr(info.filename, data)
    assert alike({"a": GRID, "b": torch.arange(5)}, read_pickle(tmp_path / "big.pth"))


BESIDE = {
    "settings": argparse.Namespace(lr=1e-3),
    "score": np.float64(2.5),
    "history": np.arange(5),
    "folder": pathlib.PurePosixPath("runs"),
    "day": datetime.date(2022, 2, 2),
    "skipped": {1, 2},
    "device": torch.device("cpu"),
    "raw": b"bytes",
}


@pytest.mark.parametrize("kind", BESIDE)
def test_what_scripts_put_beside_weights_is_inert(kind: str, tmp_path: Path) -> None:
    torch.save({kind: BESIDE[kind], "a": GRID}, tmp_path / "a.pth")
    read = read_pickle(tmp_path / "a.pth")
    assert isinstance(read[kind], Inert)
    assert alike(read["a"], GRID)


def test_dictionaries_of_other_kinds_are_dictionaries(tmp_path: Path) -> None:
    torch.save({"c": collections.Counter("aab"), "d": collections.defaultdict(list, x=[1])}, tmp_path / "a.pth")
    assert read_pickle(tmp_path / "a.pth") == {"c": {"a": 2, "b": 1}, "d": {"x": [1]}}


# ---- tensors that are not plain --------------------------------------------------------------------------------------


class Mine(torch.Tensor):
    pass


ODD: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {  # of a plain matrix
    "sparse": torch.Tensor.to_sparse,
    "compressed": torch.Tensor.to_sparse_csr,
    "quantised": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "without data": lambda t: t.to("meta"),
    "stride 0": lambda t: t[:1, :1].expand(t.shape),
    "overlapping": lambda t: t.as_strided(t.shape, (1, 1)),
    "complex": lambda t: t.to(torch.complex64),
    "conjugated": lambda t: t.to(torch.complex64).conj(),
    "whole numbers": lambda t: t.to(torch.int64),
    "a number": lambda t: t[0, 0],
    "of rank 1": torch.Tensor.flatten,
    "of rank 7": lambda t: t[None, None, None, None, None],
    "of another type": lambda t: t.as_subclass(Mine),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", ["stages.2.blocks.0.mhra.proj.weight", "head.weight"])
@pytest.mark.parametrize("kind", ODD)
def test_an_odd_tensor_is_refused_before_anything_is_touched(kind: str, key: str, tmp_path: Path) -> None:
    model, state = tiny_model(), tiny_model(1).state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state[key] = ODD[kind](state[key])
    with refused("expected|has shape"):
        load_checkpoint(model, state)
    assert same(model.state_dict(), before)
    torch.save(state, tmp_path / "a.pth")
    for load in (lambda path: load_checkpoint(model, path), lambda path: load_model(path, head_dim=16)):
        with refused("expected|has shape|beside tensors it holds tests.test_pickles.Mine"):
            load(tmp_path / "a.pth")
    assert same(model.state_dict(), before)


@pytest.mark.filterwarnings("ignore")
def test_an_odd_tensor_beside_the_network_is_no_matter(tmp_path: Path) -> None:
    odd = {kind: make(torch.ones(3, 4)) for kind, make in ODD.items() if kind != "of another type"}
    torch.save({"model": tiny_model().state_dict(), "optimizer": odd}, tmp_path / "a.pth")
    assert isinstance(read_pickle(tmp_path / "a.pth")["optimizer"]["sparse"], OddTensor)
    model = tiny_model(1)
    load_checkpoint(model, tmp_path / "a.pth")
    assert same(model.state_dict(), tiny_model().state_dict())


# ---- hostile files ---------------------------------------------------------------------------------------------------


def archive(data: bytes, records: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, content in {"data.pkl": data, **(records or {}), "version": b"3"}.items():
            file.writestr(f"a/{name}", content)
    return stream.getvalue()


def named(name: str) -> bytes:
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def called(name: str, *args: bytes) -> bytes:
    return named(name) + b"(" + b"".join(args) + b"tR"


def number(value: int) -> bytes:
    data = value.to_bytes(16, "little", signed=True)
    return b"\x8a\x10" + data


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(count: int, *more: bytes) -> bytes:
    kind, key = named("torch.FloatStorage"), text("0")
    return b"(" + text("storage") + kind + key + text("cpu") + number(count) + b"".join(more) + b"tQ"


def tensor(count: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    shape = (number(offset), numbers(*size), numbers(*stride))
    return called("torch._utils._rebuild_tensor_v2", storage(count), *shape, b"\x89N")


def in_a_dict(value: bytes, key: bytes = text("patch_embed1.proj.weight")) -> bytes:
    return b"\x80\x02}" + key + value + b"s."


def legacy(data: bytes, keys: bytes = b"\x80\x02].", rest: bytes = b"") -> bytes:
    stream = io.BytesIO()
    torch.save({}, stream, _use_new_zipfile_serialization=False)
    head = stream.getvalue().removesuffix(b"\x80\x02}q\x00.\x80\x02]q\x00.")
    assert head != stream.getvalue()
    return head + data + keys + rest


DEEP = b")" + b"\x85" * 300_000  # a tuple in a tuple in a tuple, ...
PAIRS = b"](" + b"".join(b"(K\x01K\x02t" for _ in range(20_000)) + b"e"
HOSTILE: dict[str, Callable[[], bytes]] = {
    "numpy's number of an odd type": lambda: archive(
        called("numpy.core.multiarray.scalar", called("numpy.dtype", text("O,O"))) + b"."
    ),
    "numpy's array of no size": lambda: archive(
        called("numpy.core.multiarray._reconstruct", named("numpy.ndarray"), numbers(-1), b"K\x01") + b"."
    ),
    "deep tuple as a key": lambda: archive(in_a_dict(b"N", key=DEEP)),
    "deep tuple as a storage": lambda: archive(b"\x80\x02(" + text("storage") + DEEP + DEEP + b"tQ."),
    "deep tuple in pairs": lambda: archive(called("collections.OrderedDict", b"](" + DEEP + b"N\x86e") + b"."),
    "deep list": lambda: archive(b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b"."),
    "fewer bytes than it says": lambda: archive(in_a_dict(tensor(1 << 40, 0, (4,), (1,))), {"data/0": bytes(16)}),
    "beyond its data": lambda: archive(in_a_dict(tensor(4, 0, (1 << 30,), (1,))), {"data/0": bytes(16)}),
    "before its data": lambda: archive(in_a_dict(tensor(4, -1, (4,), (1,))), {"data/0": bytes(16)}),
    "backwards": lambda: archive(in_a_dict(tensor(4, 3, (4,), (-1,))), {"data/0": bytes(16)}),
    "huge": lambda: archive(in_a_dict(tensor(4, 0, (1 << 62, 1 << 62), (0, 0))), {"data/0": bytes(16)}),
    "a size of bytes": lambda: archive(called("builtins.bytearray", number(1 << 40)) + b"."),
    "a storage made by its name": lambda: archive(called("torch.FloatStorage", number(1 << 40)) + b"."),
    "compressed": lambda: archive(in_a_dict(b"N"), {"byteorder": bytes(1 << 28)}, zipfile.ZIP_DEFLATED),
    "one list many times": lambda: archive(
        PAIRS + b"q\x010" + named("collections.OrderedDict") + b"q\x020](" + b"h\x02h\x01\x85R" * 20_000 + b"e."
    ),
    "laughs": lambda: archive(b"\x80\x02]q\x01" + b"(h\x01h\x01h\x01h\x01e0](h\x01h\x01h\x01h\x01eq\x01" * 40 + b"."),
    "attributes of a tensor": lambda: archive(
        in_a_dict(tensor(4, 0, (4,), (1,)) + b"(" + storage(4) + numbers(0, 1 << 40, 1) + b"tb"), {"data/0": bytes(16)}
    ),
    "items of a tensor": lambda: archive(in_a_dict(tensor(4, 0, (4,), (1,)) + b"K\x00Ns"), {"data/0": bytes(16)}),
    "old, deep": lambda: legacy(in_a_dict(b"N", key=DEEP)),
    "old, huge": lambda: legacy(storage(1 << 36, b"N") + b"."),
    "old, long text": lambda: b"\x80\x02\x8e" + (1 << 40).to_bytes(8, "little") + b".",
    "old, keys of nothing": lambda: legacy(in_a_dict(b"N"), b"\x80\x02]X\x01\0\0\x007a."),
    "index of what is kept": lambda: archive(b"\x80\x02Nr\xff\xff\xff\x7fj\xff\xff\xff\x7f."),
    "old, no bytes": lambda: legacy(in_a_dict(tensor(4, 0, (4,), (1,)).replace(b"tQ", b"NtQ"))),
    "no end": lambda: archive(b"\x80\x02}"),
    "no pickle": lambda: archive(b""),
    "no archive": lambda: archive(in_a_dict(b"N"))[:-30],
}  # fmt: skip

CHILD = """
import sys
from tests.memory import peak_kilobytes
from uniformer.checkpoints.load import load_model
from uniformer.errors import InputError
for path in sys.argv[1:]:
    try:
        load_model(path, head_dim=16)
    except InputError as error:
        assert len(str(error).splitlines()) == 1, str(error)
        print("refused", len(str(error)), flush=True)
print(peak_kilobytes())
"""


def test_hostile_files_are_refused_without_a_crash_and_without_memory(tmp_path: Path) -> None:
    """All in one process: the first that ends it is the one after the last line."""
    paths = [tmp_path / f"{number}.pth" for number in range(len(HOSTILE))]
    for path, make in zip(paths, HOSTILE.values(), strict=True):
        path.write_bytes(make())
        assert path.stat().st_size < 2_000_000
    child = subprocess.run([sys.executable, "-c", CHILD, *map(str, paths)], text=True, capture_output=True)
    *lines, kilobytes = child.stdout.splitlines() or [""]
    assert child.returncode == 0, (list(HOSTILE)[len(lines) : len(lines) + 2], child.stderr)
    assert len(lines) == len(HOSTILE)
    assert all(int(line.split()[1]) < 500 for line in lines)
    assert int(kilobytes) < 1_500_000


STRANGE = ("posix.system", "builtins.eval", "builtins.__import__", "runpy.run_path", "torch.load", "torch.hub.load",
           "torch.nn.modules.linear.Linear", "__main__.Mine")  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_names_that_are_not_known_to_be_harmless_are_said(name: str, form: str, tmp_path: Path) -> None:
    data = in_a_dict(called(name, text("x")))
    (tmp_path / "a.pth").write_bytes(archive(data) if form == "zip" else legacy(data))
    with refused(f"refused .*a.pth: beside tensors it holds {name}, and"):
        read_pickle(tmp_path / "a.pth")


def test_a_program_for_torchscript_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(archive(in_a_dict(b"N"), {"constants.pkl": b"", "code/__torch__.py": b""}))
    with refused("a.pth is no checkpoint.*TorchScript"):
        read_pickle(tmp_path / "a.pth")


def test_texts_of_a_file_are_shown_in_one_line(tmp_path: Path) -> None:
    state = to_reference(tiny_model().state_dict())
    for strange, said in (
        ("a\nb", r"a\\nb$"),
        ("\x1b[2Jx", r"\\x1b\[2Jx$"),
        ("k" * 9999, r"k{70,}\.\.\.$"),
        ("", "$"),
    ):
        torch.save(state | {strange: torch.ones(1)}, tmp_path / "a.pth")
        with refused(f"a.pth has 1 key that no UniFormer has: {said}"):
            load_model(tmp_path / "a.pth", head_dim=16)
    name = ("m" * 9999).encode()
    (tmp_path / "b.pth").write_bytes(archive(b"\x80\x02c" + name + b"\nx\n."))
    with refused(r"it holds m{70,}\.\.\., and"):
        read_pickle(tmp_path / "b.pth")


# ---- several at once -------------------------------------------------------------------------------------------------


def test_threads_do_not_hinder_one_another_and_torch_is_left_alone(tmp_path: Path) -> None:
    beside = {"args": argparse.Namespace(lr=1), "best": np.float64(1)}
    torch.save({"model": to_reference(tiny_model().state_dict()), **beside}, tmp_path / "run.pth")
    failed: list[str] = []
    allowed = set(torch.serialization.get_safe_globals())
    seen, ended = set(allowed), threading.Event()

    def load() -> None:
        for _ in range(5):
            try:
                load_model(tmp_path / "run.pth", head_dim=16)
            except Exception as error:
                failed.append(str(error))

    def watch() -> None:
        while not ended.is_set():
            seen.update(torch.serialization.get_safe_globals())
            time.sleep(0)

    watcher, threads = threading.Thread(target=watch), [threading.Thread(target=load) for _ in range(4)]
    for thread in (watcher, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    watcher.join()
    assert failed == []
    assert seen == allowed
    with pytest.raises(pickle.UnpicklingError):  # as without us
        torch.load(tmp_path / "run.pth", weights_only=True)
