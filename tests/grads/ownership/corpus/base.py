"""What a training step of the corpus is: a module, a batch, its losses, and whether they mix examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = dict[str, Tensor] | tuple[Tensor, ...]
Losses = Callable[[Any, Any, int], Tensor]
"""`(module, batch, n)` to `(n,)` losses, or to a scalar for steps whose point is the reduction."""

FEATURES, WIDTH, CLASSES, TIME, VOCABULARY = 6, 8, 3, 5, 11
"""Each of them is the number of examples of some batch of the corpus, which has 2 to 9 or so."""


@dataclass(frozen=True)
class Step:
    """One training step. Its numbers are those of the default dtype, its draws those of the seeded global generators."""

    name: str
    kind: str
    make: Callable[[], nn.Module]
    """Build the module, whose parameters are trained."""
    batch: Callable[[int, torch.Generator], Batch]
    """Build a batch of n examples: the first dimension of each of its tensors."""
    losses: Losses
    mixes: bool
    """Whether some loss, or its gradient, depends on another example: on its values, or on its presence."""
    by: str = ""
    """For couplings: parts of names of the operation or Python read that mixes, alternatives parted by `|`.
    Empty where no torch function does (the number of examples in Python, a hook in the backward pass)."""
    source: str = ""
    """Paper or usual code that it comes from."""
    reduction: str = ""
    """For honest scalars: "mean" or "sum", over the examples, of the losses of each alone."""
    later: bool = False
    """What this batch leaves in the module is what the losses of the *next* one depend on."""
    calls: int = 1
    """The number of the call from which it mixes."""
    reads: str = ""
    """For honest steps: the Python reads of several examples that do no harm, alternatives parted by `|`."""
    tolerance: float = 1e-9
    """For honest steps: larger where a model computes in float32 whatever its type."""
    witness: Callable[[], tuple[Batch, Batch]] | None = None
    """For rare couplings: two batches that differ in one example and by which another's loss changes."""

    def named(self, text: str) -> bool:
        """Whether a message names one of the operations that mix."""
        return any(part in text for part in self.by.split("|"))


STEPS: dict[str, Step] = {}


def step(name: str, kind: str, **facts: Any) -> Callable[[Losses], Losses]:
    """Register the losses below under a name; without more facts, of `Net` and labelled vectors."""

    def register(losses: Losses) -> Losses:
        if name in STEPS:
            raise ValueError(f"two steps are named {name!r}")
        STEPS[name] = Step(**{"name": name, "kind": kind, "make": Net, "batch": vectors, "losses": losses, **facts})
        return losses

    return register


def coupling(name: str, kind: str, by: str = "", **facts: Any) -> Callable[[Losses], Losses]:
    return step(name, kind, by=by, mixes=True, **facts)


def honest(name: str, kind: str, **facts: Any) -> Callable[[Losses], Losses]:
    return step(name, kind, mixes=False, **facts)


class Net(nn.Module):
    """A layer, a head, and whatever parts a step adds by name."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
        for name, part in parts.items():
            self.add_module(name, part)

    def hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x))


def net(**parts: Callable[[], nn.Module]) -> Callable[[], Net]:
    """Return a maker of `Net` with parts, each made anew."""
    return lambda: Net(**{name: part() for name, part in parts.items()})


def each(logits: Tensor, y: Tensor) -> Tensor:
    """Return the `(n,)` cross entropies of `(n, classes)` logits."""
    return F.cross_entropy(logits, y, reduction="none")


def vectors(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return {"x": torch.randn(n, FEATURES, generator=g), "y": torch.randint(CLASSES, (n,), generator=g)}


def pairs(n: int, g: torch.Generator) -> dict[str, Tensor]:
    """Two views of each example."""
    return {**vectors(n, g), "z": torch.randn(n, FEATURES, generator=g)}


def grouped(n: int, g: torch.Generator) -> dict[str, Tensor]:
    """Labelled vectors of two groups."""
    return {**vectors(n, g), "group": torch.randint(2, (n,), generator=g)}


def scored(n: int, g: torch.Generator) -> dict[str, Tensor]:
    """Vectors with a real target."""
    return {"x": torch.randn(n, FEATURES, generator=g), "t": torch.randn(n, generator=g)}


def images(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return {"x": torch.randn(n, 2, 8, 8, generator=g), "y": torch.randint(CLASSES, (n,), generator=g)}


def series(n: int, g: torch.Generator) -> dict[str, Tensor]:
    """Examples first, then time."""
    return {"x": torch.randn(n, TIME, FEATURES, generator=g), "y": torch.randint(CLASSES, (n,), generator=g)}


def tokens(n: int, g: torch.Generator) -> dict[str, Tensor]:
    """Token ids of 1 to 7 tokens, padded with 0, their mask and lengths, a label of each example."""
    lengths = torch.randint(1, 8, (n,), generator=g)
    mask = (torch.arange(7) < lengths[:, None]).long()
    ids = torch.randint(1, VOCABULARY, (n, 7), generator=g) * mask
    return {"ids": ids, "mask": mask, "lengths": lengths, "y": torch.randint(CLASSES, (n,), generator=g)}


class Reader(nn.Module):
    """A table of token embeddings and a head of classes."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, CLASSES)
        for name, part in parts.items():
            self.add_module(name, part)


def reader(**parts: Callable[[], nn.Module]) -> Callable[[], Reader]:
    return lambda: Reader(**{name: part() for name, part in parts.items()})
