"""Pages that need nothing else: no script, no font and no file from elsewhere, light or dark as the reader chose."""

from __future__ import annotations

import os
from collections.abc import Mapping

from uniformer.errors import counted
from uniformer.support.files import atomic_path


def write_page(path: str | os.PathLike[str], template: str, content: Mapping[str, object]) -> None:
    """Write what a template of `templates/` makes of `content`. Raises `InputError` where it cannot be written.

    All text is escaped but `Markup`; lone surrogates, from names of files that are no UTF-8, become question marks.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("uniformer.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["counted"] = counted
    page = environment.get_template(template).render(content)
    with atomic_path(path) as temporary:
        temporary.write_bytes(page.encode("utf-8", "replace"))
