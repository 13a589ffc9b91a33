"""Feed damaged checkpoints, exports, manifests and states: `python tests/fuzz_checkpoints.py --count 1000 --seed 0`.

The pickles of .pth files and of a run's state are changed operation by operation; the headers of safetensors files,
contracts, also inside an exported graph, and the facts of a manifest value by value; and all but graphs byte by byte,
as media are by `fuzz_reader.py`, whose limits hold here too. Allowed are what computes, or an `InputError` of one line.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pickletools
import random
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import fuzz_reader

ALLOWED = ("computes", "InputError")
ODD: tuple[Any, ...] = (
    0, -1, 1.5, 7, 64, 1 << 16, 1 << 31, 1 << 62, -(1 << 70), 1e308, float("nan"), float("inf"), True, None,
    "", "x", "\x1b[2J\n", "k" * 5000, "dense", "maps", "F64", "U8", "\ud800",
    [], [[]], {}, [1] * 300, {"a": {"b": []}},
)  # fmt: skip
EXPORTS = (".xml", ".onnx")
SHORT: tuple[Any, ...] = ({"schedule": {"epochs": 1}, "keep": {"every_steps": 1}},)  # a recipe's settings
NAMES = (
    "numpy.core.multiarray scalar", "numpy dtype", "torch._utils _rebuild_sparse_tensor", "torch Size",
    "torch._utils _rebuild_qtensor", "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter",
    "torch LongStorage", "torch DoubleStorage", "torch UntypedStorage", "torch bfloat16", "posix system",
    "collections OrderedDict", "builtins getattr", "builtins bytearray", "mmengine.logging HistoryBuffer",
)  # fmt: skip


def seed_files(folder: Path) -> list[Path]:
    """Networks of images and clips as they are saved by us, by the original and by trainers."""
    import torch

    from tests.test_checkpoint import openmmlab, reference, saved
    from tests.tiny import CLIPS, IMAGES, save_tiny, tiny_model
    from tests.training_runs import make_images, recipe, splits
    from uniformer.cli.main import main
    from uniformer.training.loop import fit

    sets = splits(make_images(folder / "images", train=4, val=2))
    fit(recipe(*SHORT), *sets, out=folder / "run", device="cpu")
    sets[0].save(folder / "images.manifest")
    settings = {"meta": {"cfg": "model=dict(backbone=dict(windows=False, hybrid=True, window_size=7, head_dim=16))"}}
    dense = tiny_model(output="normed_maps", num_classes=0)
    beside = {"args": argparse.Namespace(lr=1), "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}
    return [
        save_tiny(folder / "images.safetensors", IMAGES),
        save_tiny(folder / "clips.safetensors", CLIPS),
        saved(folder / "plain.pth", reference(tiny_model())),
        saved(folder / "old.pth", {"model": reference(tiny_model()), **beside}, legacy=True),
        saved(folder / "light.pth", {"model": reference(tiny_model(keep_ratio=0.5, overlap=1)), **beside}),
        saved(folder / "detector.pth", {"state_dict": openmmlab(dense), **settings}),
        folder / "images.manifest",
        (folder / "run" / "state.pt").rename(folder / "run.pt"),
        *(exported for form in ("xml", "onnx") if (exported := _exported(folder, form, main))),
    ]


def _exported(folder: Path, form: str, main: Callable[[list[str]], int]) -> Path | None:
    """None without the runtime that it is for."""
    path = folder / f"exported.{form}"
    return path if main(["export", str(folder / "images.safetensors"), str(path)]) == 0 else None


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


# ---- what is changed -------------------------------------------------------------------------------------------------


def change_json(value: Any, draw: random.Random) -> Any:
    """Another value at one place, or one more or less."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        changed = dict(value)
        match draw.randrange(8):
            case 0:
                del changed[key]
            case 1:
                changed[draw.choice(["", "x", key + "x", "\n"])] = value[key]
            case _:
                changed[key] = change_json(value[key], draw)
        return changed
    if isinstance(value, list) and value and draw.random() < 0.7:
        place = draw.randrange(len(value))
        return [*value[:place], change_json(value[place], draw), *value[place + draw.randrange(2) :]]
    return draw.choice(ODD)


def description(data: bytes, draw: random.Random) -> bytes:
    """The contract inside an exported graph, changed in a few places; what is long stays as long as it was."""
    begin, changed = data.index(b"num_classes") - 40, bytearray(data)
    for place in draw.sample(range(begin, begin + 1500), draw.choice([1, 2, 5])):
        changed[place] = draw.choice(b'0123456789-e.,:"{}[]tfn\\ \x1b')
    return bytes(changed)


def facts_value(data: bytes, draw: random.Random) -> bytes:
    """A manifest's facts, or the header that says where its arrays are."""
    size = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    if draw.random() < 0.7:
        facts = change_json(json.loads(header["__metadata__"]["manifest"]), draw)
        header["__metadata__"]["manifest"] = json.dumps(facts)
    else:
        header = change_json(header, draw)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + rest


def safetensors_value(data: bytes, draw: random.Random) -> bytes:
    size = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    if draw.random() < 0.7:
        contract = json.loads(header["__metadata__"]["uniformer"])
        for _ in range(draw.choice([1, 1, 2])):
            contract = change_json(contract, draw)
        said = json.dumps(contract) if draw.random() < 0.95 else "[" * 50_000
        header["__metadata__"]["uniformer"] = said
    else:
        header = change_json(header, draw)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + rest


def operations(data: bytes) -> list[bytes]:
    places = [place for _, _, place in pickletools.genops(data)]
    return [data[a:b] for a, b in zip(places, [*places[1:], len(data)], strict=True)]


def pickle_operations(data: bytes, draw: random.Random) -> bytes:
    """A pickle with some of its operations changed, moved, doubled or left out."""
    parts = operations(data)
    for _ in range(draw.choice([1, 1, 2, 4])):
        if len(parts) < 4:
            break
        place = draw.randrange(1, len(parts) - 1)
        code = parts[place][:1]
        match draw.randrange(6):
            case 0:
                del parts[place]
            case 1:
                parts.insert(draw.randrange(1, len(parts)), parts[place])
            case 2:
                other = draw.randrange(1, len(parts) - 1)
                parts[place], parts[other] = parts[other], parts[place]
            case 3:
                parts[place] = b")" + b"\x85" * draw.choice([3, 100_000])
            case _ if code in b"KMJ\x8a":
                number = draw.choice([0, 1, 255, 1 << 20, 1 << 31, 1 << 62, -1])
                parts[place] = b"\x8a\x09" + number.to_bytes(9, "little", signed=True)
            case _ if code == b"c":
                module, name = draw.choice(NAMES).split()
                parts[place] = f"c{module}\n{name}\n".encode()
            case _ if code == b"X":
                text = draw.choice(["", "storage", "0", "a\nb", "head.weight", "model", "k" * 9999, "stages.0.embed.x"])
                parts[place] = b"X" + struct.pack("<I", len(text)) + text.encode()
            case _:
                parts[place] = draw.choice([b"N", b"]", b"}", b")", b"R", b"b", b"s", b"u", b"Q", b"t", b"0", b"\x81"])
    return b"".join(parts)


def archive_pickle(data: bytes, draw: random.Random) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename.endswith("data.pkl"):
                content = pickle_operations(content, draw)
            elif draw.random() < 0.01:
                content = content[: draw.randrange(len(content) + 1)]
            method = zipfile.ZIP_DEFLATED if draw.random() < 0.002 else zipfile.ZIP_STORED
            new.writestr(info.filename, content, method)
    return stream.getvalue()


def old_pickles(data: bytes, draw: random.Random) -> bytes:
    """One of the five pickles of a file as it was before archives."""
    stream, parts = io.BytesIO(data), []
    for _ in range(5):
        start = stream.tell()
        for _ in pickletools.genops(stream):
            pass
        parts.append(data[start : stream.tell()])
    place = draw.choice([3, 3, 3, 3, draw.randrange(5)])
    parts[place] = pickle_operations(parts[place], draw)
    return b"".join(parts) + data[stream.tell() :]


def some_bytes(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    draw.choice(fuzz_reader.DAMAGES)(changed, data, draw)
    return bytes(changed)


def cases(folder: Path, count: int, seed: int) -> Iterator[fuzz_reader.Case]:
    """Damaged copies of the seed files; the same seed gives the same files."""
    with quietly():
        sources = seed_files(folder)
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        source = sources[number % len(sources)]
        data = source.read_bytes()
        by_form: Callable[[bytes, random.Random], bytes] = (
            safetensors_value
            if source.suffix == ".safetensors"
            else facts_value
            if source.suffix == ".manifest"
            else description
            if source.suffix in EXPORTS
            else archive_pickle
            if data[:2] == b"PK"
            else old_pickles
        )
        is_graph = source.suffix in EXPORTS  # other bytes of it are the runtimes' own to read
        damage = by_form if is_graph or draw.random() < 0.85 else some_bytes
        path = folder / f"case_{number}{source.suffix}"
        path.write_bytes(damage(data, draw))
        if source.suffix == ".xml":
            shutil.copy(source.with_suffix(".bin"), path.with_suffix(".bin"))
        what = f"{source.name}: {damage.__name__} (--seed {seed} --only {number})"
        yield fuzz_reader.Case(number, path, what)


def load(path: Path) -> list[str]:
    """Build the network that the file is of, let it compute, and ask for the proof; what was said on the way."""
    import torch

    from uniformer.checkpoints.load import load_checkpoint, load_model
    from uniformer.checkpoints.save import verify
    from uniformer.errors import InputError

    said = []
    try:
        model, contract, report = load_model(path, head_dim=16)
    except InputError as error:  # a contract may have another
        said.append(str(error))
        model, contract, report = load_model(path)
    said += str(report).splitlines()
    with torch.no_grad():
        model(torch.zeros(1, contract.config.in_chans, *((4,) if contract.config.is_video else ()), 64, 64).to(
            next(model.parameters()).dtype
        ))  # fmt: skip
    load_checkpoint(model, path)
    return said + (verify(path)[1] if contract.proof is not None else [])


def compute(path: Path) -> list[str]:
    """Run an exported network."""
    import numpy as np

    from uniformer.speed.runtimes import open_exported

    open_exported(path)(np.zeros((1, 3, 64, 64), np.float32), 1)
    return []


def read(path: Path) -> list[str]:
    """Open a manifest, and look at all of its rows."""
    from uniformer.datasets.manifest import Manifest

    manifest = Manifest.load(path)
    return [repr((manifest.item_names()[:3], manifest.class_counts().tolist(), manifest.classes))[:200]]


def go_on(path: Path) -> list[str]:
    """Train on from a state."""
    from tests.training_runs import recipe, splits
    from uniformer.training.loop import fit

    out = path.with_suffix("")
    out.mkdir()
    shutil.copy(path, out / "state.pt")
    with quietly():
        fit(recipe(*SHORT), *splits(path.parent / "images"), out=out, device="cpu")
    return []


USES: dict[str, Callable[[Path], list[str]]] = {".manifest": read, ".pt": go_on, ".xml": compute, ".onnx": compute}


def use(path: Path) -> str:
    """What a caller does with a file of its kind."""
    from uniformer.errors import InputError

    said, outcome = [], "computes"
    try:
        said = USES.get(path.suffix, load)(path)
    except InputError as error:
        said.append(str(error))
        outcome = "InputError"
    except Exception as error:
        return f"exception {type(error).__name__}: {error}"[:300]
    odd = [text for text in said if not text.isprintable() or len(text) > 2000]
    return f"bad message: {odd[0]!r}"[:300] if odd else outcome


if __name__ == "__main__":
    sys.exit(fuzz_reader.main(None, __doc__, cases, use, ALLOWED))
