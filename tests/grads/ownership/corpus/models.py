"""Models as transformers ships them, with tiny random weights, and batches for them: what the steps of both kinds share."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.grads.ownership.corpus.base import CLASSES, each

KIND = "transformers"
VOCABULARY, WIDTH, PADDING = 19, 16, 0
ENDS = {"pad_token_id": PADDING, "bos_token_id": 1, "eos_token_id": 2}
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 40,
    "num_labels": CLASSES,
    **ENDS,
}
GPT = {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 1, "n_head": 2, "n_positions": 40, "n_inner": 16, **ENDS}
GROUPED = {**TEXT, "num_key_value_heads": 1}
IMAGE = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 8,
    "patch_size": 4,
    "num_labels": CLASSES,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_kv": 4,
    "d_ff": 16,
    "num_layers": 1,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "max_position_embeddings": 40,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
    **ENDS,
}


def made(head: str, config: str, **sizes: Any):
    """Return a maker of a model of transformers without dropout, by the names of its class and its configuration."""

    def make() -> nn.Module:
        import transformers as hf

        from tests.zoo.family import quiet

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(hf, head)(quiet(getattr(hf, config)(**sizes))).train()

    return make


def text(n: int, g: torch.Generator, time: int = 7) -> dict[str, Tensor]:
    lengths = torch.randint(2, time + 1, (n,), generator=g)
    mask = (torch.arange(time) < lengths[:, None]).long()
    ids = torch.randint(3, VOCABULARY, (n, time), generator=g) * mask
    return {"ids": ids, "mask": mask, "y": torch.randint(CLASSES, (n,), generator=g)}


def pictures(n: int, g: torch.Generator, pixels: int = 8) -> dict[str, Tensor]:
    return {"x": torch.randn(n, 3, pixels, pixels, generator=g), "y": torch.randint(CLASSES, (n,), generator=g)}


def sound(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return {"x": torch.randn(n, 96, generator=g), "y": torch.randint(CLASSES, (n,), generator=g)}


def classified(m, b, n):
    return each(m(input_ids=b["ids"], attention_mask=b["mask"]).logits, b["y"])


def following(logits: Tensor, b: dict[str, Tensor]) -> Tensor:
    """Mean over an example's own next tokens."""
    own = F.cross_entropy(logits[:, :-1].transpose(1, 2), b["ids"][:, 1:], reduction="none")
    return (own * b["mask"][:, 1:]).sum(1) / b["mask"][:, 1:].sum(1).clamp_min(1)


def causal(m, b, n):
    return following(m(input_ids=b["ids"], attention_mask=b["mask"], use_cache=False).logits, b)


def translated(m, b, n):
    out = m(input_ids=b["ids"], attention_mask=b["mask"], decoder_input_ids=b["ids"].flip(1), use_cache=False)
    return F.cross_entropy(out.logits.transpose(1, 2), b["ids"], reduction="none").mean(1)


def seen(m, b, n):
    return each(m(pixel_values=b["x"]).logits, b["y"])


SERIES = {
    "num_input_channels": 2,
    "context_length": 8,
    "patch_length": 2,
    "patch_stride": 2,
    "prediction_length": 2,
    "d_model": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "ffn_dim": 8,
}


SPEECH = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": (8, 8),
    "conv_stride": (4, 2),
    "conv_kernel": (8, 3),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
    "classifier_proj_size": 8,
    "num_labels": CLASSES,
}


def residual(training: bool) -> nn.Module:
    sizes = {"embedding_size": 4, "hidden_sizes": [8], "depths": [1], "layer_type": "basic", "num_labels": CLASSES}
    return made("ResNetForImageClassification", "ResNetConfig", **sizes)().train(training)


def clip() -> nn.Module:
    return made("CLIPModel", "CLIPConfig", text_config=TEXT, vision_config=IMAGE, projection_dim=8)()


def times(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return {"x": torch.randn(n, 10, 2, generator=g)}


def forecast(m, b, n):
    return (m(past_values=b["x"][:, :8]).prediction_outputs - b["x"][:, 8:]).square().mean((1, 2))
