"""Products of runs of rows with one matrix each, as mixtures of experts use them: `F.grouped_mm`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dplit.grads.batch_axis.layout import Rows
from dplit.grads.rules.matmul import BatchedOuterProductGrad
from dplit.grads.tape.recorded_function import RecordedFunction
from dplit.grads.tape.registry import rule

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape


class _GroupedMM(RecordedFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, offs: Tensor, owner: Tensor, tape: Tape) -> Tensor:
        ctx.tape, ctx.source, ctx.experts = tape, tape.source(weight), len(weight)
        ctx.save_for_backward(x, weight, offs, owner)
        return F.grouped_mm(x, weight, offs=offs)

    @staticmethod
    def gradient(ctx: Any, saved: tuple[Any, ...], back: Tensor) -> Any:
        (x, weight, offs, owner), n = saved, ctx.tape.examples
        back, given = back.contiguous(), int(offs[-1])
        expert = torch.searchsorted(offs, torch.arange(given, device=x.device, dtype=offs.dtype), right=True)
        apart = Rows(owner[:given] * ctx.experts + expert, n * ctx.experts)
        sides = (apart.outermost(v.detach()[:given]).unflatten(0, (n, ctx.experts)) for v in (back, x))
        ctx.tape.record(ctx.source, BatchedOuterProductGrad(*sides))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        grad = F.grouped_mm(back, weight.mT, offs=offs)
        return grad.masked_fill(torch.arange(len(x), device=x.device)[:, None] >= given, 0), None, None, None, None


@rule(F.grouped_mm, torch._grouped_mm, anywhere=True)
def grouped_mm(
    tape: Tape, mat_a: Tensor, mat_b: Tensor, *, offs: Tensor | None = None, bias: Tensor | None = None, **options: Any
) -> Tensor:
    """`F.grouped_mm` of rows of activations, sorted by expert, with the experts' matrices `(experts, d, p)`.

    Raises:
        UnsupportedOperation: another form, or whose the rows are is not known.
    """
    owner = tape.owners(mat_a)
    given = {name: v for name, v in {**options, "bias": bias}.items() if v is not None}
    if given or offs is None or mat_b.dim() != 3 or mat_a.dim() != 2 or tape.source(mat_b) is None:
        raise tape.refusal(
            F.grouped_mm, (mat_a, mat_b), "has a rule for rows (rows, d) times parameters (experts, d, p)"
        )
    if owner is None:
        raise tape.refusal(F.grouped_mm, (mat_b,), "meets rows of which the tape does not know whose they are")
    result: Tensor = _GroupedMM.apply(mat_a, mat_b, offs, owner, tape)
    tape.keep_layout(mat_a, result)
    return result
