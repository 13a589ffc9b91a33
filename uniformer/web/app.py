"""The page: drop or record a film or a picture, and see what a network says of it. Gradio shows it, on this machine.

file -> the upload folder of this run -> `answers` -> HTML; all of it goes when the page is closed, or the run ends
"""

from __future__ import annotations

import threading
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from uniformer.checkpoints.records import BUNDLED
from uniformer.errors import InputError
from uniformer.inference.predictor import Predictor
from uniformer.support.environment import changed
from uniformer.support.files import system_folder
from uniformer.support.signals import stopped_by_signals
from uniformer.web.listening import LOOPBACK, address_of, listening_at

PORT, SIZE = 7860, 4_000_000_000
QUIET = {  # what Gradio would ask others, or keep, unless told
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "True",
}


def serve_page(
    checkpoints: Sequence[str] = (),
    *,
    host: str = LOOPBACK,
    port: int = PORT,
    size: int = SIZE,
    open_page: bool = False,
    say: Callable[[str], object] = print,
    **options: Any,
) -> None:
    """Serve the page until SIGINT or SIGTERM.

    Args:
        checkpoints: what `Predictor` takes, to choose from; the model in the package by default.
        host, port: where to listen, 0 for a free port; nobody but this machine reaches the loopback address.
        size: bytes that are taken at once, of all files that are dropped together.
        open_page: open it in the browser of this machine.
        say: is told the page's address when it can be reached.
        options: of every `Predictor`.

    Raises:
        InputError: the port is taken, a checkpoint cannot be loaded, or no byte is to be taken.
        MissingExtra: Gradio is not installed.
    """
    if size < 1:
        raise InputError(f"expected size of at least 1 byte, got {size}")
    with ExitStack() as stack:
        listener = stack.enter_context(listening_at(host, port))
        folder = stack.enter_context(system_folder("app"))
        for name, value in {**QUIET, "GRADIO_TEMP_DIR": str(folder)}.items():
            stack.enter_context(changed(name, value))
        from uniformer.web.page import Server, build_page  # Gradio takes seconds
        from uniformer.web.visit import Visit

        predictors = {name: Predictor(name, **options) for name in dict.fromkeys(checkpoints or [BUNDLED])}
        visit = Visit(predictors, folder)
        page = build_page(visit)

        def ready() -> None:
            address = f"{address_of(listener, host)}/"
            say(f"page: {address} (Ctrl-C ends it)")
            if open_page:  # some browsers are waited for
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

        with stopped_by_signals():  # the server takes signals itself, and raises them again at its end
            Server(page, ready, size).run(sockets=[listener])
            visit.end()
