"""A set to learn which photograph a part is of: real pictures whose classes nobody has to name.

python experiments/photo_parts.py PHOTOS OUT [--train N] [--val N]
uniformer train experiments/recipes/photo_parts.toml data.train=OUT/train data.val=OUT/val --out RUN

PHOTOS holds photographs, such as those of `camera_motion_photos.py`: a class each. Parts are squares of a fifth to
three fifths of the shorter side, anywhere; those of `val` are other ones than those of `train`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from uniformer.reading.pictures import open_picture

SIDE = 128  # pixels of a part
SHARES = (0.2, 0.6)  # of the shorter side of the photograph


def cut(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = rng.uniform(*SHARES) * min(photo.size)
    x, y = (rng.uniform(0, length - side) for length in photo.size)
    return photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(x, y, x + side, y + side), reducing_gap=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=40, help="parts of each photograph (default: 40)")
    parser.add_argument("--val", type=int, default=4)
    args = parser.parse_args()
    paths = sorted(path for path in args.photos.iterdir() if path.suffix in (".jpg", ".jpeg", ".png", ".webp"))
    for number, path in enumerate(paths):
        rng = np.random.default_rng(number)
        with open_picture(path) as photo:
            whole = photo.convert("RGB")
        for split, count in (("train", args.train), ("val", args.val)):
            folder = args.out / split / path.stem
            folder.mkdir(parents=True, exist_ok=True)
            for k in range(count):
                cut(whole, rng).save(folder / f"{k:03}.jpg", quality=92)
    print(f"{len(paths)} photographs, {len(paths) * args.train} parts to learn from, {len(paths) * args.val} others")


if __name__ == "__main__":
    main()
