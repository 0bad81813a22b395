"""Encoded texts in memory, padded when a batch is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from dplit.data.base import Batch, IndexExamples
from dplit.data.texts.records import Records
from dplit.data.texts.terms import Terms, mentions

Side: TypeAlias = Literal["left", "right"]


class TokenRows(IndexExamples):
    """Encoded texts, kept in one flat array.

    Args:
        ids: the token ids of every text, at least one each.
        records: their classes, groups and units.
        pad: the id of the padding token.
        side: the side on which texts are padded.
        multiple_of: the length of a batch is rounded up to a multiple of this.
        terms: the k identity terms; if there are any, `self.mentions` is `(n, k)` bool: which of them each text mentions.

    Attributes:
        lengths: `(n,)` int64 tokens of each text; a DP strategy puts texts of similar length into one physical batch.

    """

    def __init__(
        self, ids: Sequence[Sequence[int]], records: Records, pad: int, side: Side, multiple_of: int, terms: Terms = ()
    ) -> None:
        self.lengths = torch.tensor([len(row) for row in ids], dtype=torch.int64)
        self.ends = self.lengths.cumsum(0)
        self.starts = self.ends - self.lengths
        self.flat = torch.tensor([token for row in ids for token in row], dtype=torch.int32)
        self.y, self.group = torch.from_numpy(records.y), torch.from_numpy(records.group)
        self.unit = None if records.unit is None else torch.from_numpy(records.unit)
        self.mentions = mentions(records.text, terms) if terms else None
        self.pad, self.side, self.multiple_of = pad, side, multiple_of

    def __len__(self) -> int:
        return len(self.y)

    def contains(self, token: int | None) -> Tensor:
        """Return which texts contain a token, `(n,)` bool; none contains the token None."""
        if token is None:
            return torch.zeros(len(self), dtype=torch.bool)
        count_before = F.pad((self.flat == token).cumsum(0), (1, 0))
        return count_before[self.ends] > count_before[self.starts]

    @override
    def group_ids(self) -> Tensor:
        return self.group

    @override
    def collate(self, samples: Sequence[int]) -> Batch:
        """Return `input_ids (b, T)`, `attention_mask (b, T)`, `y (b,)`, `group (b,)` and `unit (b,)`, all int64.

        `unit` is there if the records have units, and `mentions (b, k)`, bool, if there are identity terms. `T` is the
        length of the longest text of the batch, rounded up to `multiple_of`; an empty batch has shapes (0, 1) and (0,).
        """
        indices = torch.as_tensor(samples, dtype=torch.int64)
        rows = [self.flat[self.starts[i] : self.ends[i]].long() for i in indices]
        width = -(-max(map(len, rows)) // self.multiple_of) * self.multiple_of if rows else 1
        ids, mask = torch.full((len(rows), width), self.pad), torch.zeros(len(rows), width, dtype=torch.int64)
        for i, row in enumerate(rows):
            place = slice(width - len(row), width) if self.side == "left" else slice(len(row))
            ids[i, place], mask[i, place] = row, 1
        batch = {"input_ids": ids, "attention_mask": mask, "y": self.y[indices], "group": self.group[indices]}
        optional = {"unit": self.unit, "mentions": self.mentions}
        return batch | {key: values[indices] for key, values in optional.items() if values is not None}
