"""Losses: per number, or reduced over all of them."""

from __future__ import annotations

from torch import Tensor

from dplit.grads.ownership.call import Call, orders_joined
from dplit.grads.ownership.owner_map import Order, Owned, joined_over
from dplit.grads.ownership.registry import owner_rule
from dplit.grads.ownership.rules.pointwise import broadcast, met

NO_REDUCTION, MEAN = 0, 1


@owner_rule(
    *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy", "soft_margin_loss"),
    *("binary_cross_entropy_with_logits", "kl_div", "poisson_nll_loss"),
)
def numberwise(call: Call) -> Owned:
    """A loss of each number, or their sum or mean."""
    if call["reduction"] == NO_REDUCTION:
        return broadcast(call)
    owner = call.together(*(call.owner(v) for v in call.tensors()))
    return Owned(joined_over(owner, range(owner.dim()), call.mixed, keepdim=False))


@owner_rule("nll_loss_forward", "nll_loss2d_forward", "nll_loss", "nll_loss2d", "nll_loss_nd")
def likelihood(call: Call) -> list[Owned]:
    """Log-probabilities `(n, c, ...)` chosen by classes `(n, ...)`; the mean is over the weights of the classes there."""
    value, target = call["self"], call["target"]
    classes = 1 if value.dim() > 1 else 0
    chosen = joined_over(call.owner(value), [classes], call.mixed, keepdim=False)
    scales = call.get("weight")
    of_scales = [] if scales is None else [joined_over(call.owner(scales), [0], call.mixed, keepdim=False)]
    owner = call.together(chosen, call.owner(target), *of_scales)
    rows = Owned(owner, _apart(call.owned(value).orders, classes))
    orders, clash = orders_joined(call, [(rows, owner.dim()), (call.owned(target), target.dim())], owner.dim())
    if clash:
        met_rows = met(call, [(rows, owner.dim()), (call.owned(target), target.dim())], owner, orders)
        owner, orders = met_rows.owner.expand(owner.shape) if met_rows.owner.dim() else owner, met_rows.orders
    total = joined_over(owner, range(owner.dim()), call.mixed, keepdim=False)
    if call["reduction"] == NO_REDUCTION:
        return [Owned(owner.expand(call.results[0].shape), orders), *[Owned(total)] * (len(call.results) - 1)]
    return [Owned(total.expand(r.shape)) for r in call.results]


def _apart(orders: tuple[Order, ...], dim: int) -> tuple[Order, ...]:
    return (*orders[:dim], *orders[dim + 1 :])


@owner_rule("nll_loss_backward", "nll_loss2d_backward")
def likelihood_backward(call: Call) -> Owned:
    """The gradient of the log-probabilities."""
    back, target, value = call["grad_output"], call["target"], call["self"]
    classes = 1 if value.dim() > 1 else 0
    of_back = call.owner(back).unsqueeze(classes) if back.dim() else call.owner(back)
    owners = [call.owner(target).unsqueeze(classes), of_back]
    if call["reduction"] == MEAN:
        owners.append(call.owner(call["total_weight"]))
    scales = call.get("weight")
    if scales is not None:
        owners.append(joined_over(call.owner(scales), [0], call.mixed, keepdim=False))
    return Owned(call.together(*owners).expand(value.shape), call.owned(value).orders)


@owner_rule("multi_margin_loss", "multilabel_margin_loss_forward")
def margins(call: Call) -> list[Owned]:
    """Losses of rows of scores `(n, c)`."""
    value, target = call["self"], call["target"]
    owner = joined_over(call.owner(value), [-1], call.mixed, keepdim=False)
    of_target = call.owner(target)
    if target.dim() == value.dim():
        of_target = joined_over(of_target, [-1], call.mixed, keepdim=False)
    owner = call.together(owner, of_target)
    if call["reduction"] != NO_REDUCTION:
        owner = joined_over(owner, range(owner.dim()), call.mixed, keepdim=False)
    return [
        Owned(
            owner if owner.shape == r.shape else (owner[..., None] if r.dim() > owner.dim() else owner).expand(r.shape)
        )
        for r in call.results
    ]


@owner_rule("_ctc_loss", "_cudnn_ctc_loss")
def sequence_loss(call: Call) -> list[Owned]:
    """`log_probs (t, n, c)`, targets `(n, s)`, lengths `(n,)`."""
    value, targets = call["log_probs"], call["targets"]
    if targets.dim() != 2:
        return [call.all_mixed(r, "targets are laid end to end") for r in call.results]
    own = joined_over(call.owner(value), [0, 2], call.mixed).reshape(-1)
    of_targets = joined_over(call.owner(targets), [1], call.mixed, keepdim=False)
    lengths = [call.owner(v) for name in ("input_lengths", "target_lengths") if isinstance(v := call.get(name), Tensor)]
    row = call.together(own, of_targets, *lengths)
    return [Owned(row.view(-1, *[1] * (r.dim() - 1)).expand(r.shape)) for r in call.results]
