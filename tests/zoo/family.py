"""What a family is: a module, a batch whose tensors have the examples first, and a loss for each example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY, WIDTH, CLASSES, PADDING = 53, 16, 3, 0
"""None of them is a multiple of three, the number of examples of the first size below."""


@dataclass(frozen=True)
class Size:
    """How many examples, and how many tokens each."""

    examples: int
    tokens: int


APART, ALIKE, ALONE = Size(3, 7), Size(4, 8), Size(1, 7)
"""Examples that no other dimension is a multiple of; examples as many as heads, half as many as tokens; one example."""

Loss = Callable[[Any, Tensor], Tensor]
"""`(what the module returned, labels)` to `(n,)`."""


@dataclass(frozen=True)
class Subject:
    """A module, the batch it is called with by keyword, and the loss of each example."""

    module: nn.Module
    inputs: dict[str, Tensor]
    labels: Tensor
    loss: Loss

    def losses(self, at: slice = slice(None)) -> Tensor:
        """`(n,)` losses of the examples in `at`, computed in one batch."""
        return self.loss(self.module(**{name: v[at] for name, v in self.inputs.items()}), self.labels[at])


@dataclass(frozen=True)
class Case:
    """One family with one head."""

    family: str
    head: str
    build: Callable[[Size], Subject]
    promised: bool = True
    """Exact, not merely exact or refused."""
    coupled: bool = False
    """Its examples depend on one another or change places, which the tape or the probe must find."""
    targets: str | tuple[str, ...] = "all-linear"
    """What LoRA adapts; empty where there is nothing it could."""
    only: torch.dtype | None = None
    """The one type that its kernels take."""
    rounds: bool = False
    """It applies weights in float32 whatever their type."""
    tied: bool = False
    """Its output layer is its table of embeddings."""

    @property
    def name(self) -> str:
        return f"{self.family} {self.head}".strip()


CASES: dict[str, Case] = {}


def case(family: str, head: str = "", **facts: Any) -> Callable[[Callable[[Size], Subject]], Callable[[Size], Subject]]:
    """Register `build(size)`, a family's subject of that size, under a row of the table."""

    def register(build: Callable[[Size], Subject]) -> Callable[[Size], Subject]:
        registered = Case(family, head, build, **facts)
        CASES[registered.name] = registered
        return build

    return register


def quiet(config: Any) -> Any:
    """Return a transformers config without dropout of any kind, in its parts too."""
    for name, value in list(vars(config).items()):
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
        elif hasattr(value, "to_dict"):
            quiet(value)
    return config


def text(size: Size, **more: Tensor) -> dict[str, Tensor]:
    """Return token ids of unequal lengths, padded on the right, with their mask."""
    n, t = size.examples, size.tokens
    mask = torch.arange(t)[None] < torch.tensor([t - 2 * (i % 3) for i in range(n)])[:, None]
    ids = torch.randint(5, VOCABULARY, (n, t)).where(mask, torch.tensor(PADDING))
    return {"input_ids": ids, "attention_mask": mask.long(), **more}


def image(size: Size, pixels: int = 16) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(size.examples, 3, pixels, pixels)}


def classes(size: Size) -> Tensor:
    return torch.randint(0, CLASSES, (size.examples,))


def following(inputs: dict[str, Tensor]) -> Tensor:
    """Each token's successor, -100 where there is none."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    return F.pad(ids.masked_fill(mask == 0, -100)[:, 1:], (0, 1), value=-100)


def hidden(inputs: dict[str, Tensor]) -> Tensor:
    """Every other token to be predicted, -100 elsewhere."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    return ids.masked_fill((mask == 0) | (torch.arange(ids.shape[1]) % 2 == 1), -100)


def each_class(output: Any, labels: Tensor) -> Tensor:
    return F.cross_entropy(_logits(output), labels, reduction="none")


def each_token(output: Any, labels: Tensor) -> Tensor:
    """Mean over an example's own labelled tokens."""
    losses = F.cross_entropy(_logits(output).transpose(1, 2), labels, reduction="none", ignore_index=-100)
    return losses.sum(1) / (labels != -100).sum(1)


def as_returned(output: Any, labels: Tensor) -> Tensor:
    return output


def _logits(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits
