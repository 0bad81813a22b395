"""A draw as it reaches the trainer: cut into physical batches, each collated by the user's own function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dplit.protocols import UnitSamples, single_samples
from dplit.sampling.units import owners


class PhysicalBatch:
    """One part of a draw, as the person's collate function made it, and how many rows and units it holds.

    Args:
        batch: collated.
        rows: examples in it.
        owner: `(rows,)` which of its `units` each belongs to; None where each is a unit by itself.
        units: how many things were drawn.
        who: who each unit is, where persons are drawn.

    Attributes:
        more: the further physical batches of its one unit, where that has more rows than go into one.
    """

    def __init__(
        self, batch: Any, rows: int, owner: Tensor | None, units: int, who: Sequence[Any] | None = None
    ) -> None:
        self.batch = batch
        self.rows = rows
        self.owner = owner
        self.units = units
        self.who = who
        self.more: tuple[PhysicalBatch, ...] = ()


class Draw:
    """All records of one Poisson draw; it may have no parts. Opaque to whatever maps over collections.

    Args:
        parts: the physical batches.
        rate: each record's probability to have been drawn.
        records: N, how many there were to draw from.
    """

    def __init__(self, parts: tuple[PhysicalBatch, ...], rate: float, records: int) -> None:
        self.parts = parts
        self.rate = rate
        self.records = records

    @property
    def size(self) -> int:
        """Records, or units, drawn: private, it never leaves."""
        return sum(part.units for part in self.parts)


class PhysicalCollate:
    """Cuts a draw into physical batches and collates each by the person's own function.

    What belongs together stays together: a unit of more rows than `most` is one physical batch, and `more` of its own.
    `most` may be set while a loader is in use; its workers follow if it is shared.
    """

    def __init__(
        self, collate: Callable[[list[Any]], Any], most: int, rate: float, records: int, shared: bool = False
    ) -> None:
        self.collate = collate
        self.rate = rate
        self.records = records
        self._most = torch.tensor(most)
        if shared:
            self._most.share_memory_()

    @property
    def most(self) -> int:
        """Most rows of a physical batch, except for a unit that holds more."""
        return int(self._most)

    @most.setter
    def most(self, most: int) -> None:
        self._most.fill_(most)

    def __call__(self, samples: Sequence[Any]) -> Draw:
        """Return the draw of these samples, which may be none."""
        return Draw(tuple(self._limited(cut) for cut in _cuts(samples, self.most)), self.rate, self.records)

    def part(self, samples: Sequence[Any]) -> PhysicalBatch:
        """Return one physical batch of these samples."""
        rows = list(single_samples(samples))
        who = [getattr(sample, "who", None) for sample in samples] if _persons(samples) else None
        return PhysicalBatch(self.collate(rows), len(rows), owners(samples), len(samples), who)

    def _limited(self, samples: Sequence[Any]) -> PhysicalBatch:
        if len(samples) > 1 or _rows(samples[0]) <= self.most:
            return self.part(samples)
        first, *more = (self.part([piece]) for piece in _pieces(samples[0], self.most))
        first.more = tuple(more)
        return first


def _persons(samples: Sequence[Any]) -> bool:
    return bool(samples) and getattr(samples[0], "who", None) is not None


def _rows(sample: Any) -> int:
    return len(sample) if isinstance(sample, UnitSamples) else 1


def _pieces(unit: UnitSamples, most: int) -> Iterator[UnitSamples]:
    for start in range(0, len(unit), most):
        piece = UnitSamples(unit[start : start + most])
        piece.who = unit.who
        yield piece


def _cuts(samples: Sequence[Any], most: int) -> Iterator[list[Any]]:
    cut: list[Any] = []
    rows = 0
    for sample in samples:
        size = _rows(sample)
        if cut and rows + size > most:
            yield cut
            cut, rows = [], 0
        cut.append(sample)
        rows += size
    if cut:
        yield cut
