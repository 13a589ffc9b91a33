"""Layouts that are unmistakable by their files: UCF101, HMDB51, folders of the `datasets` library."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from uniformer.datasets.columns import meanings
from uniformer.datasets.layouts import (
    Listing,
    OpenOptions,
    by_split,
    choose,
    is_part,
    nearby,
    one_set,
    only_one,
    split_of,
    subfolders,
    visible,
)
from uniformer.datasets.records import class_names, text_of
from uniformer.datasets.tables import ListRow, group_of, read_rows, row_of
from uniformer.errors import InputError, first_line, load_extra, shown

# ----------------------------------------------------------------------------------------------------- UCF101, HMDB51


def ucf101(path: Path, options: OpenOptions) -> Listing | None:
    """`trainlist01.txt` ('Class/v_Class_g08_c01.avi 1') and `testlist01.txt` (no label), or their folder."""
    file = path
    if path.is_dir():
        if not (path / f"trainlist{options.fold:02d}.txt").is_file():
            return None
        file = path / f"{choose(options.split, ('train', 'test'), path)}list{options.fold:02d}.txt"
    elif not re.fullmatch(r"(train|test)list\d\d\.txt", path.name):
        return None
    lines = [line.split()[0] for line in _lines(file)]
    if not all(re.fullmatch(r"[^/]+/v_.+_g\d+_c\d+\.\w+", line) for line in lines):
        return None
    if path.is_file() and not is_part(path.name.partition("list")[0], options.split):
        raise one_set(path, options.split)
    index = file.parent / "classInd.txt"
    names = tuple(line.split(None, 1)[-1] for line in _lines(index)) if index.is_file() else None

    def rows() -> Iterator[ListRow]:
        for number, line in enumerate(lines, 1):
            yield ListRow(f"{file}, line {number}", line, (line.split("/")[0],), group=group_of(line))

    return Listing(
        origin=f"UCF101 {file.name}",
        rows=rows,
        roots=nearby(file),
        forms=("{path}", "{stem}"),
        classes=names,
        named_like=("UCF101",),
    )


def hmdb51(path: Path, options: OpenOptions) -> Listing | None:
    """A folder of `<class>_test_split1.txt` files, '<clip>.avi 1': 1 is for training, 2 for testing, 0 unused."""
    if not path.is_dir():
        return None
    ending = f"_test_split{options.fold}.txt"
    files = [p for p in visible(path) if p.name.endswith(ending)]
    if not files:
        return None
    flag = {"train": "1", "test": "2"}[choose(options.split, ("train", "test"), path)]

    def rows() -> Iterator[ListRow]:
        for file in files:
            label = file.name.removesuffix(ending)
            for number, line in enumerate(_lines(file), 1):
                clip, _, mark = line.rpartition(" ")
                if mark not in ("0", "1", "2") or not clip:
                    raise InputError(f"{file}, line {number}: expected '<clip> <0, 1 or 2>', found {shown(line)!r}")
                if mark == flag:
                    film = clip.rsplit(f"_{label}_", 1)[0]  # clips are named <film>_<class>_<conditions>_<number>
                    yield ListRow(f"{file}, line {number}", clip, (label,), group=film if film != clip else None)

    return Listing(
        origin=f"HMDB51 split {options.fold}",
        rows=rows,
        roots=nearby(files[0]),
        forms=("{label}/{path}", "{path}", "{label}/{stem}", "{stem}"),
        named_like=("HMDB51",),
        others=lambda: (ListRow(f.name, f.name, (f.name.removesuffix(ending),)) for f in files),
    )


def _lines(path: Path) -> Iterator[str]:
    return (line.strip() for line in text_of(path) if line.strip())


# ------------------------------------------------------------------------------------------- the `datasets` library


def hugging_face(folder: Path, options: OpenOptions) -> Listing | None:
    """`metadata.csv` (or .jsonl, .parquet) with file_name and label beside the files, also below split folders; or what
    `save_to_disk` wrote, if its files lie on the disk."""
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return _saved_to_disk(folder, options)
    folders = {split: list(filter(_metadata, p)) for split, p in by_split(subfolders(folder)).items()}
    parts = {split: found for split, found in folders.items() if found}
    if parts:
        split = choose(options.split, parts, folder)
        chosen = _metadata(only_one(parts[split], split, folder)) or folder
    elif is_part(folder.name, options.split) and _metadata(folder):
        chosen = _metadata(folder) or folder
    else:
        return None
    files = [file for part in parts.values() for file in map(_metadata, part) if file] or [chosen]
    return Listing(
        origin=f"{chosen.name} of a `datasets` folder",
        rows=partial(read_rows, chosen, split_labels=options.split_labels),
        roots=(chosen.parent,),
        forms=("{path}",),
        classes=class_names(chosen),
        others=lambda: (row for file in files for row in read_rows(file, split_labels=options.split_labels)),
    )


def _metadata(folder: Path) -> Path | None:
    return next((p for s in ("csv", "jsonl", "parquet") if (p := folder / f"metadata.{s}").is_file()), None)


def _saved_to_disk(folder: Path, options: OpenOptions) -> Listing:
    datasets = load_extra("datasets", "datasets", "datasets", f"{folder}, written by the `datasets` library,")
    try:
        saved = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:  # Arrow's are some of these
        why = shown(first_line(error), 200)
        raise InputError(f"{folder}: expected a set saved by `datasets`, found a damaged one: {why}") from None
    if isinstance(saved, datasets.DatasetDict):
        found = {split_of(name) or name: name for name in saved}
        if len(found) < len(saved):
            raise InputError(f"{folder}: expected one set of each split, found {', '.join(map(shown, saved))}")
        saved = saved[found[choose(options.split, found, folder)]]
    elif not is_part(folder.name, options.split):
        raise one_set(folder, options.split)
    of_use = {
        name: m for name, m in zip(saved.features, meanings(tuple(saved.features), str(folder)), strict=True) if m
    }
    for name in of_use:
        if hasattr(saved.features[name], "decode"):
            saved = saved.cast_column(name, type(saved.features[name])(decode=False))

    def rows() -> Iterator[ListRow]:
        for number, record in enumerate(saved.select_columns(list(of_use))):
            yield row_of(record, folder, f"row {number}", split_labels=options.split_labels)

    label = next((saved.features[name] for name, m in of_use.items() if m in ("label", "class")), None)
    names = getattr(getattr(label, "feature", label), "names", None)  # several labels a row have it one deeper
    return Listing("a data set saved by `datasets`", rows, (folder,), ("{path}",), tuple(names) if names else None)
