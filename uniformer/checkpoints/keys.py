"""State-dict keys: ours, the reference's, and the one place where they meet.

The reference spells the same module differently in local and global blocks, keeps patch embeddings and blocks apart,
and counts stages from 1. `from_reference` and `to_reference` are exact inverses; both put keys into the order in which
the modules of the other side are registered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from uniformer.errors import InputError, shown
from uniformer.heads.keys import BACKBONE

# Ours -> the reference's, per kind of place, in our order of registration.
EMBED = {"proj": "proj", "norm": "norm", "conv1": "proj.0", "norm1": "proj.1", "conv2": "proj.3", "norm2": "proj.4"}
_ENDS = {"norm1": "norm1", "norm2": "norm2", "ffn.fc1": "mlp.fc1", "ffn.fc2": "mlp.fc2"}
_STARTS = {"scale1": "gamma_1", "scale2": "gamma_2", "pos_embed": "pos_embed"}
LOCAL = _STARTS | {"mhra.value": "conv1", "mhra.affinity": "attn", "mhra.proj": "conv2"} | _ENDS
GLOBAL = (
    _STARTS
    | {"time_norm": "t_norm", "time_mhra.qkv": "t_attn.qkv", "time_mhra.proj": "t_attn.proj"}
    | {"mhra.qkv": "attn.qkv", "mhra.proj": "attn.proj"}
    | _ENDS
)
ROOT = {
    "cls_token": "cls_token",
    "cls_proj": "cls_upsample",
    "norm": "norm",
    "cls_norm": "norm_cls",
    "head": "head",
    "cls_head": "head_cls",
    "aux_head": "aux_head",
}

# Orders of registration where they differ between the two sides.
_LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_OUR_EMBED = ("proj", "norm", "conv1", "norm1", "conv2", "norm2")
_OUR_BLOCK = ("scale1", "scale2", "pos_embed", "norm1", "mhra.value", "mhra.affinity", "mhra.qkv", "mhra.proj", "norm2",
              "ffn.fc1", "ffn.fc2", "time_norm", "time_mhra.qkv", "time_mhra.proj")  # fmt: skip
_OUR_TAIL = ("cls_proj", "norm", "cls_norm", "head", "cls_head", "aux_head")
_THEIR_EMBED = ("norm", "proj", "proj.0", "proj.1", "proj.3", "proj.4")
_THEIR_BLOCK = ("gamma_1", "gamma_2", "pos_embed", "t_norm", "t_attn.qkv", "t_attn.proj", "norm1", "conv1", "conv2",
                "attn", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")  # fmt: skip
_THEIR_TAIL = ("norm", "norm_cls", "head", "head_cls", "aux_head")

_LEAF = rf"(?:\.(?P<leaf>{'|'.join(_LEAVES)}))?"
_BLOCK = r"(?P<block>[0-9]{1,4})\.(?P<part>.+?)"
_OURS = re.compile(
    rf"(?:stages\.(?P<stage>[0-3])\.(?:embed\.(?P<embed>.+?)|blocks\.{_BLOCK}|(?P<norm>norm))|(?P<root>.*?)){_LEAF}",
    re.DOTALL,
)
_THEIRS = re.compile(
    rf"(?:patch_embed(?P<embed_stage>[1-4])\.(?P<embed>.+?)|blocks(?P<stage>[1-4])\.{_BLOCK}"
    rf"|norm(?P<norm_stage>[1-4])|(?P<root>.*?)){_LEAF}",
    re.DOTALL,
)


def _flip(table: Mapping[str, str]) -> dict[str, str]:
    return {theirs: ours for ours, theirs in table.items()}


def _block_table(stage: int) -> Mapping[str, str]:
    return LOCAL if stage <= 2 else GLOBAL


def reference_key(key: str) -> str | None:
    """Our key -> the reference's; None when it is no key of ours."""
    m = _OURS.fullmatch(key)
    assert m is not None  # the last alternative takes anything
    name: str | None
    if m["stage"] is None:
        name = ROOT.get(m["root"])
    else:
        stage = int(m["stage"]) + 1
        if m["embed"] is not None:
            name = _prefixed(f"patch_embed{stage}.", EMBED.get(m["embed"]))
        elif m["norm"] is not None:
            name = f"norm{stage}"
        else:
            name = _prefixed(f"blocks{stage}.{m['block']}.", _block_table(stage).get(m["part"]))
    return _with_leaf(name, m["leaf"])


def our_key(key: str) -> str | None:
    """The reference's key -> ours; None when it is no key of the reference's models."""
    m = _THEIRS.fullmatch(key)
    assert m is not None
    name: str | None
    if m["embed_stage"] is not None:
        name = _prefixed(f"stages.{int(m['embed_stage']) - 1}.embed.", _flip(EMBED).get(m["embed"]))
    elif m["stage"] is not None:
        stage = int(m["stage"])
        name = _prefixed(f"stages.{stage - 1}.blocks.{m['block']}.", _flip(_block_table(stage)).get(m["part"]))
    elif m["norm_stage"] is not None:
        name = f"stages.{int(m['norm_stage']) - 1}.norm"
    else:
        name = _flip(ROOT).get(m["root"])
    return _with_leaf(name, m["leaf"])


def _prefixed(prefix: str, name: str | None) -> str | None:
    return None if name is None else prefix + name


def _with_leaf(name: str | None, leaf: str | None) -> str | None:
    return name if name is None or leaf is None else f"{name}.{leaf}"


def from_reference(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A reference model's state dict -> ours: the same tensors under our keys, layer scales flattened to (C,).

    The exact inverse of `to_reference`. Raises `InputError` naming keys that no reference model has.
    """
    renamed = _renamed(state_dict, our_key, "the reference")
    flat = {k: v.flatten() if _is_scale(k) else v for k, v in renamed.items()}
    return dict(sorted(flat.items(), key=lambda item: _our_rank(item[0])))


def to_reference(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict -> the reference's, in its order of keys. Raises `InputError` naming keys that are not ours."""
    renamed = _renamed(state_dict, reference_key, "this package")
    position = next((v for k, v in renamed.items() if k.endswith("pos_embed.weight")), None)
    if position is None:
        raise InputError("expected the state dict of a UniFormer, found no position embedding in it")
    ndim = position.ndim - 2
    shaped = {k: v.view(1, -1, *(1,) * ndim) if _is_local_gamma(k) else v for k, v in renamed.items()}
    return dict(sorted(shaped.items(), key=lambda item: _their_rank(item[0])))


def to_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A dense network's state dict -> that of its published file: the backbone's keys as the reference's, in its order,
    then the heads', which are the published ones already. Raises `InputError` as `to_reference`."""
    backbone = {key.removeprefix(BACKBONE): value for key, value in state_dict.items() if key.startswith(BACKBONE)}
    heads = {key: value for key, value in state_dict.items() if not key.startswith(BACKBONE)}
    return {BACKBONE + key: value for key, value in to_reference(backbone).items()} | heads


def _renamed(state_dict: Mapping[str, Tensor], rename, side: str) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    names = {key: rename(key) for key in state_dict}
    unknown = [key for key, name in names.items() if name is None]
    if unknown:
        raise InputError(
            f"{len(unknown)} keys are not of a model of {side}: "
            f"{', '.join(map(shown, unknown[:3]))}{', ...' * (len(unknown) > 3)}"
        )
    return {names[key]: value for key, value in state_dict.items()}


def _is_scale(key: str) -> bool:
    return key.endswith((".scale1", ".scale2"))


def _is_local_gamma(key: str) -> bool:
    return re.fullmatch(r"blocks[12]\.\d+\.gamma_[12]", key) is not None


def _our_rank(key: str) -> tuple[int, ...]:
    m = _OURS.fullmatch(key)
    assert m is not None
    leaf = _LEAVES.index(m["leaf"]) if m["leaf"] else 0
    if m["stage"] is None:
        return (-1,) if key == "cls_token" else (4, _OUR_TAIL.index(m["root"]), leaf)
    stage = int(m["stage"])
    if m["embed"] is not None:
        return (stage, 0, _OUR_EMBED.index(m["embed"]), leaf)
    if m["norm"] is not None:
        return (stage, 2, leaf)
    return (stage, 1, int(m["block"]), _OUR_BLOCK.index(m["part"]), leaf)


def _their_rank(key: str) -> tuple[int, ...]:
    m = _THEIRS.fullmatch(key)
    assert m is not None
    leaf = _LEAVES.index(m["leaf"]) if m["leaf"] else 0
    if m["embed_stage"] is not None:
        return (1, int(m["embed_stage"]), _THEIR_EMBED.index(m["embed"]), leaf)
    if m["stage"] is not None:
        return (3, int(m["stage"]), 0, int(m["block"]), _THEIR_BLOCK.index(m["part"]), leaf)
    if m["norm_stage"] is not None:
        return (3, int(m["norm_stage"]), 1, leaf)
    if m["root"] in ("cls_token", "cls_upsample"):
        return (0,) if m["root"] == "cls_token" else (2, leaf)
    return (4, _THEIR_TAIL.index(m["root"]), leaf)
