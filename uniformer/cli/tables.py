"""Lines and tables for people, in which nothing acts on the terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, TextIO

from uniformer.errors import visible
from uniformer.support.files import as_given

GAP = 2  # columns between two of a table


def say(text: object = "", *, file: TextIO | None = None, flush: bool = False) -> None:
    """Print lines that may hold names from files: what a terminal would act on, but for ends of lines, is escaped."""
    print(visible(text, keep="\n"), file=file, flush=flush)


def say_failed(errors: Mapping[int, str], data: str) -> None:
    """The rows of `data` without an answer, from 1, and why, where files are called as the user calls them."""
    for row, why in errors.items():
        say(as_given(f"uniformer: row {row + 1}: {why}", data), file=sys.stderr)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()) -> None:
    """A table without lines, the columns in `right` to the right. Texts are shown as they are, not read as markup.

    Nothing is cut. At a terminal texts are wrapped to its width between words, but for those to the right and in the
    first column; elsewhere nothing is wrapped or coloured.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows, is_terminal = [tuple(map(visible, row)) for row in rows], sys.stdout.isatty()
    shown = io.StringIO()  # at standard output rich would end the process where its reader has gone
    console = Console(file=shown, force_terminal=is_terminal, force_jupyter=False)
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=bool(header))
    columns = list(zip(*([tuple(map(visible, header))] if header else []), *rows, strict=True))
    fixed = {0, *right}
    widths = _widths(columns, console.width if is_terminal else sys.maxsize, fixed)
    for place, (name, width) in enumerate(zip(header or rows[0], widths, strict=True)):
        justify: Literal["left", "right"] = "right" if place in right else "left"
        table.add_column(Text(visible(name)), justify=justify, no_wrap=place in fixed, overflow="fold", width=width)
    for row in rows:
        table.add_row(*map(Text, row))
    console.width = sum(widths) + GAP * len(widths)
    console.print(table)
    for line in shown.getvalue().removesuffix("\n").split("\n"):
        print(line.rstrip())


def _widths(columns: Sequence[Sequence[str]], room: int, fixed: Collection[int]) -> list[int]:
    """Of each column: its longest text; where there is no room for all, those that are not `fixed` are made narrower,
    the widest first, down to their longest word."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in columns]
    least = [max(cell_len(word) for text in column for word in text.split() or [""]) for column in columns]
    while sum(widths) + GAP * (len(widths) - 1) > room:
        wide = [i for i in range(len(widths)) if i not in fixed and widths[i] > least[i]]
        if not wide:
            break
        widths[max(wide, key=widths.__getitem__)] -= 1
    return widths
