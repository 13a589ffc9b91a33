"""Time and memory to read annotations of COCO's size, from a file that is made for it.

python benchmarks/annotations.py                 # all of COCO's training set: 500 MB on the disk, for a minute
python benchmarks/annotations.py --share 0.1
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.memory import peak_kilobytes
from uniformer.datasets.annotated import open_annotated

PICTURES, INSTANCES, CLASSES = 118_287, 860_001, 80


def write(path: Path, share: float) -> None:
    """`instances_train2017.json` with so much of COCO's pictures and instances; polygons have 8 to 44 points."""
    rng, pictures = np.random.default_rng(0), round(PICTURES * share)

    def instance(number: int) -> dict[str, object]:
        x, y, w, h = rng.uniform((0, 0, 5, 5), (400, 300, 200, 150)).round(2).tolist()
        polygon = (rng.random((int(rng.integers(8, 45)), 2)) * (w, h) + (x, y)).round(2).reshape(-1).tolist()
        place = {"image_id": int(rng.integers(pictures)), "category_id": int(rng.integers(1, CLASSES + 1))}
        shape = {"segmentation": [polygon], "area": round(w * h / 2, 3), "bbox": [x, y, w, h], "iscrowd": 0}
        return {"id": number, **place, **shape}

    tables: dict[str, Iterable[object]] = {
        "images": ({"id": i, "file_name": f"{i:012}.jpg", "height": 480, "width": 640} for i in range(pictures)),
        "annotations": map(instance, range(round(INSTANCES * share))),
        "categories": ({"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)),
    }
    with path.open("w") as file:
        for number, (name, entries) in enumerate(tables.items()):
            file.write(f'{"," if number else "{"} "{name}": [')
            for place, entry in enumerate(entries):
                file.write(("," if place else "") + json.dumps(entry))
            file.write("]")
        file.write("}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of COCO's training set (default: 1)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "instances_train2017.json")
        write(path, parser.parse_args().share)
        Path(folder, f"{0:012}.jpg").touch()  # one picture has to be there
        before, began = peak_kilobytes(), time.process_time()
        data = open_annotated(path)
        seconds, peak = time.process_time() - began, peak_kilobytes()
        print(f"{path.stat().st_size / 1e6:.0f} MB; {len(data)} pictures, {len(data.labels)} instances")
        print(f"{seconds:.1f} s of a processor, at most {peak / 1e3:.0f} MB, {before / 1e3:.0f} MB of it before")


if __name__ == "__main__":
    main()
