"""The workloads: a model, one batch of random data, losses per example, and the goals for its ratio to plain training.

Another workload is one entry in WORKLOADS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Goal(NamedTuple):
    """Seconds over plain: what must be reached, and the floor, which is the arithmetic of the norms alone."""

    must: float
    floor: float | None = None


@dataclass(frozen=True)
class Workload:
    """One model and how it is trained.

    Args:
        title: for people.
        examples: the batch, which is the whole logical batch.
        build: makes the model, random weights, dropout as the model ships it.
        draw: `n -> tensors`, each with n examples in its first dimension.
        losses: `(model, *tensors) -> (n,)`.
        goals: by method.
        memory_goal: live bytes over plain's, of dplit.
        repeat: steps in a turn, for models whose step is too short to time alone.
        autocast: bfloat16 autocast around the forward pass.
        only_cuda: left out on the CPU.
        hidden: only run when named.
    """

    title: str
    examples: int
    build: Callable[[], nn.Module]
    draw: Callable[[int], tuple[Tensor, ...]]
    losses: Callable[..., Tensor]
    goals: Mapping[str, Goal] = field(default_factory=dict)
    memory_goal: float | None = None
    repeat: int = 1
    autocast: bool = False
    only_cuda: bool = False
    hidden: bool = False


# -- text ----------------------------------------------------------------------------------------------------------


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536)
    )


def gpt2(n_embd: int = 768, n_layer: int = 12, n_head: int = 12, tie_word_embeddings: bool = True) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=n_embd, n_layer=n_layer, n_head=n_head, tie_word_embeddings=tie_word_embeddings)
    return GPT2LMHeadModel(config)


def gpt2_medium() -> nn.Module:
    return gpt2(n_embd=1024, n_layer=24, n_head=16)


def gpt2_lora() -> nn.Module:
    from peft import LoraConfig, get_peft_model

    adapter = LoraConfig(r=8, target_modules=["c_attn"], fan_in_fan_out=True)
    return get_peft_model(gpt2(), adapter)  # type: ignore[no-any-return, unused-ignore]


def tokens(length: int, vocabulary: int, *, positions: bool = False) -> Callable[[int], tuple[Tensor, ...]]:
    """Random ids but 0, which pads BERT; with `positions`, position ids for every example too."""

    def draw(n: int) -> tuple[Tensor, ...]:
        ids = torch.randint(1, vocabulary, (n, length))
        return (ids, torch.arange(length).repeat(n, 1)) if positions else (ids,)

    return draw


def next_token(model: nn.Module, ids: Tensor, *positions: Tensor) -> Tensor:
    """Mean over an example's tokens."""
    logits = model(ids, position_ids=positions[0] if positions else None).logits
    targets = ids.roll(-1, 1).flatten()
    return F.cross_entropy(logits.flatten(0, 1), targets, reduction="none").view(ids.shape).mean(1)


def by_parity(model: nn.Module, ids: Tensor, *positions: Tensor) -> Tensor:
    """Two classes, told by the first token."""
    logits = model(ids, position_ids=positions[0] if positions else None).logits
    return F.cross_entropy(logits, ids[:, 0] % 2, reduction="none")


# -- images and tables ---------------------------------------------------------------------------------------------


def norm(channels: int) -> nn.Module:
    return nn.GroupNorm(16, channels)


def conv(fan_in: int, fan_out: int, size: int = 3, stride: int = 1) -> nn.Module:
    return nn.Conv2d(fan_in, fan_out, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
    """The basic pre-activation block of Zagoruyko & Komodakis 2016, arXiv:1605.07146."""

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.norm = nn.Sequential(norm(fan_in), nn.ReLU())
        self.body = nn.Sequential(
            conv(fan_in, fan_out, 3, stride), norm(fan_out), nn.ReLU(), conv(fan_out, fan_out, 3, 1)
        )
        self.road = conv(fan_in, fan_out, 1, stride) if (fan_in, stride) != (fan_out, 1) else None

    def forward(self, x: Tensor) -> Tensor:
        """(n, fan_in, h, w) -> (n, fan_out, h/stride, w/stride)."""
        h = self.norm(x)
        return self.body(h) + (x if self.road is None else self.road(h))  # type: ignore[no-any-return]


def wide_resnet(depth: int = 16, width: int = 4, classes: int = 10) -> nn.Module:
    """WideResNet with GroupNorm in place of BatchNorm."""
    channels = [16, *(16 * width * 2**i for i in range(3))]
    layers: list[nn.Module] = [conv(3, 16)]
    for i, (fan_in, fan_out) in enumerate(pairwise(channels)):
        for j in range((depth - 4) // 6):
            layers.append(Block(fan_in if j == 0 else fan_out, fan_out, 2 if i and j == 0 else 1))
    head = [norm(channels[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes)]
    return nn.Sequential(*layers, *head)


def mlp(*widths: int) -> nn.Module:
    layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def labelled(classes: int, *shape: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda n: (torch.randn(n, *shape), torch.randint(classes, (n,)))


def classified(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y, reduction="none")


# -- all -----------------------------------------------------------------------------------------------------------

GPT2_WORDS, BERT_WORDS = 50257, 30522

WORKLOADS: dict[str, Workload] = {
    "W1": Workload(
        "BERT 384×6, T 128, B 32",
        32,
        bert,
        tokens(128, BERT_WORDS),
        by_parity,
        {"dplit": Goal(1.20, 1.08), "dplit-trainer": Goal(1.20)},
        memory_goal=1.08,
    ),
    "W1p": Workload(
        "W1 with position ids given for every example, which Opacus needs",
        32,
        bert,
        tokens(128, BERT_WORDS, positions=True),
        by_parity,
    ),
    "W2": Workload(
        "GPT-2 small as shipped (tied), T 256, B 4",
        4,
        gpt2,
        tokens(256, GPT2_WORDS),
        next_token,
        {"dplit": Goal(1.20, 1.06)},
        memory_goal=1.08,
    ),
    "W2p": Workload(
        "W2 with position ids given for every example, which Opacus needs",
        4,
        gpt2,
        tokens(256, GPT2_WORDS, positions=True),
        next_token,
    ),
    "W2u": Workload(
        "W2p with an untied head, which Opacus ghost needs",
        4,
        lambda: gpt2(tie_word_embeddings=False),
        tokens(256, GPT2_WORDS, positions=True),
        next_token,
    ),
    "W2L": Workload(
        "GPT-2 small as shipped (tied), T 512, B 2",
        2,
        gpt2,
        tokens(512, GPT2_WORDS),
        next_token,
        {"dplit": Goal(1.22, 1.12)},
    ),
    "W2Lu": Workload(
        "W2L with an untied head and position ids given for every example, which Opacus ghost needs",
        2,
        lambda: gpt2(tie_word_embeddings=False),
        tokens(512, GPT2_WORDS, positions=True),
        next_token,
    ),
    "W3": Workload(
        "W2 with LoRA r = 8 on c_attn, T 256, B 4",
        4,
        gpt2_lora,
        tokens(256, GPT2_WORDS),
        next_token,
        {"dplit": Goal(1.05, 1.0)},
    ),
    "W4": Workload(
        "WideResNet-16-4 with GroupNorm, 32×32, B 64",
        64,
        wide_resnet,
        labelled(10, 3, 32, 32),
        classified,
        {"dplit": Goal(1.60, 1.28)},
    ),
    "W5": Workload(
        "MLP 100-256-256-2, B 512",
        512,
        lambda: mlp(100, 256, 256, 2),
        labelled(2, 100),
        classified,
        {"dplit": Goal(1.55, 1.0)},
        repeat=20,
    ),
    "G2": Workload(
        "GPT-2 small as shipped (tied), T 512, B 16, bf16 autocast",
        16,
        gpt2,
        tokens(512, GPT2_WORDS),
        next_token,
        autocast=True,
        only_cuda=True,
    ),
    "G2u": Workload(
        "G2 with an untied head and position ids given for every example, which Opacus ghost needs",
        16,
        lambda: gpt2(tie_word_embeddings=False),
        tokens(512, GPT2_WORDS, positions=True),
        next_token,
        autocast=True,
        only_cuda=True,
    ),
    "G2M": Workload(
        "GPT-2 medium as shipped (tied), T 512, B 8, bf16 autocast",
        8,
        gpt2_medium,
        tokens(512, GPT2_WORDS),
        next_token,
        autocast=True,
        only_cuda=True,
    ),
    "smoke": Workload(
        "MLP 10-16-2, B 8", 8, lambda: mlp(10, 16, 2), labelled(2, 10), classified, {"dplit": Goal(9.0)}, hidden=True
    ),
}
