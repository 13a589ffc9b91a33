"""What the items of a data set hold, in 64 bits each: whether one changed, and whether a network learnt from it."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from uniformer.datasets.annotated import AnnotatedSet
from uniformer.datasets.manifest import Manifest
from uniformer.support.files import content_sum

READERS = 8  # files at once: opening them is mostly waiting, on a network more than here
AT_ONCE = 1 << 14  # rows whose paths are at hand: of all, they would take gigabytes


def item_sums(manifest: Manifest | AnnotatedSet, *, with_time: bool = False) -> npt.NDArray[np.uint64]:
    """`content_sum` of the file of every row, (N,), joined with the part in seconds where one is meant; 0: no file."""
    found = np.empty(len(manifest), np.uint64)
    with ThreadPoolExecutor(READERS) as pool:
        for first in range(0, len(manifest), AT_ONCE):
            paths = [manifest.path(row) for row in range(first, min(first + AT_ONCE, len(manifest)))]
            files = dict.fromkeys(paths)  # parts of one file stand together, as a rule
            sums = dict(zip(files, pool.map(partial(content_sum, with_time=with_time), files), strict=True))
            found[first : first + AT_ONCE] = [sums[path] for path in paths]
    if isinstance(manifest, Manifest) and manifest.start is not None and manifest.end is not None:
        for row in np.flatnonzero((found > 0) & ~np.isnan(manifest.start)).tolist():
            part = np.array([found[row], manifest.start[row].view(np.uint64), manifest.end[row].view(np.uint64)])
            found[row] = int.from_bytes(hashlib.blake2b(part.tobytes(), digest_size=8).digest(), "little")
    return found


def map_sums(data: AnnotatedSet) -> npt.NDArray[np.uint64]:
    """`content_sum` of the label map of every picture, (N,); 0: none."""
    names = () if data.maps is None else data.maps.paths
    with ThreadPoolExecutor(READERS) as pool:
        sums = pool.map(lambda name: content_sum(Path(data.root, name)) if name else 0, names)
        return np.fromiter(sums, np.uint64, len(names))
