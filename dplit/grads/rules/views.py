"""Views and copies of a parameter alone: how uses of `W.T`, `W.view(...)`, `W.to(...)`, `W.expand(...)` are uses of W."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dplit.grads.factors.base import DenseGrad, FactoredGrad
from dplit.grads.factors.outer_product import OuterProductGrad
from dplit.grads.factors.reshaped import ReshapedGrad
from dplit.grads.factors.rows import RowPerExampleGrad, own_rows
from dplit.grads.rules.matmul import BatchedOuterProductGrad
from dplit.grads.tape.registry import vjp_rule

if TYPE_CHECKING:
    from dplit.grads.tape.tracked import Derived


@vjp_rule(
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
def turned(derived: Derived, use: FactoredGrad) -> FactoredGrad | None:
    """Gradients kept as they are are turned back; a linear map's transpose has the roles of x and back exchanged."""
    order = _order(derived)
    last_two = [*range(len(order) - 2), len(order) - 1, len(order) - 2]
    if isinstance(use, DenseGrad):
        back = [0, *(order.index(i) + 1 for i in range(len(order)))]
        return DenseGrad(use.grads.permute(back).contiguous())
    if isinstance(use, RowPerExampleGrad | ReshapedGrad) and order[0] == 0:
        rows = by_rows(use)
        return (
            None if rows is None else own_rows(rows.permute([order.index(i) for i in range(len(order))]), use.examples)
        )
    if isinstance(use, OuterProductGrad) and order == last_two and derived.graph.shape[:-2].numel() == 1:
        return OuterProductGrad(use.back, use.x)
    if isinstance(use, BatchedOuterProductGrad) and order == last_two:
        return BatchedOuterProductGrad(use.back, use.x)
    return None


@vjp_rule(
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
def same_numbers(derived: Derived, use: FactoredGrad) -> FactoredGrad | None:
    """The same numbers in the same order, perhaps of another type or shape: the same use, reshaped."""
    graph, parent = derived.graph, derived.parents[0].tensor
    if len(derived.parents) > 1 or graph.numel() != parent.numel() or not _alike(graph, parent):
        return None
    if graph.shape == parent.shape:
        return use
    if isinstance(use, DenseGrad):
        return DenseGrad(use.grads.reshape(use.examples, *parent.shape))
    return ReshapedGrad(use, tuple(graph.shape), tuple(parent.shape))


@vjp_rule(Tensor.expand, torch.broadcast_to, Tensor.broadcast_to)
def expanded(derived: Derived, use: FactoredGrad) -> FactoredGrad | None:
    """Sum over what was repeated; a row repeated for each example is that example's."""
    parent = derived.parents[0].tensor
    padded = (1,) * (derived.graph.dim() - parent.dim()) + tuple(parent.shape)
    grads = by_example(use, padded)
    if grads is None:
        return None
    return DenseGrad(grads.sum_to_size((use.examples, *padded)).reshape(use.examples, *parent.shape))


def by_rows(use: FactoredGrad) -> Tensor | None:
    """Return `(n·k, ...)` gradients of rows that are k of each example, or None where each example uses all rows."""
    if isinstance(use, ReshapedGrad) and isinstance(use.use, RowPerExampleGrad):
        return use.use.grads.reshape(use.shape)
    return use.grads if isinstance(use, RowPerExampleGrad) else None


def by_example(use: FactoredGrad, shape: tuple[int, ...]) -> Tensor | None:
    """Return the gradients of what p, broadcast from this shape, became: `(n, *d)`, or `(n, k, ...)` where p has one
    row and d has k rows of each example; None where no such small tensor is them.
    """
    if isinstance(use, DenseGrad):
        return use.grads
    if isinstance(use, RowPerExampleGrad) and shape[0] == 1:
        return use.grads.unsqueeze(1)
    if isinstance(use, ReshapedGrad) and isinstance(use.use, RowPerExampleGrad) and shape[0] == 1:
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
