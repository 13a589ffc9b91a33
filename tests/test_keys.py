"""State-dict keys are public: files out there carry them. A change here breaks every saved checkpoint."""

from __future__ import annotations

import hashlib

import pytest
import torch

from uniformer.config import with_options
from uniformer.network.model import UniFormer
from uniformer.network.variants import VARIANTS, get_config

# sha256 over "key shape" lines, the first 16 digits. The split form is an option, not a variant.
FROZEN = {
    "uniformer_small": "068a65e2a2d4e26b",
    "uniformer_small_plus": "51622423797abfa9",
    "uniformer_small_plus_dim64": "51622423797abfa9",
    "uniformer_base": "f68ede2dae9141fe",
    "uniformer_base_ls": "8824e77c356a9933",
    "uniformer_small_tl": "8f0d4dfa4d73ac41",
    "uniformer_small_plus_tl": "68cb0ef754243d97",
    "uniformer_base_tl": "55be01d5f955424b",
    "uniformer_small_dim64_tl": "8f0d4dfa4d73ac41",
    "uniformer_small_plus_dim64_tl": "68cb0ef754243d97",
    "uniformer_base_dim64_tl": "55be01d5f955424b",
    "uniformer_large_ls_tl": "c0e035cd09164dfe",
    "uniformer_xxs": "67260b4b9dd2f0c8",
    "uniformer_xs": "23f391c1ebc47523",
    "uniformer_small_video": "3cc3c0d335b31758",
    "uniformer_base_video": "3103792c85b76235",
    "uniformer_xxs_video": "1a282ca36d8824bb",
    "uniformer_xxs_ls_video": "a1651fa399dc2858",
    "uniformer_xs_video": "4e67406848ac8eb4",
    "uniformer_nano_video": "d658d08a74f58424",
    "uniformer_small_backbone": "8b492f030ee757ec",
    "uniformer_small_backbone_h14": "8b492f030ee757ec",
    "uniformer_base_backbone": "7badaa146df42285",
    "uniformer_base_backbone_h14": "7badaa146df42285",
    "uniformer_xxs_backbone": "123c5b893ffd807e",
    "uniformer_xs_backbone": "e5ca91545fbd67b8",
    "split": "02cafee86123c9c4",
}

# One block of each kind, in words: what the digests stand for.
LOCAL = [
    "scale1", "scale2", "pos_embed.weight", "pos_embed.bias",
    "norm1.weight", "norm1.bias", "norm1.running_mean", "norm1.running_var", "norm1.num_batches_tracked",
    "mhra.value.weight", "mhra.value.bias", "mhra.affinity.weight", "mhra.affinity.bias",
    "mhra.proj.weight", "mhra.proj.bias",
    "norm2.weight", "norm2.bias", "norm2.running_mean", "norm2.running_var", "norm2.num_batches_tracked",
    "ffn.fc1.weight", "ffn.fc1.bias", "ffn.fc2.weight", "ffn.fc2.bias",
]  # fmt: skip
GLOBAL = [
    "scale1", "scale2", "pos_embed.weight", "pos_embed.bias", "norm1.weight", "norm1.bias",
    "mhra.qkv.weight", "mhra.qkv.bias", "mhra.proj.weight", "mhra.proj.bias", "norm2.weight", "norm2.bias",
    "ffn.fc1.weight", "ffn.fc1.bias", "ffn.fc2.weight", "ffn.fc2.bias",
]  # fmt: skip


def test_every_variant_is_frozen() -> None:
    assert set(FROZEN) == {*VARIANTS, "split"}


@pytest.mark.parametrize("name", FROZEN)
def test_keys_and_shapes(name: str) -> None:
    config = get_config("uniformer_small_video" if name == "split" else name)
    with torch.device("meta"):
        model = UniFormer(with_options(config, {"split_attention": True}) if name == "split" else config)
    lines = "\n".join(f"{key} {tuple(value.shape)}" for key, value in model.state_dict().items())
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == FROZEN[name]


@pytest.mark.parametrize(("block", "keys"), [("stages.0.blocks.0.", LOCAL), ("stages.2.blocks.0.", GLOBAL)])
def test_a_block_in_words(block: str, keys: list[str]) -> None:
    with torch.device("meta"):
        state = UniFormer(get_config("uniformer_large_ls_tl")).state_dict()
    assert [key.removeprefix(block) for key in state if key.startswith(block)] == keys
