"""Table look-ups: `F.embedding`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from dplit.grads.factors.base import DenseGrad, FactoredGrad
from dplit.grads.factors.row_sparse import RowSparseGrad
from dplit.grads.factors.rows import RowPerExampleGrad
from dplit.grads.tape.recorded_function import Context, RecordedFunction
from dplit.grads.tape.registry import rule, vjp_rule
from dplit.grads.types import InputGradients

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape
    from dplit.grads.tape.tracked import DerivedTensor


class _Embedding(RecordedFunction):
    @staticmethod
    def forward(ctx: Context, ids: Tensor, weight: Tensor, padding: int | None, tape: Tape) -> Tensor:
        ctx.tape, ctx.weight, ctx.rows, ctx.padding = tape, tape.tracked(weight), weight.shape[0], padding
        ctx.save_for_backward(ids)
        return F.embedding(ids, weight)

    @staticmethod
    def gradient(ctx: Context, saved: tuple[Tensor, ...], back: Tensor) -> InputGradients:
        (ids,) = saved
        n = ctx.tape.examples
        back = back.detach()
        if ctx.padding is not None:
            back = back.masked_fill((ids == ctx.padding)[..., None], 0)
        ctx.tape.record(ctx.weight, RowSparseGrad(ids.reshape(n, -1), back.reshape(n, -1, back.shape[-1]), ctx.rows))
        return None, None, None, None


@rule(F.embedding, without_data=True, any_batch_axis=True)
def embedding(
    tape: Tape,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """`F.embedding` with `padding_idx`, of ids for each example or of one row of ids for all examples.

    Raises:
        ForbiddenOperation: `max_norm` (it rewrites the table as it reads) or `scale_grad_by_freq` (it counts ids
            over the batch, which makes the gradient of one example depend on the others).
    """
    if max_norm is not None or scale_grad_by_freq:
        why = "rewrites the table with max_norm" if max_norm is not None else "couples examples by scale_grad_by_freq"
        raise tape.forbidden(F.embedding, (weight,), f"{why}; leave that option out")
    padding = None if padding_idx is None else padding_idx % weight.shape[0]
    shared = tape.examples > 1 and (input.dim() == 0 or input.shape[0] == 1)
    if shared or tape.is_constant(input):
        return tape.derive(F.embedding, input, weight, padding)
    return tape.apply_outermost(F.embedding, lambda ids: _Embedding.apply(ids, weight, padding, tape), input, weight)


@vjp_rule(F.embedding)
def looked_up(derived: DerivedTensor, grad: FactoredGrad) -> FactoredGrad | None:
    """Rows looked up by constant ids and used by all examples (position tables): as if each example looked them up."""
    n, rows = grad.examples, derived.parents[0].tensor.shape[0]
    ids, padding = derived.args[0], (*derived.args, None, None, None)[2]
    if padding is None:
        padding = derived.kwargs.get("padding_idx")
    if isinstance(grad, DenseGrad):
        ids = ids.reshape(1, -1).expand(n, -1)
    elif isinstance(grad, RowPerExampleGrad):
        ids = ids.reshape(ids.shape[0], -1)[grad.rows]
    else:
        return None
    back = grad.grads.reshape(n, ids.shape[1], -1)
    if padding is not None:
        back = back.masked_fill((ids == padding % rows)[..., None], 0)
    return RowSparseGrad(ids, back, rows)
