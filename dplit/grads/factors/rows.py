"""Gradients of a tensor that has rows for each example, where no other example uses them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dplit.grads.factors.base import FactoredGrad, flattened, sq_norms, wide
from dplit.grads.factors.reshaped import ReshapedGrad


@dataclass(frozen=True)
class RowPerExampleGrad(FactoredGrad):
    """The gradient of a tensor with one row per example: gᵢ is zero outside example i's row, so n rows stand for n × n."""

    grads: Tensor
    """`(n, *s[1:])`: the row of gᵢ that is not zero."""
    rows: Tensor
    """`(n,)`: which row of the parameter it is."""
    length: int
    """s[0], the number of rows of the parameter."""

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
        return sq_norms(flattened(self.grads))

    def inner_with(self, other: FactoredGrad) -> Tensor | None:
        if isinstance(other, RowPerExampleGrad):
            return (flattened(self.grads) * flattened(other.grads)).sum(1)
        return None

    def weighted_sum(self, weights: Tensor) -> Tensor:
        grads = wide(self.grads)
        scaled = grads * weights.to(grads.dtype).view(-1, *[1] * (grads.dim() - 1))
        total = scaled.new_zeros(self.length, *self.grads.shape[1:])
        return total.index_add_(0, self.rows, scaled)


def row_per_example_grad(grads: Tensor, examples: int) -> FactoredGrad:
    """Return the gradient of a tensor of shape `(n·k, ...)` that has k rows for each example.

    Args:
        grads: `(n·k, ...)`, the gradient of each row.
        examples: n.
    """
    by_example = grads.unflatten(0, (examples, -1))
    rows = torch.arange(examples, device=grads.device)
    if by_example.shape[1] == 1:
        return RowPerExampleGrad(by_example[:, 0], rows, examples)
    return ReshapedGrad(RowPerExampleGrad(by_example, rows, examples), tuple(by_example.shape), tuple(grads.shape))
