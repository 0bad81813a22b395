"""Sums, means and maxima of table rows: `F.embedding_bag` with as many ids in every bag."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dplit.grads.rules.embedding import embedding
from dplit.grads.tape.registry import rule

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape

Pool = Callable[[Tensor, Tensor], Tensor]
"""From `(bags, length, d)` rows, and `(bags, length, 1)` booleans that say which of them count, to `(bags, d)`."""


def _maximum(rows: Tensor, counts: Tensor) -> Tensor:
    """Return the maximum of the rows that count; zero, as torch does, for a bag of padding alone."""
    maximum: Tensor = rows.masked_fill(~counts, -torch.inf).max(1).values
    return torch.where(counts.any(1), maximum, 0)


POOLS: dict[str, Pool] = {
    "sum": lambda rows, counts: rows.masked_fill(~counts, 0).sum(1),
    "mean": lambda rows, counts: rows.masked_fill(~counts, 0).sum(1) / counts.sum(1).clamp_min(1),
    "max": _maximum,
}


@rule(F.embedding_bag)
def embedding_bag(
    tape: Tape,
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """`F.embedding_bag` of `(n·k, length)` ids, a bag in each row: a look-up followed by pooling.

    Raises:
        UnsupportedOperation: bags are given by offsets; `max_norm` or `scale_grad_by_freq` is set; or the weights of the
            ids are parameters or come with another mode than "sum".
    """
    if offsets is not None or input.dim() != 2:
        why = (
            "finds its bags by offsets, which do not say whose each bag is; give padded ids of shape (examples, length)"
        )
        raise tape.refusal(F.embedding_bag, (weight,), why)
    if per_sample_weights is not None and (tape.tracked(per_sample_weights) is not None or mode != "sum"):
        why = f"takes per_sample_weights as data and with mode='sum' only, got mode={mode!r}; use F.embedding"
        raise tape.refusal(F.embedding_bag, (weight, per_sample_weights), why)
    tape.check_outermost(F.embedding_bag, input, weight)
    ids = input.clone() if tape.is_constant(input) else input
    rows = embedding(tape, ids, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq)
    counts = torch.ones_like(ids, dtype=torch.bool) if padding_idx is None else ids != padding_idx % len(weight)
    rows = rows if per_sample_weights is None else rows * per_sample_weights[..., None]
    return POOLS[mode](rows, counts[..., None])
