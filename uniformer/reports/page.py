"""Pages that need nothing else: no script, no font and no file from elsewhere, light or dark as the reader chose."""

from __future__ import annotations

import os
from collections.abc import Mapping

from uniformer.errors import counted
from uniformer.support.files import write_whole


def rendered(template: str, content: Mapping[str, object], *rooms: str) -> str:
    """What a template makes of `content`: one of `templates/` of this room, or of the `rooms` that are named.

    All text is escaped but `Markup`.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(room) for room in ("uniformer.reports", *rooms)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["counted"] = counted
    return environment.get_template(template).render(content)


def write_page(path: str | os.PathLike[str], template: str, content: Mapping[str, object]) -> None:
    """Write what a template makes of `content`. Raises `InputError` where it cannot be written.

    Lone surrogates, from names of files that are no UTF-8, become question marks.
    """
    write_whole(path, rendered(template, content), "replace")
