"""Texts with their classes, groups and units, before they are encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dplit.data.base import Ids, split


@dataclass(frozen=True)
class Records:
    """Texts with their classes and groups.

    Args:
        text: `n` texts; an empty text is a record too.
        y: `(n,)` int64 class ids.
        group: `(n,)` int64 group ids.
        unit: `(n,)` int64, the unit that each record belongs to, such as a person; None if the data do not say.

    """

    text: Sequence[str]
    y: Ids
    group: Ids
    unit: Ids | None = None

    def __len__(self) -> int:
        return len(self.text)

    def part(self, indices: Ids) -> Records:
        """Return the records with these indices."""
        unit = None if self.unit is None else self.unit[indices]
        return Records([self.text[i] for i in indices], self.y[indices], self.group[indices], unit)

    def with_copies(self, copies: Sequence[Sequence[str]]) -> Records:
        """Return the records, followed by their copies, which have another text but the same class, group and unit.

        Args:
            copies: the texts of the copies of each of the `n` records.

        """
        records = np.arange(len(self))
        originals = np.repeat(records, [len(texts) for texts in copies])
        text = [*self.text, *(copy for texts in copies for copy in texts)]
        return replace(self.part(np.concatenate([records, originals])), text=text)

    def split(self, fraction: float) -> tuple[Records, Records]:
        """Return the records kept and the records held out, chosen by record number alone.

        If there are units, `fraction` is a share of the units, numbered in the order in which they first appear, and all
        records of a unit are in one part.
        """
        if self.unit is None:
            held_out, kept = split(len(self), fraction)
            return self.part(kept), self.part(held_out)
        units = _numbered_by_appearance(self.unit)
        is_held_out = np.isin(units, split(int(units.max()) + 1, fraction)[0])
        return self.part(np.flatnonzero(~is_held_out)), self.part(np.flatnonzero(is_held_out))


def _numbered_by_appearance(unit: Ids) -> Ids:
    """Number units from 0 in the order in which they first appear, `(n,)`."""
    _, first, inverse = np.unique(unit, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse], dtype=np.int64)
