"""Whether 8-bit integers pay on this processor: exported networks in float32 and quantised after training by NNCF.

pip install 'uniformer[openvino]' nncf
python benchmarks/int8.py                 # speed alone, random weights
python benchmarks/int8.py --data SET      # also the model in the package on SET, made by `data make camera-motion`:
                                          # calibrated on its training clips, accuracy on its test clips
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import machine
import numpy as np
from alternate import Contender, Result, compare
from networks import OURS, Built, Shape, gemm

from uniformer.checkpoints.records import BUNDLED
from uniformer.datasets.open import open_dataset
from uniformer.inference.predictor import Predictor
from uniformer.reading.views import load_views
from uniformer.speed.runtimes import METADATA, import_openvino

NETWORKS = ("small_video 16x224", "xxs_video 16x160", "small 224")
CALIBRATION = 200  # training clips of the model in the package
FORMS = ("float32", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of: {', '.join(OURS)}", default=NETWORKS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--clips", type=int, default=500, help="of the test split (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    under, rows, lines = machine.conditions(threads=args.threads, rounds=args.rounds), {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.networks:
            arch, shape = OURS[name]
            files = write_random(Path(folder, arch), arch, shape)
            measure(name, shape, files, args, rows, lines)
        if args.data is not None:
            files, shape, accuracy = of_the_package(Path(folder), args.data, args.clips)
            measure("the model in the package", shape, files, args, rows, lines, accuracy)
    head = ("network", "form", "seconds", "least to most", "x faster than float32", "x floor", "off by", "top-1, %")
    machine.keep(
        "int8", under, rows, f"OpenVINO, {args.threads} threads, one at a time.\n\n{machine.markdown(head, lines)}"
    )


def measure(
    name: str,
    shape: Shape,
    files: dict[str, Path],
    args: argparse.Namespace,
    rows: dict[str, Any],
    lines: list[list[str]],
    accuracy: dict[str, float] | None = None,
) -> None:
    contenders = [Contender("floor", gemm)]
    contenders += [Contender(form, exported, (str(files["float32"]), str(files[form]), shape)) for form in FORMS]
    floor, *results = compare(contenders, rounds=args.rounds, threads=args.threads)
    rate = floor.facts["macs"] / floor.median
    rows[name] = [result.row() for result in (floor, *results)] + [{"accuracy": accuracy}]
    by_form: dict[str, Result] = {result.name: result for result in results}
    for form, result in by_form.items():
        lines.append([
            name,
            form,
            f"{result.median:.4f}",
            f"{min(result.seconds):.4f} to {max(result.seconds):.4f}",
            f"{by_form['float32'].median / result.median:.2f}",
            f"{result.median * rate / result.facts['macs']:.2f}",
            f"{result.facts['difference']:.1e}",
            "" if accuracy is None else f"{accuracy[form]:.1f}",
        ])  # fmt: skip


def exported(truth: str, path: str, shape: Shape, *, threads: int) -> Built:
    """A network in a file; how far its logits are off those of the float32 one, of the largest."""
    import uniformer
    from uniformer.speed.runtimes import open_exported

    network = open_exported(path, threads=threads)
    x = np.random.default_rng(0).standard_normal((1, *shape), np.float32)
    expected = open_exported(truth, threads=threads)(x, 1)
    off = float(np.abs(network(x, 1) - expected).max() / np.abs(expected).max())
    return lambda: network(x, 1), {
        "macs": uniformer.count_macs(network.contract.config, shape[1:]),
        "difference": off,
    }


def write_random(stem: Path, arch: str, shape: Shape) -> dict[str, Path]:
    """Both forms of a network with random weights, calibrated on noise: good for timing only."""
    import torch

    import uniformer
    from uniformer.checkpoints.contract import Contract
    from uniformer.speed.export import write_graph

    torch.manual_seed(0)
    model = uniformer.create_model(arch).eval()
    files = {form: stem.with_name(f"{stem.name}-{form}.xml") for form in FORMS}
    write_graph(model, shape, files["float32"], Contract(model.config))
    rng = np.random.default_rng(0)
    quantise(files, (rng.standard_normal((1, *shape), np.float32) for _ in range(4)))
    return files


def of_the_package(folder: Path, data: Path, clips: int) -> tuple[dict[str, Path], Shape, dict[str, float]]:
    """Both forms of the model in the package, its input, and its accuracy in each on some test clips, in per cent."""
    from uniformer.checkpoints.load import load_model
    from uniformer.speed.export import export

    model, contract, _ = load_model(BUNDLED)
    files = {form: folder / f"package-{form}.xml" for form in FORMS}
    export(model, contract, files["float32"])
    training = list(views(Predictor(files["float32"]), data / "train", CALIBRATION))
    quantise(files, (pixels for pixels, _ in training))
    accuracy = {}
    for form in FORMS:
        predictor = Predictor(files[form])
        right = [
            int(predictor.logits(pixels).argmax()) == label for pixels, label in views(predictor, data / "test", clips)
        ]
        accuracy[form] = 100 * float(np.mean(right))
    return files, training[0][0].shape[1:], accuracy


def views(predictor: Predictor, folder: Path, count: int) -> Iterator[tuple[Any, int]]:
    """Pixels (1, C, T, h, w) and label of `count` whole clips, evenly over the folder."""
    manifest = open_dataset(folder)
    names = list(predictor.contract.classes)
    for row in np.linspace(0, len(manifest) - 1, count).astype(int):
        item = manifest[row]
        yield load_views(item.path, predictor.contract.input).array, names.index(manifest.classes[item.labels[0]])


def quantise(files: dict[str, Path], inputs: Iterable[Any]) -> None:
    """float32 -> int8, with what NNCF recommends for attention."""
    openvino = import_openvino("quantising")
    import nncf

    network = openvino.Core().read_model(files["float32"])
    inputs = list(islice(inputs, CALIBRATION))
    smaller = nncf.quantize(
        network, nncf.Dataset(inputs), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(inputs)
    )
    smaller.set_rt_info(network.get_rt_info([METADATA]).value, [METADATA])
    openvino.save_model(smaller, files["int8"], compress_to_fp16=False)


if __name__ == "__main__":
    main()
