"""Views and copies of a parameter alone: how uses of `W.T`, `W.view(...)`, `W.to(...)`, `W.expand(...)` are uses of W."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dplit.grads.ops.linear import LinearUse
from dplit.grads.ops.matmul import BatchedLinearUse
from dplit.grads.rules import pull
from dplit.grads.use import AlignedUse, DenseUse, Use, inner

if TYPE_CHECKING:
    from dplit.grads.source import Derived


@dataclass(frozen=True)
class ReshapedUse(Use):
    """A use of d seen from p, where d holds the numbers of p in the same order under another shape."""

    use: Use
    seen: tuple[int, ...]
    """d's shape."""
    shape: tuple[int, ...]
    """p's shape."""

    @property
    def examples(self) -> int:
        return self.use.examples

    @property
    def size(self) -> int:
        return self.use.size

    def select(self, index: Tensor | slice) -> ReshapedUse:
        return replace(self, use=self.use.select(index))

    def dense(self) -> Tensor:
        return self.use.dense().reshape(self.examples, *self.shape)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        return self.use.weighted_sum(weights).reshape(self.shape)

    def sq_norm(self) -> Tensor:
        return self.use.sq_norm()

    def inner_with(self, other: Use) -> Tensor | None:
        if isinstance(other, ReshapedUse) and other.seen == self.seen:
            return inner(self.use, other.use)
        return None


@pull(
    torch.permute,
    torch.transpose,
    torch.t,
    torch.swapaxes,
    torch.swapdims,
    torch.movedim,
    Tensor.permute,
    Tensor.transpose,
    Tensor.t,
    Tensor.swapaxes,
    Tensor.swapdims,
    Tensor.movedim,
    Tensor.T.__get__,  # type: ignore[attr-defined]
    Tensor.mT.__get__,  # type: ignore[attr-defined]
)
def turned(derived: Derived, use: Use) -> Use | None:
    """Gradients kept as they are are turned back; a linear map's transpose has the roles of x and back exchanged."""
    order = _order(derived)
    last_two = [*range(len(order) - 2), len(order) - 1, len(order) - 2]
    if isinstance(use, DenseUse):
        back = [0, *(order.index(i) + 1 for i in range(len(order)))]
        return DenseUse(use.grads.permute(back).contiguous())
    if isinstance(use, LinearUse) and order == last_two and derived.graph.shape[:-2].numel() == 1:
        return LinearUse(use.back, use.x)
    if isinstance(use, BatchedLinearUse) and order == last_two:
        return BatchedLinearUse(use.back, use.x)
    return None


@pull(
    torch.reshape,
    torch.flatten,
    torch.unflatten,
    torch.ravel,
    torch.squeeze,
    torch.unsqueeze,
    torch.clone,
    Tensor.view,
    Tensor.reshape,
    Tensor.flatten,
    Tensor.unflatten,
    Tensor.ravel,
    Tensor.squeeze,
    Tensor.unsqueeze,
    Tensor.clone,
    Tensor.contiguous,
    Tensor.to,
    Tensor.type,
    Tensor.type_as,
    Tensor.float,
    Tensor.double,
    Tensor.half,
    Tensor.bfloat16,
)
def same_numbers(derived: Derived, use: Use) -> Use | None:
    """The same numbers in the same order, perhaps of another type or shape: the same use, reshaped."""
    graph, parent = derived.graph, derived.parents[0].tensor
    if len(derived.parents) > 1 or graph.numel() != parent.numel() or not _alike(graph, parent):
        return None
    if graph.shape == parent.shape:
        return use
    if isinstance(use, DenseUse):
        return DenseUse(use.grads.reshape(use.examples, *parent.shape))
    return ReshapedUse(use, tuple(graph.shape), tuple(parent.shape))


@pull(Tensor.expand, torch.broadcast_to, Tensor.broadcast_to)
def expanded(derived: Derived, use: Use) -> Use | None:
    """Sum over what was repeated; a row repeated for each example is that example's."""
    parent = derived.parents[0].tensor
    padded = (1,) * (derived.graph.dim() - parent.dim()) + tuple(parent.shape)
    grads = by_example(use, padded)
    if grads is None:
        return None
    return DenseUse(grads.sum_to_size((use.examples, *padded)).reshape(use.examples, *parent.shape))


def by_example(use: Use, shape: tuple[int, ...]) -> Tensor | None:
    """Return the gradients of what p, broadcast from this shape, became: `(n, *d)`, or `(n, k, ...)` where p has one
    row and d has k rows of each example; None where no such small tensor is them.
    """
    if isinstance(use, DenseUse):
        return use.grads
    if isinstance(use, AlignedUse) and shape[0] == 1:
        return use.grads.unsqueeze(1)
    if isinstance(use, ReshapedUse) and isinstance(use.use, AlignedUse) and shape[0] == 1:
        rows = use.use.grads
        return rows if rows.shape[2:] == use.shape[1:] else None
    return None


def _order(derived: Derived) -> list[int]:
    """Return which dimension of p each dimension of d is, from p's operation applied to a shape of distinct sizes."""
    parent = derived.parents[0].tensor
    probe = torch.empty(list(range(2, 2 + parent.dim())), device="meta")
    args = (probe if v is parent else v for v in derived.args)
    kwargs = {name: probe if v is parent else v for name, v in derived.kwargs.items()}
    return [size - 2 for size in derived.operation(*args, **kwargs).shape]


def _alike(graph: Tensor, parent: Tensor) -> bool:
    """A use may pass between types as long as its sums are as wide."""
    kinds = [torch.promote_types(v.dtype, torch.float32) for v in (graph, parent)]
    return kinds[0] == kinds[1] and graph.device == parent.device
