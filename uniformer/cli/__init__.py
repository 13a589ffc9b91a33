"""One module per command, with `HELP`, `add_arguments(parser)` and `run(args) -> exit status`.

They are all imported for `uniformer --help`, so what is heavy is imported inside `run`.
"""
