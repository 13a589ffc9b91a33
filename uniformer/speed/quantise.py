"""Networks in 8-bit integers: exported ones, quantised after training on clips or images of one's own, and their price.

OpenVINO's are made by NNCF, ONNX Runtime's by its own quantiser: layers with weights, channel by channel; attention's
own products stay in float32. A network is kept only if it is faster here than in float32, and if its score on items
that it was not calibrated on is lower by no more than is allowed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from uniformer.checkpoints.contract import Contract
from uniformer.datasets.manifest import Item, Manifest
from uniformer.datasets.open import open_for_training
from uniformer.errors import InputError, MissingExtra, counted, first_line
from uniformer.reading.transforms import Floats
from uniformer.reading.views import load_views
from uniformer.speed.export import Conv3d, folder_for, put_in_place, save_openvino, write_checked
from uniformer.speed.runtimes import (
    METADATA,
    TARGETS,
    Exported,
    core_of,
    form_of,
    import_onnxruntime,
    import_openvino,
    open_exported,
    without_telemetry,
)
from uniformer.speed.timings import in_turn, version_of, view_size
from uniformer.support.files import StrPath, content_sum
from uniformer.tasks.classification import ClassMetric

if TYPE_CHECKING:
    from uniformer.network.model import UniFormer
    from uniformer.tasks.scores import Scores

CALIBRATED_ON = 200  #: items at most; NNCF's own 300 change little
LEAST = 50  #: items, whatever memory they take
MEMORY = 1 << 30  #: bytes that more of them may take
HELD_OUT = 200  #: items at most: one is half a point then
MAX_LOSS = 0.5  #: points of the score
TOGETHER = 0.02  #: of the largest logit, that an answer may depend on its neighbours: roundings that tip over, no more
VIEWS = 8  #: of an item, at most so many at a time, as `predict` has it
FORMS = ("float32", "int8")
ROUNDS = 20  #: in which both forms are timed
DETAILS = "int8"  #: under which the receipt lies in the contract of the file


@dataclass(frozen=True)
class Int8Receipt:
    """What a network in 8 bits was found to be; in its file it lies in the contract's `details`, under "int8"."""

    target: str  #: the runtime's name
    calibrated_on: int  #: items, one view of each
    calibration: str  #: what tells these items, and what quantised, from others
    held_out: int  #: items that were judged by, of other files
    left_out: int  #: items that could not be read
    measure: str  #: of the scores: "top1", or "map" where items have several labels
    score: float  #: on the items held out, a share
    score_float32: float  #: the same of the network in float32, by the same runtime
    agreement: float  #: the share of items held out whose best class is the same in both
    gap: float  #: the largest difference of a logit, as a share of the largest logit
    together: float  #: the same between a view's logits alone and among others
    seconds: float  #: of all views of an item, here: the least of some rounds in turn
    seconds_float32: float
    versions: Mapping[str, str]

    @property
    def loss(self) -> float:
        """Points of the score."""
        return 100 * (self.score_float32 - self.score)

    def __str__(self) -> str:
        shares = f"{self.measure} {100 * self.score:.1f} % of {counted(self.held_out, 'item')} held out"
        same = f"({100 * self.score_float32:.1f} in float32; the same best class in {100 * self.agreement:.1f} %)"
        times = f"{1e3 * self.seconds:.2f} ms an item ({1e3 * self.seconds_float32:.2f})"
        return f"{shares} {same}, {times}, calibrated on {counted(self.calibrated_on, 'item')}"


class NotKept(InputError):
    """A network in 8 bits that is too slow here, or loses too much."""


def export_int8(
    model: UniFormer,
    contract: Contract,
    out: StrPath,
    data: StrPath | Samples,
    *,
    conv3d: Conv3d | None = None,
    max_loss: float | None = None,
    even_slower: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Int8Receipt:
    """Write a classifier in 8 bits to `out`, .xml for OpenVINO or .onnx for ONNX Runtime.

    `data`: what it is calibrated on and judged by, as `Samples.of` takes it. `max_loss`: points of top-1 accuracy (or
    mean average precision) that it may lose against float32 on the items held out, by default 0.5. `even_slower` keeps
    it where it is not faster here: for another machine. `conv3d` as in `export`. `say` is told what takes long and what
    was left out.
    Raises `NotKept` where it is slower or loses more, `InputError` as `export` and `Samples.of`, `MissingExtra` without
    the packages. Nothing is left at `out` then.
    """
    out = Path(out)
    form = _quantisable(out)
    with folder_for(out) as folder:
        samples = data if isinstance(data, Samples) else Samples.of(contract, data, say=say)
        exact, small, final = (folder / f"{name}{form}" for name in (*FORMS, "network"))
        write_checked(model, view_size(model.config, contract.input_of_classifier()), exact, contract, conv3d)
        say(f"calibrating on {counted(len(samples.views), 'item')}: up to some minutes")
        quantise(exact, small, samples.views)
        receipt = _judged(exact, small, samples, contract, say)
        _check(receipt, out, MAX_LOSS if max_loss is None else max_loss, even_slower)
        WAYS[form].describe(small, final, replace(contract, details={**contract.details, DETAILS: asdict(receipt)}))
        put_in_place(final, out)
    return receipt


def _quantisable(out: Path) -> str:
    """The form of a name. Raises `InputError` where it has no 8 bits here, `MissingExtra` without the packages."""
    if (form := form_of(out)) not in WAYS:
        raise InputError(f"{out}: expected the name of a network in 8 bits, which ends in {' or '.join(WAYS)}")
    WAYS[form].packages(f"writing {form} files in 8 bits")
    return form


def _check(receipt: Int8Receipt, out: Path, max_loss: float, even_slower: bool) -> None:
    if not math.isfinite(receipt.gap):
        raise NotKept(f"{out}: expected finite logits in 8 bits, got NaN or infinity")
    if not receipt.together <= TOGETHER:
        raise NotKept(
            f"{out}: expected a view's logits to be the same among others, they are off by {receipt.together:.1e}"
        )
    if not receipt.loss <= max_loss:  # also where there is no score
        lost = f"lost {receipt.loss:.2f}: {receipt}"
        raise NotKept(f"{out}: expected to lose at most {max_loss:g} points by 8 bits, {lost}")
    if receipt.seconds >= receipt.seconds_float32 and not even_slower:
        raise NotKept(f"{out}: expected 8 bits to be faster than float32 here, they are not: {receipt}")


# ---- what it is calibrated on, and judged by -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Samples:
    """Views to calibrate on, and items to judge by; no recording is in both."""

    views: Sequence[Floats]  #: (1, C, [T,] H, W), one of each item: of several views each in turn
    held_out: Manifest  #: whose labels are rows of the classifier
    calibration: str  #: what tells the items calibrated on, and the packages, from others
    left_out: int  #: items to calibrate on that could not be read

    @classmethod
    def of(
        cls, contract: Contract, data: StrPath, *, held_out: int = HELD_OUT, say: Callable[[str], None] = lambda _: None
    ) -> Samples:
        """From what `open_dataset` takes: the training split to calibrate on, of the validation split (else the test
        split) to judge by; of one set some rows for each. Which rows is always the same.

        As many to calibrate on as `CALIBRATED_ON`, or as fit into `MEMORY`, but `LEAST`. Raises `InputError` where the
        network has no described input, classes do not match, or nothing is left for one of the two.
        """
        spec = contract.input_of_classifier()
        train, val, _ = open_for_training(data)
        of = ClassMetric(contract, val or train, label_order="names").manifest
        most = max(LEAST, min(CALIBRATED_ON, MEMORY // (4 * math.prod(view_size(contract.config, spec)))))
        rows = _drawn(train, most if val is not None else min(most, (len(train) + 1) // 2))
        taken = {mark for row in rows for mark in _recording(train[row])}
        judged_by = of.select(_drawn(of, held_out, taken))
        if not len(judged_by):
            raise InputError(f"{data}: expected items to hold out that the network is not calibrated on, found none")
        views, total, wrong = list[Floats](), hashlib.sha256(_versions().encode()), list[str]()
        for place, item in enumerate(train[row] for row in rows):
            array = _read(item, contract, wrong)
            if array is not None:
                number = place % len(array)
                views.append(array[number : number + 1])
                total.update(f"{content_sum(item.path)} {item.span} {number}\n".encode())
        if not views:
            raise InputError(f"{data}: expected items to calibrate on, could read none of {len(rows)}: {wrong[0]}")
        _tell(wrong, say)
        return cls(views, judged_by, total.hexdigest()[:12], len(wrong))


def _drawn(manifest: Manifest, count: int, taken: Set[str] = frozenset()) -> list[int]:
    """So many rows, in an order that is always the same, of recordings that are not `taken`."""
    rows = list[int]()
    for row in np.random.default_rng(0).permutation(len(manifest)).tolist():
        if len(rows) == count:
            break
        if not taken & _recording(manifest[row]):
            rows.append(row)
    return rows


def _recording(item: Item) -> set[str]:
    """What an item shares with others that were cut from the same: file, content, group."""
    marks = {os.path.realpath(item.path)}
    if total := content_sum(item.path):
        marks.add(f"content {total}")
    if item.group:
        marks.add(f"group {item.group}")
    return marks


def _read(item: Item, contract: Contract, wrong: list[str]) -> Floats | None:
    """The views of an item, (V, C, [T,] H, W); None where it cannot be read, which `wrong` is told."""
    try:
        return load_views(item.path, contract.input_of_classifier(), span=item.span).array
    except InputError as error:
        wrong.append(str(error))
    except Exception as error:  # a decoder's own: of this item, not of the run
        wrong.append(f"{item.path}: cannot be read: {type(error).__name__}: {first_line(error)}")
    return None


def _tell(wrong: Sequence[str], say: Callable[[str], None]) -> None:
    if wrong:
        say(f"left out: {counted(len(wrong), 'item')} that cannot be read, such as {wrong[0]}")


def _versions() -> str:
    return json.dumps({name: version_of(name) for name in ("nncf", "openvino", "onnxruntime")})


def _judged(exact: Path, small: Path, samples: Samples, contract: Contract, say: Callable[[str], None]) -> Int8Receipt:
    """Both networks, as their runtime computes them here, on the items held out, and their times in turn."""
    networks = [open_exported(path) for path in (exact, small)]
    answers, rows, wrong = list[list[Floats]](), list[int](), list[str]()
    for row, item in enumerate(samples.held_out):
        views = _read(item, contract, wrong)
        if views is not None:
            rows.append(row)
            last = views
            answers.append([network(views, VIEWS) for network in networks])
    if not rows:
        raise InputError(f"expected items to judge 8 bits by, could read none of {len(samples.held_out)}: {wrong[0]}")
    _tell(wrong, say)
    of_exact, of_small = ([pair[k] for pair in answers] for k in range(2))
    metric = ClassMetric(contract, samples.held_out.select(rows))
    true, found = _scores(metric, of_exact), _scores(metric, of_small)
    measure, target = metric.measures[0], TARGETS[form_of(small)]
    runs = {name: partial(network, last, VIEWS) for name, network in zip(FORMS, networks, strict=True)}
    times_float32, times = in_turn(runs, ROUNDS).values()
    return Int8Receipt(
        target=target.name,
        calibrated_on=len(samples.views),
        calibration=samples.calibration,
        held_out=len(rows),
        left_out=samples.left_out + len(wrong),
        measure=measure,
        score=float(found.metrics()[measure]),
        score_float32=float(true.metrics()[measure]),
        agreement=float((found.probabilities.argmax(1) == true.probabilities.argmax(1)).mean()),
        gap=_apart(np.concatenate(of_small), np.concatenate(of_exact)),
        together=_together(networks[1], samples.views[:4]),
        seconds=min(times),  # beside other work the least says most
        seconds_float32=min(times_float32),
        versions={name: version_of(name) for name in ("torch", *target.packages, *WAYS[form_of(small)].quantiser)},
    )


def _scores(metric: ClassMetric, logits: Sequence[Floats]) -> Scores:
    """Of the views of each item, (V, K)."""
    rows = [metric.row(item, (of_item,)) for item, of_item in enumerate(logits)]
    return metric.result(np.array(rows, metric.dtype), {})


def _apart(found: Floats, true: Floats) -> float:
    """The largest difference, as a share of the largest value."""
    return float(np.abs(found - true).max() / np.abs(true).max())


def _together(network: Exported, views: Sequence[Floats]) -> float:
    """How much a view's logits depend on those beside it. OpenVINO 2026.4 gives garbage for several at once, on a
    processor with AVX512-VNNI, where NNCF took the network for a transformer."""
    alone = np.concatenate([network(view, 1) for view in views])
    return _apart(network(np.concatenate(views), len(views)), alone)


# ---- one quantiser for each runtime ----------------------------------------------------------------------------------


def quantise(exact: Path, small: Path, views: Sequence[Floats]) -> None:
    """An exported network in float32, .xml or .onnx, as one in 8 bits at another name; with the same contract.

    `views`: (1, C, [T,] H, W) each, to calibrate on. Raises `MissingExtra` without the packages.
    """
    shape = open_exported(exact).shape
    WAYS[form_of(exact)].quantise(exact, small, [view.reshape(1, *shape) for view in views])


def _by_nncf(exact: Path, small: Path, views: Sequence[Floats]) -> None:
    openvino, nncf = import_openvino("quantising"), import_nncf("quantising")
    network = core_of(openvino).read_model(exact)
    with _quiet():
        made = nncf.quantize(network, nncf.Dataset(views), subset_size=len(views))
    made.set_rt_info(network.get_rt_info([METADATA]).value, [METADATA])
    save_openvino(made, small)


def _describe_openvino(path: Path, final: Path, contract: Contract) -> None:
    openvino = import_openvino("quantising")
    network = core_of(openvino).read_model(path)
    network.set_rt_info(contract.to_json(), [METADATA])
    save_openvino(network, final)


class _Reader:
    """Views as ONNX Runtime's calibration takes them."""

    def __init__(self, name: str, views: Sequence[Floats]):
        self._name, self._views = name, iter(views)

    def get_next(self) -> dict[str, Floats] | None:
        view = next(self._views, None)
        return None if view is None else {self._name: view}


def _by_onnxruntime(exact: Path, small: Path, views: Sequence[Floats]) -> None:
    """Layers with weights in 8 bits, channel by channel; products of attention stay, whose time that does not spare."""
    import_onnxruntime("quantising")
    import onnx
    from onnxruntime.quantization import QuantType, quant_pre_process, quantize_static

    prepared = small.with_stem(f"{small.stem}-prepared")
    quant_pre_process(exact, prepared, skip_symbolic_shape=True)
    graph = onnx.load(prepared).graph
    weights = {tensor.name for tensor in graph.initializer}
    quantize_static(
        prepared,
        small,
        _Reader(graph.input[0].name, views),
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        nodes_to_exclude=[node.name for node in graph.node if not weights.intersection(node.input)],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()


def _describe_onnx(path: Path, final: Path, contract: Contract) -> None:
    import onnx

    network = onnx.load(path)
    onnx.helper.set_model_props(network, {METADATA: contract.to_json()})
    onnx.save(network, final)


def _needs_nncf(purpose: str) -> None:
    import_openvino(purpose)
    import_nncf(purpose)


def _needs_onnx(purpose: str) -> None:
    import_onnxruntime(purpose)
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise MissingExtra("onnx", "onnx", purpose) from None


@dataclass(frozen=True)
class Way:
    """How networks of a runtime are made in 8 bits."""

    quantiser: tuple[str, ...]  #: packages, beside the runtime's
    packages: Callable[[str], None]  #: raises `MissingExtra` where they are not there
    quantise: Callable[[Path, Path, Sequence[Floats]], None]
    describe: Callable[[Path, Path, Contract], None]  #: the same network under another name, with another contract


WAYS: Mapping[str, Way] = {
    ".xml": Way(("nncf",), _needs_nncf, _by_nncf, _describe_openvino),
    ".onnx": Way((), _needs_onnx, _by_onnxruntime, _describe_onnx),
}


def import_nncf(purpose: str) -> Any:
    """NNCF without its telemetry, which reports its use to a server; and the process's class of loggers as it was."""
    kind = logging.getLoggerClass()
    try:
        with without_telemetry():
            import nncf
    except ImportError:
        raise MissingExtra("nncf", "int8", purpose) from None
    finally:
        logging.setLoggerClass(kind)
    return nncf


@contextmanager
def _quiet() -> Iterator[None]:
    """NNCF's lines and bars go to the output otherwise, where answers are."""
    import rich

    console, logger = rich.get_console(), logging.getLogger("nncf")
    before = console.quiet, logger.level
    console.quiet = True
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        console.quiet = before[0]
        logger.setLevel(before[1])
