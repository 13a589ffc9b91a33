"""Lines and tables for people, in which nothing acts on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Literal, TextIO

from uniformer.errors import visible


def say(text: object = "", *, file: TextIO | None = None, flush: bool = False) -> None:
    """Print lines that may hold names from files: what a terminal would act on, but for ends of lines, is escaped."""
    print(visible(text, keep="\n"), file=file, flush=flush)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()) -> None:
    """A table without lines, the columns in `right` to the right. Texts are shown as they are, not read as markup.

    Nothing is cut. At a terminal texts are wrapped to its width, but for those to the right and in the first column;
    elsewhere nothing is wrapped or coloured.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows, is_terminal = [tuple(map(visible, row)) for row in rows], sys.stdout.isatty()
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=bool(header))
    for place, name in enumerate(header or rows[0]):
        justify: Literal["left", "right"] = "right" if place in right else "left"
        table.add_column(Text(visible(name)), justify=justify, no_wrap=place == 0 or place in right, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(force_terminal=is_terminal, force_jupyter=False)
    needed = console.measure(table, options=console.options.update_width(sys.maxsize))
    console.width = max(console.width, needed.minimum) if is_terminal else needed.maximum
    with console.capture() as shown:
        console.print(table)
    for line in shown.get().removesuffix("\n").split("\n"):
        print(line.rstrip())
