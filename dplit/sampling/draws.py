"""A draw as it reaches the trainer: cut into physical batches, each collated by the user's own function."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from dplit.errors import PrivacyError
from dplit.protocols import UnitSamples, single_samples
from dplit.sampling.units import owners


class NoBatch(PrivacyError, AttributeError):
    """A draw was read as if it were a batch; for `hasattr`, it has no such attribute."""


class DrawSize(int):
    """How many units were drawn. A draw is no tensor: where `draw.size(0)` is asked for, what it is is told."""

    error: NoBatch

    def __call__(self, *args: object) -> NoReturn:
        """Refuse to be the `size` of a tensor.

        Raises:
            NoBatch: always.
        """
        raise self.error


class PhysicalBatch:
    """One part of a draw, collated, with how many rows and units it holds.

    Args:
        batch: what the user's collate function returned.
        rows: examples in it.
        owner: `(rows,)` which of its `units` each row belongs to; None where each row is a unit by itself.
        units: how many units were drawn: persons where persons are drawn, else records.
        who: who each unit is, where persons are drawn.
        more: further physical batches of its single unit, where that has more rows than go into one.
    """

    def __init__(
        self,
        batch: Any,
        rows: int,
        owner: Tensor | None,
        units: int,
        who: Sequence[Hashable] | None = None,
        more: tuple[PhysicalBatch, ...] = (),
    ) -> None:
        self.batch = batch
        self.rows = rows
        self.owner = owner
        self.units = units
        self.who = who
        self.more = more


class Draw:
    """All records of one Poisson draw; it may have no parts.

    It is a plain object, so that functions which map over collections of tensors leave it alone. Callbacks and hooks get it
    where they would get a batch, and are told so where they read it as one.

    Args:
        parts: the physical batches.
        rate: each record's probability to have been drawn.
        records: N, how many there were to draw from.

    Raises:
        NoBatch: it was read like a batch: an entry, a length, an attribute such as `shape`.
    """

    def __init__(self, parts: tuple[PhysicalBatch, ...], rate: float, records: int) -> None:
        self.parts = parts
        self.rate = rate
        self.records = records

    @property
    def size(self) -> DrawSize:
        """How many units were drawn. This number is private: it must not be logged or released."""
        size = DrawSize(sum(part.units for part in self.parts))
        size.error = self._no_batch("the size of a tensor")
        return size

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> NoReturn:
        raise self._no_batch("its length")

    def __getitem__(self, key: object) -> NoReturn:
        raise self._no_batch(f"entry {key!r}")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_") or name in ("parts", "rate", "records"):
            raise AttributeError(name)
        raise self._no_batch(f"{name!r}")

    def _no_batch(self, what: str) -> NoBatch:
        return NoBatch(
            f"{what} was read of a Poisson draw, which is no batch: its records come to training_step in physical batches, "
            "and how many they are is private; where a batch size is wanted, give the expected one, as in "
            f"ThroughputMonitor(batch_size_fn=lambda batch: {round(self.rate * self.records)})"
        )


class PhysicalCollate:
    """The collate function of a Poisson loader: cuts a draw into physical batches and collates each.

    A unit is never split between two physical batches of other units: one with more than `max_rows` rows becomes a
    physical batch by itself, whose rows beyond the limit are in `PhysicalBatch.more`.

    Args:
        collate: the user's own function, from a list of samples to a batch.
        max_rows: most rows to collate at one time; it may be set while the loader is in use.
        rate: each record's probability to be drawn.
        records: N, how many there are to draw from.
        shared: keep `max_rows` in memory that the loader's worker processes share.
    """

    def __init__(
        self, collate: Callable[[list[Any]], Any], max_rows: int, rate: float, records: int, shared: bool = False
    ) -> None:
        self.collate = collate
        self.rate = rate
        self.records = records
        self._max_rows = torch.tensor(max_rows)
        if shared:
            self._max_rows.share_memory_()

    @property
    def max_rows(self) -> int:
        """Most rows that are collated at one time."""
        return int(self._max_rows)

    @max_rows.setter
    def max_rows(self, max_rows: int) -> None:
        self._max_rows.fill_(max_rows)

    def __call__(self, samples: Sequence[object]) -> Draw:
        """Return the draw of these samples, which may be none."""
        runs = cut_into_physical_batches(samples, self.max_rows)
        return Draw(tuple(self._physical_batch(run) for run in runs), self.rate, self.records)

    def together(self, samples: Sequence[object], more: tuple[PhysicalBatch, ...] = ()) -> PhysicalBatch:
        """Return one physical batch of these samples, however many rows they have."""
        rows = list(single_samples(samples))
        who = [sample.who for sample in samples if isinstance(sample, UnitSamples) and sample.who is not None]
        return PhysicalBatch(self.collate(rows), len(rows), owners(samples), len(samples), who or None, more)

    def _physical_batch(self, samples: Sequence[object]) -> PhysicalBatch:
        """Return one physical batch of these samples; a single unit that is too large is collated piece by piece."""
        first = samples[0]
        if len(samples) > 1 or not isinstance(first, UnitSamples) or len(first) <= self.max_rows:
            return self.together(samples)
        piece, *others = _pieces(first, self.max_rows)
        return self.together([piece], tuple(self.together([other]) for other in others))


def cut_into_physical_batches(samples: Sequence[object], max_rows: int) -> Iterator[list[object]]:
    """Cut samples, in their order, into runs of `max_rows` rows at most; a larger unit is a run by itself."""
    run: list[object] = []
    rows = 0
    for sample in samples:
        size = len(sample) if isinstance(sample, UnitSamples) else 1
        if run and rows + size > max_rows:
            yield run
            run, rows = [], 0
        run.append(sample)
        rows += size
    if run:
        yield run


def _pieces(unit: UnitSamples, max_rows: int) -> Iterator[UnitSamples]:
    """Cut a unit into units of `max_rows` rows at most that belong to the same person."""
    for start in range(0, len(unit), max_rows):
        piece = UnitSamples(unit[start : start + max_rows])
        piece.who = unit.who
        yield piece
