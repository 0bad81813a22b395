"""What a private step takes in of a draw: physical batches, of examples or of units with several rows each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dplit.grads.backends import averaged, joined
from dplit.grads.factors.units import Units
from dplit.grads.per_example import PerExample
from dplit.sampling.draws import PhysicalBatch
from dplit.training.step import PrivateStep


@dataclass(frozen=True)
class Intake:
    """Adds the clipped gradients of physical batches to a step.

    Args:
        step: one that has begun.
        place: from a physical batch to its batch on the device.
        run: from that and its number of rows to losses and gradients, of one or several parts.
        ids: from it and the physical batch to the group ids of its examples or units, None where the policy reads none.
        device: of the gradients.
    """

    step: PrivateStep
    place: Callable[[PhysicalBatch], Any]
    run: Callable[[Any, int], Iterator[tuple[Tensor, PerExample]]]
    ids: Callable[[Any, PhysicalBatch], Tensor | None]
    device: torch.device

    def add(self, part: PhysicalBatch) -> Tensor:
        """Add one physical batch; returns the sum of its examples' losses, or of its units' mean losses."""
        batch = self.place(part)
        ids = self.ids(batch, part)
        if part.owner is None:
            return self._examples(batch, part, ids)
        return self._in_pieces(part, ids) if part.more else self._units(batch, part, part.owner, ids)

    def _examples(self, batch: Any, part: PhysicalBatch, ids: Tensor | None) -> Tensor:
        total, start = torch.zeros((), device=self.device), 0
        for losses, found in self.run(batch, part.rows):
            self.step.accumulate(found, None if ids is None else ids[start : start + found.examples])
            total, start = total + losses.sum(), start + found.examples
        return total

    def _units(self, batch: Any, part: PhysicalBatch, owner: Tensor, ids: Tensor | None) -> Tensor:
        """Add units, each the mean of its rows."""
        units = Units(owner.to(self.device), part.units)
        parts = list(self.run(batch, part.rows))
        self.step.accumulate(joined(parts).averaged(units), ids)
        losses = torch.cat([one.expand(1) if one.dim() == 0 else one for one, _ in parts])
        return units.means(losses).sum() if len(losses) == part.rows else losses.sum() * part.units / part.rows

    def _in_pieces(self, part: PhysicalBatch, ids: Tensor | None) -> Tensor:
        """Add one unit of more rows than go through the model at one time."""
        pieces = (part, *part.more)
        runs = (run for piece in pieces for run in self.run(self.place(piece), piece.rows))
        loss, found = averaged(runs, sum(piece.rows for piece in pieces))
        self.step.accumulate(found, ids)
        return loss
