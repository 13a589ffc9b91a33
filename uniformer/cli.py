"""The command line. Each command is a plain function; what is heavy is imported where it is used."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from uniformer import __version__
from uniformer.errors import InputError

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Bad input is one line on standard error and exit status 2; no traceback."""
    args = build_parser().parse_args(argv)
    try:
        return args.run(args)
    except InputError as error:
        print(f"uniformer: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("uniformer: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as in `uniformer models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="uniformer",
        description="UniFormer for images and video.",
        epilog="`uniformer COMMAND --help` tells more. Documentation: docs/quickstart.md",
    )
    parser.add_argument("--version", action="version", version=f"uniformer {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (_add_predict, _add_models, _add_verify, _add_convert):
        add(commands)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, run: Callable[..., int], text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    return parser


# ---- predict ---------------------------------------------------------------------------------------------------------


def _add_predict(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = _command(commands, "predict", _predict, "label images and videos")
    p.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="image, video, folder, folder of frames, pattern, .txt list, or - (list on stdin)",
    )
    p.add_argument(
        "--checkpoint", metavar="ID|FILE|REPO", help="published id (see `uniformer models`), file or hub repository"
    )
    p.add_argument("--clips", type=int, help="clips per video (default: the checkpoint's)")
    p.add_argument("--crops", type=int, choices=(1, 3), help="crops per clip (default: the checkpoint's)")
    p.add_argument("--top-k", type=int, default=5, metavar="K", help="labels per file (default: 5)")
    p.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU when there is one)")
    p.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    p.add_argument("--batch-size", type=int, default=8, metavar="N", help="views per forward pass (default: 8)")
    p.add_argument("--workers", type=int, default=2, metavar="N", help="threads that read ahead (default: 2)")
    p.add_argument("--backend", default="pyav", choices=("pyav", "torchcodec"), help="video decoder")
    p.add_argument(
        "--follow-seconds", action="store_true", help="scale strides by the frame rate, as long clips as in training"
    )
    p.add_argument(
        "--head-dim", type=int, metavar="D", help="channels per attention head, for files that nothing tells it of"
    )
    p.add_argument(
        "--format", choices=("table", "jsonl", "csv"), help="default: table, or by the name given with --out"
    )
    p.add_argument("--out", metavar="FILE", help="write results there instead of to standard output")
    p.add_argument("--resume", action="store_true", help="with --out: leave out files that have a result there already")
    p.add_argument(
        "--show-sampling", metavar="PNG|FOLDER", help="picture the frames and crops that the network was fed"
    )


def _predict(args: argparse.Namespace) -> int:
    from uniformer.commands import predict_files

    return predict_files(args)


# ---- models ----------------------------------------------------------------------------------------------------------


def _add_models(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = _command(commands, "models", _models, "list the published checkpoints, or show one whole")
    p.add_argument("pattern", nargs="?", default="*", help="an id, or a pattern such as '*k400*' (quote it)")
    p.add_argument("--task", help="for example 'video classification'")
    p.add_argument("--dataset", help="for example 'Kinetics-400'")
    p.add_argument("--arch", help="for example uniformer_small_video")
    p.add_argument("--json", action="store_true", help="one JSON object per checkpoint and line")


def _models(args: argparse.Namespace) -> int:
    from uniformer.commands import show_models

    return show_models(args)


# ---- verify and convert ----------------------------------------------------------------------------------------------


def _add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = _command(commands, "verify", _verify, "prove that a saved checkpoint is intact")
    p.add_argument("file", help="a file or folder saved by uniformer")


def _verify(args: argparse.Namespace) -> int:
    from uniformer.checkpoint import verify

    contract, problems = verify(args.file)
    for problem in problems:
        print(f"{args.file}: {problem}", file=sys.stderr)
    if problems:
        return FAILED
    print(
        f"{args.file}: intact ({contract.id or contract.arch or 'own architecture'}, {contract.config.num_classes} classes)"
    )
    return 0


def _add_convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = _command(
        commands, "convert", _convert, "turn any readable checkpoint into ours, or ours into the reference's form"
    )
    p.add_argument("source", metavar="IN", help="published id, file, folder or hub repository")
    p.add_argument(
        "out", metavar="OUT", help="name.safetensors, a folder (hub form), or name.pth (the reference's keys)"
    )
    p.add_argument(
        "--head-dim", type=int, metavar="D", help="channels per attention head, for files that nothing tells it of"
    )
    p.add_argument("--averaged", action="store_true", help="take the EMA weights of a training checkpoint")


def _convert(args: argparse.Namespace) -> int:
    from uniformer.checkpoint import convert

    print(convert(args.source, args.out, head_dim=args.head_dim, averaged=args.averaged))
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
