"""`uniformer completion`: what makes a shell complete commands, options, and the names of models and recipes.

    source <(uniformer completion bash)       # in ~/.bashrc
    source <(uniformer completion zsh)        # in ~/.zshrc, after compinit
    uniformer completion fish | source        # in ~/.config/fish/config.fish

The script is made from the parser itself, and starts no program when a key is pressed.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from shlex import quote
from typing import NamedTuple

HELP = "print what makes bash, zsh or fish complete commands, options and names"

FILES = ("FILE", "DIR", "PATH", "DATA", "VIDEO", "FOLDER", "OUT", "IN", "SOURCE")  # in the words for a value: one here
BASH = """\
_uniformer() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    local place=uniformer known='' files='' word
    if [[ $cur == '=' ]]; then cur=''; fi
    if [[ $prev == '=' ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
@CASES@
    COMPREPLY=($(compgen -W "$known" -- "$cur"))
    if [[ -n $files ]]; then
        local IFS=$'\\n'
        COMPREPLY+=($(compgen -f -- "$cur"))
        compopt -o filenames 2>/dev/null
    fi
}
complete -F _uniformer uniformer
"""
ZSH = """\
_uniformer() {
    local cur=${words[CURRENT]} prev=${words[CURRENT-1]} place=uniformer known='' files='' word
    if [[ $cur == --*=* ]]; then prev=${cur%%=*}; compset -P '*='; fi
    for word in "${(@)words[2,CURRENT-1]}"; do
@CASES@
    compadd -- ${=known}
    if [[ -n $files ]]; then _files; fi
}
compdef _uniformer uniformer
"""
CASES = """\
        case "$place $word" in
            @PLACES@) place="$place $word" ;;
        esac
    done
    case "$place $prev" in
@VALUES@
        *) case "$place $cur" in
@OPTIONS@
@WORDS@
        esac ;;
    esac"""
FISH = """\
function __uniformer_at
    set -l place uniformer
    for word in (commandline -opc)[2..-1]
        contains -- "$place $word" @PLACES@; and set place "$place $word"
    end
    test "$place" = "$argv[1]"
end
complete -c uniformer -f
@LINES@
"""


class Value(NamedTuple):
    """What an option, or a word of its own, may be."""

    known: tuple[str, ...]
    files: bool  #: it may name a file or a folder


class Option(NamedTuple):
    flags: tuple[str, ...]
    about: str
    value: Value | None  #: None where it takes none


class Place(NamedTuple):
    """A command, or a command within one."""

    name: str
    commands: Mapping[str, str]  #: with what they do
    options: tuple[Option, ...]
    words: Value


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("shell", choices=tuple(SCRIPTS), help="that the script is for")


def run(args: argparse.Namespace) -> int:
    places = list(places_of(args.program, "uniformer", names_of_values()))
    print(SCRIPTS[args.shell](places), end="")
    return 0


def names_of_values() -> dict[str, list[str]]:
    """Names that are known, by the words for them in the help."""
    from uniformer.checkpoints.records import list_checkpoints
    from uniformer.network.variants import list_models
    from uniformer.training.recipe import list_recipes

    ids = list_checkpoints(in_package=True)
    return {"ID": ids, "CHECKPOINT": ids, "ARCH": list_models(), "RECIPE": list_recipes()}


def places_of(parser: argparse.ArgumentParser, name: str, known: Mapping[str, Sequence[str]]) -> Iterator[Place]:
    """A parser and those below it."""
    commands: dict[str, str] = {}
    options, words, below = list[Option](), list[Value](), list[Place]()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            commands = {one.dest: one.help or "" for one in action._choices_actions}
            for command, sub in action.choices.items():
                commands.setdefault(command, "")
                below += places_of(sub, f"{name} {command}", known)
        elif action.option_strings:
            value = None if action.nargs == 0 else _value(action, known)
            about = "" if action.help in (None, argparse.SUPPRESS) else " ".join(str(action.help).split())
            options.append(Option(tuple(action.option_strings), about, value))
        else:
            words.append(_value(action, known))
    names = tuple(dict.fromkeys([*commands, *(one for value in words for one in value.known)]))
    yield Place(name, commands, tuple(options), Value(names, any(value.files for value in words)))
    yield from below


def _value(action: argparse.Action, known: Mapping[str, Sequence[str]]) -> Value:
    if action.choices is not None:
        return Value(tuple(map(str, action.choices)), False)
    told = re.findall(r"\w+", str(action.metavar or ""))
    names = [name for word in told for name in known.get(word, ())]
    return Value(tuple(dict.fromkeys(names)), bool({*FILES, "CHECKPOINT"}.intersection(told)))


# ---- scripts ---------------------------------------------------------------------------------------------------------


def _cases(places: Sequence[Place]) -> str:
    """What bash and zsh share: the place in the commands, then what may stand there."""
    values: dict[Value, list[str]] = {}
    for place in places:
        for option in place.options:
            if option.value is not None:
                values.setdefault(option.value, []).extend(quote(f"{place.name} {flag}") for flag in option.flags)
    flags_of = {place.name: " ".join(flag for option in place.options for flag in option.flags) for place in places}
    options = [f"            {quote(name + ' -')}*) known={quote(flags)} ;;" for name, flags in flags_of.items()]
    words = [f"            {quote(place.name + ' ')}*) {_assigned(place.words)} ;;" for place in reversed(places)]
    parts = {
        "@PLACES@": "|".join(quote(place.name) for place in places[1:]),
        "@VALUES@": "\n".join(f"        {'|'.join(flags)}) {_assigned(value)} ;;" for value, flags in values.items()),
        "@OPTIONS@": "\n".join(options),
        "@WORDS@": "\n".join(words),
    }
    return re.sub("@[A-Z]+@", lambda found: parts[found[0]], CASES)


def _assigned(value: Value) -> str:
    return f"known={quote(' '.join(value.known))} files={'yes' if value.files else ''}"


def _fish(places: Sequence[Place]) -> str:
    lines = []
    for place in places:
        here = f"complete -c uniformer -n {quote(f'__uniformer_at {quote(place.name)}')}"
        lines += [f"{here} -a {quote(name)} -d {_said(about)}" for name, about in place.commands.items()]
        if more := [name for name in place.words.known if name not in place.commands]:
            lines.append(f"{here} -a {quote(' '.join(more))}")
        if place.words.files:
            lines.append(f"{here} -F")
        for option in place.options:
            flags = " ".join(f"-{'l' if f.startswith('--') else 's'} {f.lstrip('-')}" for f in option.flags)
            lines.append(f"{here} {flags} -d {_said(option.about)}{_taken(option.value)}")
    names = " ".join(quote(place.name) for place in places[1:])
    return FISH.replace("@PLACES@", names).replace("@LINES@", "\n".join(lines))


def _taken(value: Value | None) -> str:
    if value is None:
        return ""
    return f" -{'rF' if value.files else 'x'}" + (f" -a {quote(' '.join(value.known))}" if value.known else "")


def _said(about: str) -> str:
    """A text in fish's quotes."""
    return "'" + about.replace("%%", "%").replace("\\", "\\\\").replace("'", "\\'") + "'"


SCRIPTS = {
    "bash": lambda places: BASH.replace("@CASES@", _cases(places)),
    "zsh": lambda places: ZSH.replace("@CASES@", _cases(places)),
    "fish": _fish,
}
