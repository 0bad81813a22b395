"""Products of runs of rows with a matrix for each run, as mixtures of experts use them: `F.grouped_mm`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dplit.grads.batch_axis.axes import RowOwners
from dplit.grads.rules.matmul import BatchedOuterProductGrad
from dplit.grads.tape.recorded_function import Context, RecordedFunction
from dplit.grads.tape.registry import rule
from dplit.grads.types import InputGradients

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape


class _GroupedMM(RecordedFunction):
    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, offs: Tensor, owner: Tensor, tape: Tape) -> Tensor:
        ctx.tape, ctx.tracked, ctx.experts = tape, tape.tracked(weight), len(weight)
        ctx.save_for_backward(x, weight, offs, owner)
        return F.grouped_mm(x, weight, offs=offs)

    @staticmethod
    def gradient(ctx: Context, saved: tuple[Tensor, ...], back: Tensor) -> InputGradients:
        (x, weight, offs, owner), n = saved, ctx.tape.examples
        back, rows = back.contiguous(), int(offs[-1])
        expert = torch.searchsorted(offs, torch.arange(rows, device=x.device, dtype=offs.dtype), right=True)
        pairs = RowOwners(owner[:rows] * ctx.experts + expert, n * ctx.experts)  # of an example and an expert
        # the weight is (experts, d, p), so the two sides of the outer products trade places
        sides = [pairs.outermost(v.detach()[:rows]).unflatten(0, (n, ctx.experts)) for v in (back, x)]
        ctx.tape.record(ctx.tracked, BatchedOuterProductGrad(x=sides[0], back=sides[1]))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        grad = F.grouped_mm(back, weight.mT, offs=offs)
        if rows < len(x):
            grad = grad.masked_fill(torch.arange(len(x), device=x.device)[:, None] >= rows, 0)
        return grad, None, None, None, None


@rule(F.grouped_mm, torch._grouped_mm, any_batch_axis=True)
def grouped_mm(
    tape: Tape,
    mat_a: Tensor,
    mat_b: Tensor,
    *,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    **options: object,
) -> Tensor:
    """`F.grouped_mm` of rows of activations, sorted by expert, with the experts' matrices `(experts, d, p)`.

    Raises:
        UnsupportedOperation: it is called in another form, or it is not known which example a row belongs to.
    """
    owner = tape.owners(mat_a)
    given = {name: v for name, v in {**options, "bias": bias}.items() if v is not None}
    if given or offs is None or mat_b.dim() != 3 or mat_a.dim() != 2 or tape.tracked(mat_b) is None:
        raise tape.refusal(
            F.grouped_mm, (mat_a, mat_b), "has a rule for rows (rows, d) times parameters (experts, d, p)"
        )
    if owner is None:
        raise tape.refusal(F.grouped_mm, (mat_b,), "meets rows that the tape cannot assign to examples")
    result: Tensor = _GroupedMM.apply(mat_a, mat_b, offs, owner, tape)
    tape.keep_batch_axis(mat_a, result)
    return result
