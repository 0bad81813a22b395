"""Views and copies of a parameter: from gradients of `W.T`, `W.view(...)`, `W.to(...)`, `W.expand(...)` to those of W."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dplit.grads.factors.base import DenseGrad, FactoredGrad
from dplit.grads.factors.outer_product import OuterProductGrad
from dplit.grads.factors.reshaped import ReshapedGrad
from dplit.grads.factors.rows import RowPerExampleGrad, row_per_example_grad
from dplit.grads.rules.matmul import BatchedOuterProductGrad
from dplit.grads.tape.registry import vjp_rule
from dplit.grads.torch_calls import property_getters

if TYPE_CHECKING:
    from dplit.grads.tape.tracked import DerivedTensor


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
    *property_getters("T", "mT"),
)
def turned(derived: DerivedTensor, grad: FactoredGrad) -> FactoredGrad | None:
    """Permuted dimensions: built gradients are permuted back; for a linear map by Wᵀ, x and back exchange their roles."""
    order = _order(derived)
    inverse = [order.index(i) for i in range(len(order))]
    last_two = [*range(len(order) - 2), len(order) - 1, len(order) - 2]
    if isinstance(grad, DenseGrad):
        return DenseGrad(grad.grads.permute([0, *(i + 1 for i in inverse)]).contiguous())
    if isinstance(grad, RowPerExampleGrad | ReshapedGrad) and order[0] == 0:
        rows = _grads_by_row(grad)
        return None if rows is None else row_per_example_grad(rows.permute(inverse), grad.examples)
    if isinstance(grad, OuterProductGrad) and order == last_two and derived.attached.shape[:-2].numel() == 1:
        return OuterProductGrad(grad.back, grad.x)
    if isinstance(grad, BatchedOuterProductGrad) and order == last_two:
        return BatchedOuterProductGrad(grad.back, grad.x)
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
def same_numbers(derived: DerivedTensor, grad: FactoredGrad) -> FactoredGrad | None:
    """The same numbers in the same order, perhaps of another type or shape: the same gradient, reshaped."""
    attached, parent = derived.attached, derived.parents[0].tensor
    if len(derived.parents) > 1 or attached.numel() != parent.numel() or not _sums_alike(attached, parent):
        return None
    if attached.shape == parent.shape:
        return grad
    if isinstance(grad, DenseGrad):
        return DenseGrad(grad.grads.reshape(grad.examples, *parent.shape))
    return ReshapedGrad(grad, tuple(attached.shape), tuple(parent.shape))


@vjp_rule(Tensor.expand, torch.broadcast_to, Tensor.broadcast_to)
def expanded(derived: DerivedTensor, grad: FactoredGrad) -> FactoredGrad | None:
    """Expanded dimensions: the gradient is summed over them; a row for each example is that example's gradient."""
    parent = derived.parents[0].tensor
    padded = (1,) * (derived.attached.dim() - parent.dim()) + tuple(parent.shape)
    grads = grads_by_example(grad, padded)
    if grads is None:
        return None
    return DenseGrad(grads.sum_to_size((grad.examples, *padded)).reshape(grad.examples, *parent.shape))


def _grads_by_row(grad: FactoredGrad) -> Tensor | None:
    """Return `(n·k, ...)` gradients of a tensor that has k rows for each example, or None for other gradients."""
    if isinstance(grad, ReshapedGrad) and isinstance(grad.wrapped, RowPerExampleGrad):
        return grad.wrapped.grads.reshape(grad.shape)
    return grad.grads if isinstance(grad, RowPerExampleGrad) else None


def grads_by_example(grad: FactoredGrad, shape: tuple[int, ...]) -> Tensor | None:
    """Return the gradients of a tensor d that a parameter of this shape was broadcast to, if they are kept built.

    They are `(n, *d.shape)`; or `(n, k, ...)` where the parameter has one row and d has k rows for each example.
    """
    if isinstance(grad, DenseGrad):
        return grad.grads
    if isinstance(grad, RowPerExampleGrad) and shape[0] == 1:
        return grad.grads.unsqueeze(1)
    if isinstance(grad, ReshapedGrad) and isinstance(grad.wrapped, RowPerExampleGrad) and shape[0] == 1:
        rows = grad.wrapped.grads
        return rows if rows.shape[2:] == grad.shape[1:] else None
    return None


def _order(derived: DerivedTensor) -> list[int]:
    """Return which dimension of p each dimension of d is, by applying the operation to a shape of distinct sizes."""
    probe = torch.empty(list(range(2, 2 + derived.parents[0].tensor.dim())), device="meta")
    return [size - 2 for size in derived.apply_to(probe).shape]


def _sums_alike(a: Tensor, b: Tensor) -> bool:
    """Whether the gradients of two tensors are summed on the same device in the same type, if not kept in the same type."""
    types = [torch.promote_types(v.dtype, torch.float32) for v in (a, b)]
    return types[0] == types[1] and a.device == b.device
