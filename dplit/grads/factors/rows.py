"""Gradients of a tensor that has one row for each example."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dplit.grads.factors.base import FactoredGrad, flat, sq, wide
from dplit.grads.factors.reshaped import ReshapedGrad


@dataclass(frozen=True)
class RowPerExampleGrad(FactoredGrad):
    """A tensor with one row per example, gᵢ being zero outside row i: n rows stand for n × n of them."""

    grads: Tensor
    """`(n, *s[1:])`: row i of gᵢ."""
    rows: Tensor
    """`(n,)`: which row of the parameter each of them is."""
    length: int
    """s[0], the number of rows the parameter has."""

    @property
    def examples(self) -> int:
        return self.grads.shape[0]

    @property
    def size(self) -> int:
        return self.length * self.grads[:1].numel()

    def select(self, index: Tensor | slice) -> RowPerExampleGrad:
        return RowPerExampleGrad(self.grads[index], self.rows[index], self.length)

    def dense(self) -> Tensor:
        full = self.grads.new_zeros(self.examples, self.length, *self.grads.shape[1:])
        full[torch.arange(self.examples, device=full.device), self.rows] = self.grads
        return full

    def sq_norm(self) -> Tensor:
        return sq(flat(self.grads))

    def inner_with(self, other: FactoredGrad) -> Tensor | None:
        if isinstance(other, RowPerExampleGrad):
            return (flat(self.grads) * flat(other.grads)).sum(1)
        return None

    def weighted_sum(self, weights: Tensor) -> Tensor:
        grads = wide(self.grads)
        scaled = grads * weights.to(grads.dtype).view(-1, *[1] * (grads.dim() - 1))
        total = scaled.new_zeros(self.length, *self.grads.shape[1:])
        return total.index_add_(0, self.rows, scaled)


def own_rows(grads: Tensor, examples: int) -> FactoredGrad:
    """Return the use of a tensor `(n·k, ...)` whose rows are k of each example, from their gradients."""
    own = grads.unflatten(0, (examples, -1))
    rows = torch.arange(examples, device=grads.device)
    if own.shape[1] == 1:
        return RowPerExampleGrad(own[:, 0], rows, examples)
    return ReshapedGrad(RowPerExampleGrad(own, rows, examples), tuple(own.shape), tuple(grads.shape))
