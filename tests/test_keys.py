"""State-dict keys are public: files out there carry them. A change here breaks every saved checkpoint."""

from __future__ import annotations

import hashlib

import pytest
import torch

from uniformer.config import with_options
from uniformer.heads import build_network
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
    "uniformer_nano_backbone": "fef2c94eaaba1413",
    "mask_rcnn.uniformer_small": "8f584f985b42a85d",
    "mask_rcnn.uniformer_small_h14": "8f584f985b42a85d",
    "mask_rcnn.uniformer_base": "753777aba417aa53",
    "mask_rcnn.uniformer_base_h14": "753777aba417aa53",
    "mask_rcnn.uniformer_xxs": "4bb0b699b2c80df1",
    "mask_rcnn.uniformer_xs": "ebfa4c4a7b4acfe3",
    "mask_rcnn.uniformer_nano": "bef46a666f3bea7d",
    "cascade_mask_rcnn.uniformer_small": "bc5793e1f989bd3f",
    "cascade_mask_rcnn.uniformer_small_h14": "bc5793e1f989bd3f",
    "cascade_mask_rcnn.uniformer_base": "282ad58a5960feca",
    "cascade_mask_rcnn.uniformer_base_h14": "282ad58a5960feca",
    "cascade_mask_rcnn.uniformer_xxs": "b67471dd8f34c44a",
    "cascade_mask_rcnn.uniformer_xs": "269328df528785a4",
    "cascade_mask_rcnn.uniformer_nano": "ef9640be8ac35947",
    "semantic_fpn.uniformer_small": "12d9b61a63616c75",
    "semantic_fpn.uniformer_small_h14": "12d9b61a63616c75",
    "semantic_fpn.uniformer_base": "5312369b5c8c9141",
    "semantic_fpn.uniformer_base_h14": "5312369b5c8c9141",
    "semantic_fpn.uniformer_xxs": "b2443e0b57841842",
    "semantic_fpn.uniformer_xs": "8e9d941e447a052c",
    "semantic_fpn.uniformer_nano": "d06da0d2563ec894",
    "upernet.uniformer_small": "16581b84f221403a",
    "upernet.uniformer_small_h14": "16581b84f221403a",
    "upernet.uniformer_base": "1e8885b9e3204bff",
    "upernet.uniformer_base_h14": "1e8885b9e3204bff",
    "upernet.uniformer_xxs": "6dbf21dd74da6b16",
    "upernet.uniformer_xs": "73a0f462a9e1631b",
    "upernet.uniformer_nano": "eafc1becbbe5f576",
    "topdown.uniformer_small": "00f33fe00b27eab0",
    "topdown.uniformer_small_h14": "00f33fe00b27eab0",
    "topdown.uniformer_base": "fcc24e1d9933516d",
    "topdown.uniformer_base_h14": "fcc24e1d9933516d",
    "topdown.uniformer_xxs": "169f6f184fcc03a7",
    "topdown.uniformer_xs": "42bc03de884680a1",
    "topdown.uniformer_nano": "c152ba8058a5ad7f",
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
        model = build_network(with_options(config, {"split_attention": True}) if name == "split" else config)
    lines = "\n".join(f"{key} {tuple(value.shape)}" for key, value in model.state_dict().items())
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == FROZEN[name]


@pytest.mark.parametrize(("block", "keys"), [("stages.0.blocks.0.", LOCAL), ("stages.2.blocks.0.", GLOBAL)])
def test_a_block_in_words(block: str, keys: list[str]) -> None:
    with torch.device("meta"):
        state = UniFormer(get_config("uniformer_large_ls_tl")).state_dict()
    assert [key.removeprefix(block) for key in state if key.startswith(block)] == keys
