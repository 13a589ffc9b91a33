"""The page of a published model, README.md of its repository: what its contract says, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import Any

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.told import in_words
from uniformer.config import InputSpec, to_dict
from uniformer.errors import counted

MARK = "<!-- written by uniformer from the contract in config.json -->"  #: a page without it is somebody's own
_TAGS = {"detection": "object-detection", "segmentation": "image-segmentation", "pose": "keypoint-detection"}
_LICENCES = {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "gpl-3.0"}  # by the hub's names


def model_card(contract: Contract, repo: str, beside: Iterable[str] = ()) -> str:
    """The page in Markdown, with the hub's metadata on top; `repo` is what its examples load,
    `beside` the names of files beside the model."""
    from huggingface_hub import ModelCardData

    kind = "video-classification" if contract.config.is_video else "image-classification"
    licence = contract.licence.lower()
    other = {"license": "other", "license_name": licence or "unknown"}
    named: dict[str, Any] = {"license": licence} if licence in _LICENCES else other
    data = ModelCardData(
        library_name="uniformer", pipeline_tag=_TAGS.get(contract.task, kind), tags=["uniformer"], **named
    )
    return f"---\n{data.to_yaml()}\n---\n{MARK}\n\n" + "\n".join(_text(contract, repo, beside))


def file_line(name: str) -> str:
    """What the page says of a file beside the model."""
    return f"\n- {_plain(name)}\n"


def _text(c: Contract, repo: str, beside: Iterable[str]) -> Iterator[str]:
    yield f"# {_plain(PurePath(repo).name)}\n"
    yield f"{_plain(c.arch or 'UniFormer of its own sizes')} for {_plain(c.task)}.\n"
    yield from _usage("clip.mp4" if c.config.is_video else "photo.jpg", repo)
    yield "## Input\n"
    yield (in_words(c.input) if isinstance(c.input, InputSpec) else "In full:") + "\n"
    yield from (f"- {name}: {value}" for name, value in (to_dict(c.input) if c.input else {}).items())
    yield f"\n## {'Key points' if c.task == 'pose' else 'Classes'}\n"
    yield f"{c.config.num_classes}: {', '.join(map(_plain, c.classes)) or 'without names'}\n"
    yield "## Scores\n"
    on = _plain(c.dataset) or "data that the contract does not name"
    yield from (f"- {_plain(name)}: {value:g} on {on}" for name, value in c.scores.items())
    yield "None recorded.\n" if not c.scores else ""
    yield "## Training\n"
    yield f"- data: {_plain(c.dataset) or 'not recorded'}"
    yield f"- items learnt from: {counted(c.trained_on.items, 'item') if c.trained_on else 'not recorded'}"
    yield f"- published as: {_plain(c.id) or 'nothing before'}\n"
    if lines := "".join(map(file_line, beside)):
        yield f"## Beside the weights\n\nAs their owner put them there:\n{lines}"
    if c.proof:
        yield "## Proof\n"
        yield f"outputs, and sha256 of the tensors: `{c.proof.sha256}`; `uniformer verify FOLDER` computes both anew.\n"
    yield f"## Licence\n\n{_plain(c.licence) or 'Not recorded: ask the owner of this page.'}\n"
    yield "## Limits\n"
    yield "- Scores hold for data like those they were measured on, and for the input above."
    yield from (f"- {_plain(note)}" for note in c.notes)
    yield ""


def _usage(file: str, repo: str) -> Iterator[str]:
    yield f'```python\nimport uniformer\n\nuniformer.predict("{file}", model="{repo}")  # answers'
    yield f'model, contract = uniformer.from_pretrained("{repo}")  # the torch module, and what is said here\n```\n'
    yield f"```bash\nuniformer predict {file} --checkpoint {repo}\n```\n"


def _plain(text: str) -> str:
    """A text of a contract as Markdown shows it: no ends of lines, no marks that act."""
    return "".join(f"\\{c}" if c in "\\`*[]<>|#" else c for c in " ".join(text.split()))
