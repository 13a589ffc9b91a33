"""A .pth file read as data: tensors, containers, numbers and text. Nothing that it names is run.

torch's own careful reader (`weights_only=True`) lets a file call C with any arguments, which can end the process, and
its list of further names belongs to the whole process. Here each name stands for a function of this module, which looks
at its arguments, or for `Inert`; what is unknown is refused. The file: a zip archive with the pickle and a record for
each storage or, before torch 1.6, several pickles with the storages' bytes after them.
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, Any, ClassVar

import torch
from torch import Tensor

from uniformer.errors import InputError, first_line, shown

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # how files begin that are no archives


@dataclass(frozen=True)
class Inert:
    """Stands for an object of another library, nothing of which was built."""

    name: str


class OddTensor(Inert):
    """Stands for a tensor that is not a plain one, with a number of its own at each place; `name` says what it is."""


class _Refused(Exception):
    """The file wants something that is not known to be harmless."""


@dataclass(frozen=True, eq=False)
class _Named:
    """What a name in the file stands for: all that can be done with it is to call `make`."""

    make: Callable[..., Any]


@dataclass(frozen=True, eq=False)
class _Storage:
    flat: Tensor  # (N,)


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """What torch.save wrote: dicts, lists and tuples of tensors, numbers and text, and `Inert` for all else.

    Raises `InputError` for a file of another kind, a damaged one, and one that names what could run code.
    """
    try:
        with open(path, "rb") as f:
            is_archive = f.read(4) == b"PK\3\4"
            f.seek(0)
            return _read_archive(f) if is_archive else _read_legacy(f)
    except _Refused as refused:
        raise InputError(
            f"refused {path}: beside tensors it holds {shown(refused)}, and loading that would let the file run code. "
            "Expected a file of tensors only: save just its state dict, where you trust it, and load that"
        ) from None
    except Exception as error:  # of damaged files any: struct, index, key, unicode and memory errors among them
        told = isinstance(error, OSError | ValueError | RuntimeError | zipfile.BadZipFile)
        reason = f" ({first_line(error)})" if told else ""
        raise InputError(
            f"{path} is no checkpoint, or a damaged one: expected tensors saved by torch or safetensors{reason}"
        ) from None


# ---- containers ------------------------------------------------------------------------------------------------------


class _Budget:
    """Memory for storages: no more of it than the file has bytes, whatever it says."""

    def __init__(self, f: IO[bytes]):
        self.left = os.fstat(f.fileno()).st_size

    def take(self, size: int) -> Tensor:
        self.left -= size
        if size < 0 or self.left < 0:
            raise ValueError("it has fewer bytes than it says")
        return torch.empty(size, dtype=torch.uint8)


def _read_archive(f: IO[bytes]) -> Any:
    budget, flats = _Budget(f), dict[str, Tensor]()
    with zipfile.ZipFile(f) as archive:
        records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if "constants.pkl" in records:
            raise ValueError("a TorchScript program: save the state dict of what was scripted")

        def read(name: str) -> Tensor:
            if records[name].compress_type != zipfile.ZIP_STORED:
                raise ValueError("its records are compressed")
            flat = budget.take(records[name].file_size)
            with archive.open(records[name]) as record:
                _fill(flat, record)
            return flat

        def text(name: str) -> bytes:
            return read(name).numpy().tobytes() if name in records else b""

        swapped = text("byteorder") == b"big"

        def storage(dtype: torch.dtype, key: str, location: Any, count: int) -> Tensor:
            if key not in flats:
                flats[key] = read(f"data/{key}")
                if swapped:
                    flats[key] = flats[key].view(-1, dtype.itemsize // (2 if dtype.is_complex else 1)).flip(1).flatten()
            return _typed(flats[key], dtype, count)

        return _Unpickler(io.BytesIO(text("data.pkl")), storage).load()


def _read_legacy(f: IO[bytes]) -> Any:
    budget, flats, sizes = _Budget(f), dict[str, Tensor](), dict[str, int]()

    def storage(dtype: torch.dtype, key: str, location: Any, count: int, view: Any) -> Tensor:
        if key not in flats:  # its bytes come after all pickles
            flats[key], sizes[key] = budget.take(count * dtype.itemsize), dtype.itemsize
        flat = _typed(flats[key], dtype, count)
        return flat if view is None else flat.narrow(0, view[1], view[2])

    bounded = _Bounded(f, budget.left)
    if [_Unpickler(bounded).load() for _ in range(2)] != [_MAGIC, _PROTOCOL]:
        raise pickle.UnpicklingError
    _Unpickler(bounded).load()  # of the system that wrote it
    result = _Unpickler(bounded, storage).load()
    for key in map(_text, _Unpickler(bounded).load()):
        if int.from_bytes(f.read(8), "little") * sizes.pop(key) != len(flats[key]):
            raise ValueError("a storage of another size than it says")
        _fill(flats[key], f)
    if sizes:
        raise EOFError
    return result


def _typed(flat: Tensor, dtype: torch.dtype, count: int) -> Tensor:
    if type(count) is not int or count * dtype.itemsize != len(flat):
        raise ValueError("a storage of another size than it says")
    return flat.view(dtype)


def _text(key: Any) -> str:
    if type(key) is not str:
        raise pickle.UnpicklingError
    return key


def _fill(flat: Tensor, stream: Any) -> None:
    rest = memoryview(flat.numpy())  # type: ignore[arg-type]
    while rest:
        read = stream.readinto(rest[: 1 << 24])
        if not read:
            raise EOFError
        rest = rest[read:]


class _Bounded:
    """A file from which nobody gets memory for more than there is."""

    def __init__(self, f: IO[bytes], size: int):
        self._f, self._size, self.readline = f, size, f.readline

    def read(self, count: int) -> bytes:
        if count > 1 << 12 and count > self._size - self._f.tell():
            raise EOFError
        return self._f.read(count)


# ---- the pickle ------------------------------------------------------------------------------------------------------

# What Python's reader may do by itself: make numbers, text and containers, and keep them for later.
_PLAIN = (
    "PROTO STOP FRAME MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINSTRING "
    "SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BINUNICODE SHORT_BINUNICODE BINUNICODE8 EMPTY_LIST EMPTY_DICT "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL BINPERSID"
)
_KEYS = (str, int, float, bool, bytes, type(None))  # hashing nested tuples can overflow the stack of C
_InPython: Any = pickle._Unpickler  # the one that is not written in C


class _Unpickler(_InPython):
    """Runs a pickle whose only calls are those of `_Named.make`, and whose containers are plain ones."""

    dispatch: ClassVar[dict[int, Any]] = {
        getattr(pickle, name)[0]: _InPython.dispatch[getattr(pickle, name)[0]] for name in _PLAIN.split(" ")
    }

    def __init__(self, f: Any, storage: Callable[..., Any] | None = None):
        super().__init__(f, encoding="latin1")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        return _meaning(module, name)

    def persistent_load(self, pid: Any) -> Any:
        if self._storage is None or type(pid) is not tuple or len(pid) < 3 or pid[0] != "storage":
            raise pickle.UnpicklingError
        if not isinstance(pid[1], torch.dtype):
            return Inert("a storage")  # of quantised numbers, for one
        return _Storage(self._storage(pid[1], _text(pid[2]), *pid[3:]))

    def _reduce(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        if type(function) is not _Named or type(args) is not tuple:
            raise pickle.UnpicklingError
        self.append(function.make(*args))

    def _build(self) -> None:  # attributes of objects that are not built
        self.stack.pop()
        if not isinstance(self.stack[-1], Inert | dict):
            raise pickle.UnpicklingError

    def _append(self) -> None:
        self._extend([self.stack.pop()])

    def _appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is list:
            self.stack[-1].extend(items)
        elif not isinstance(self.stack[-1], Inert):
            raise pickle.UnpicklingError

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([(key, value)])

    def _setitems(self) -> None:
        items = self.pop_mark()
        self._update(zip(items[::2], items[1::2], strict=True))

    def _update(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        if type(self.stack[-1]) is dict:
            self.stack[-1].update(_checked(pairs))
        elif not isinstance(self.stack[-1], Inert):
            raise pickle.UnpicklingError


_Unpickler.dispatch |= {
    pickle.REDUCE[0]: _Unpickler._reduce,
    pickle.NEWOBJ[0]: _Unpickler._reduce,
    pickle.BUILD[0]: _Unpickler._build,
    pickle.APPEND[0]: _Unpickler._append,
    pickle.APPENDS[0]: _Unpickler._appends,
    pickle.SETITEM[0]: _Unpickler._setitem,
    pickle.SETITEMS[0]: _Unpickler._setitems,
}


# ---- names -----------------------------------------------------------------------------------------------------------


def _checked(pairs: Iterable[Any]) -> dict[Any, Any]:
    made = {}
    for key, value in pairs:
        if type(key) not in _KEYS:
            raise pickle.UnpicklingError
        made[key] = value
    return made


def _dict(pairs: Any = None) -> dict[Any, Any]:
    """Takes what it is given and copies nothing twice: a file may hand over the same list any number of times."""
    if type(pairs) is dict:
        return pairs
    made = _checked(pairs or ())
    if type(pairs) is list:
        pairs.clear()
    return made


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any = False, hooks: Any = None, view: Any = None
) -> Any:
    """A tensor over a storage, all of whose places must lie in it. `view`: marks of complex and negated views."""
    if type(storage) is not _Storage:
        return OddTensor("a tensor of another library's storage")
    flat, is_shape = storage.flat, len(size) == len(stride) <= 16
    if not is_shape or not all(type(n) is int and 0 <= n < 1 << 63 for n in (offset, *size, *stride)):
        raise ValueError("a tensor whose shape is none")
    if all(size) and offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= len(flat):
        raise ValueError("a tensor that reaches beyond its data")
    if view:
        return OddTensor("a conjugated or negated view")
    if shares_memory(size, stride):
        return OddTensor("a tensor whose elements share memory")
    return flat.as_strided(size, stride, flat.storage_offset() + offset)


def shares_memory(size: Iterable[int], stride: Iterable[int]) -> bool:
    """Whether two places of a tensor may be the same number: a stride of 0, or steps within one another."""
    reach = 0
    for step, n in sorted((step, n) for n, step in zip(size, stride, strict=True) if n != 1):
        if step <= reach and n > 1:
            return True
        reach += step * (n - 1)
    return False


def _tensor_of_bytes(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, view: Any = None
) -> Any:
    """Of a type that has no kind of storage to itself."""
    if type(storage) is not _Storage or not isinstance(dtype, torch.dtype):
        return OddTensor("a tensor of another library's storage")
    return _tensor(_Storage(storage.flat.view(dtype)), offset, size, stride, view=view)


def _first(data: Any, *more: Any) -> Any:
    return data


def _from_type(function: Any, kind: Any, args: Any, state: Any = None) -> Any:
    """A tensor with attributes, which are left out."""
    if type(function) is not _Named or type(args) is not tuple:
        raise pickle.UnpicklingError
    return function.make(*args)


_DTYPES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexDouble": torch.complex128, "ComplexFloat": torch.complex64, "Untyped": torch.uint8,
}  # fmt: skip
_MADE: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_bytes,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.nn.parameter.Parameter": _first,
    "torch.nn.parameter.Buffer": _first,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.Size": lambda size=(): size,
    "collections.OrderedDict": _dict,
    "collections.Counter": _dict,
    "collections.defaultdict": lambda kind=None, pairs=None: _dict(pairs),
}
# What training scripts put beside their weights: settings, scores, paths, the trainer's own counters.
_INERT = (
    "argparse.Namespace", "_codecs.encode", "datetime.", "enum.", "pathlib.", "types.SimpleNamespace",
    *(f"builtins.{name}" for name in ("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "getattr",
                                      "int", "list", "object", "set", "slice", "str", "tuple")),
    "collections.", "copyreg._reconstructor", "typing.", "uuid.UUID",
    "torch.device", "torch.layout", "torch.serialization._get_layout", "torch.torch_version.TorchVersion",
    "torch.per_", "torch.QInt", "torch.QUInt",
    "numpy.", "mmengine.", "mmcv.", "addict.", "easydict.", "fvcore.", "omegaconf.", "yacs.", "lightning.",
    "lightning_fabric.", "lightning_utilities.", "pytorch_lightning.", "timm.",
)  # fmt: skip
_OLD_MODULES = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "UserDict": "collections",
    "torch.tensor": "torch._tensor",
}


def _meaning(module: str, name: str) -> Any:
    """What stands for a name. Raises `_Refused` for one that is not known to be harmless."""
    module = _OLD_MODULES.get(module, module)
    path = f"{module}.{name}"
    if path in _MADE:
        return _Named(_MADE[path])
    if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
        return vars(torch)[name]
    if module in ("torch", "torch.cuda", "torch.storage") and name.removesuffix("Storage") in _DTYPES:
        return _DTYPES[name.removesuffix("Storage")]
    if path.startswith("torch._utils._rebuild_"):
        return _Named(lambda *args: OddTensor(f"a {name.removeprefix('_rebuild_').replace('_', ' ')}"))
    if path.startswith(_INERT):
        return _Named(lambda *args: Inert(path))
    if not all(part.isidentifier() for part in path.split(".")):  # what is left of a name in a damaged file
        raise pickle.UnpicklingError
    raise _Refused(path)
