"""The one exception that users are meant to read."""


class InputError(ValueError):
    """Something the user gave cannot be used: a file, a name, an option, a shape.

    The message is one line that says what was expected and what came. The command line prints it as it is,
    without a traceback, and exits non-zero; anything else that is raised is a bug of ours.
    """


class MissingExtra(InputError):
    """A feature needs an optional package. The message names the extra that installs it."""

    def __init__(self, package: str, extra: str, purpose: str):
        super().__init__(f"{purpose} needs the package {package!r}: pip install 'uniformer[{extra}]'")
