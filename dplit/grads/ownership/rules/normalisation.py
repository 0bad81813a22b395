"""Normalisation layers, forward and backward."""

from __future__ import annotations

from torch import Tensor

from dplit.grads.ownership.call import Call
from dplit.grads.ownership.owner_map import Owned, joined_over
from dplit.grads.ownership.registry import owner_rule, written_by


def _row(call: Call, value: Tensor, dims: list[int], *more: Tensor | None) -> tuple[Tensor, Owned]:
    """Return what a slice's statistics depend on, with the dimensions kept, and the map of the normalised tensor."""
    owned = call.owned(value)
    statistics = joined_over(owned.owner, dims, call.mixed)
    scales = [joined_over(call.owner(v), range(v.dim()), call.mixed, keepdim=False) for v in more if v is not None]
    wide = call.together(statistics, *scales).expand(value.shape)
    return statistics, Owned(wide, owned.orders)


def _fitted(owner: Tensor, result: Tensor) -> Owned:
    """Return statistics in the shape in which they were returned."""
    if owner.dim() != result.dim():
        owner = (
            owner.reshape([s for s in owner.shape if s != 1] or [1] * result.dim())
            if owner.numel() == result.numel()
            else owner
        )
    return Owned(owner.expand(result.shape))


@owner_rule("native_layer_norm", "_fused_rms_norm")
def layer_norm(call: Call) -> list[Owned]:
    """Over the last dimensions of each row."""
    value, over = call["input"], len(call["normalized_shape"])
    dims = list(range(value.dim() - over, value.dim()))
    if any(call.owned(value).orders[d] is not None for d in dims):
        return [call.all_mixed(r, "records decide the order of what is normalised") for r in call.results]
    statistics, wide = _row(call, value, dims, call.get("weight"), call.get("bias"))
    return [wide, *(Owned(statistics.expand(r.shape), call.owned(value).orders) for r in call.results[1:])]


@owner_rule("native_layer_norm_backward", "_fused_rms_norm_backward")
def layer_norm_backward(call: Call) -> list[Owned]:
    """Gradients of input, weight and bias."""
    value, back, over = call["input"], call["grad_out"], len(call["normalized_shape"])
    dims = list(range(value.dim() - over, value.dim()))
    outer = list(range(value.dim() - over))
    both = call.together(call.owner(value), call.owner(back))
    statistics = joined_over(both, dims, call.mixed)
    scale = call.get("weight")
    of_scale = joined_over(call.owner(scale), range(scale.dim() if scale is not None else 0), call.mixed, keepdim=False)
    found = {0: call.together(statistics, of_scale).expand(value.shape)}
    normalised = call.together(call.owner(back), joined_over(call.owner(value), dims, call.mixed)).expand(value.shape)
    for k, kept in enumerate(call["output_mask"]):
        if kept and k:
            total = joined_over(normalised if k == 1 else call.owner(back), outer, call.mixed)
            found[k] = total.reshape(total.shape[len(outer) :]).expand(value.shape[len(outer) :])
    wanted = [k for k, kept in enumerate(call["output_mask"]) if kept]
    orders = call.owned(value).orders
    return [Owned(found[k], orders if k == 0 else ()) for k in wanted][: len(call.results)]


@owner_rule("native_group_norm", "instance_norm")
def group_norm(call: Call) -> list[Owned]:
    """Over the channels and places of each example."""
    value = call["input"]
    dims = list(range(1, value.dim()))
    if any(call.owned(value).orders[d] is not None for d in dims):
        return [call.all_mixed(r, "records decide the order of what is normalised") for r in call.results]
    statistics, wide = _row(call, value, dims, call.get("weight"), call.get("bias"))
    flat = statistics.reshape(len(value), 1)
    return [wide, *(Owned(flat.expand(r.shape)) for r in call.results[1:])]


@owner_rule("native_group_norm_backward")
def group_norm_backward(call: Call) -> list[Owned]:
    """Gradients of input, weight and bias."""
    value, back, scale = call["input"], call["grad_out"], call.get("weight")
    both = joined_over(call.together(call.owner(value), call.owner(back)), range(1, value.dim()), call.mixed)
    of_scale = joined_over(call.owner(scale), range(1), call.mixed, keepdim=False)
    total = joined_over(both, range(value.dim()), call.mixed, keepdim=False)
    wanted = [k for k, kept in enumerate(call["output_mask"]) if kept]
    own = call.together(both, of_scale).expand(value.shape)
    return [Owned(own if k == 0 else total.expand(r.shape)) for k, r in zip(wanted, call.results, strict=False)]


@owner_rule(
    *("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional", "cudnn_batch_norm"),
    *("_native_batch_norm_legit_no_training", "_batch_norm_with_update", "_batch_norm_no_update", "miopen_batch_norm"),
)
def batch_norm(call: Call) -> list[Owned]:
    """By the batch's own statistics while training, by fixed ones otherwise."""
    value = call["input"]
    running = [v for name in ("running_mean", "running_var", "weight", "bias") if (v := call.get(name)) is not None]
    fixed = (
        "no_training" in call.name or "no_update" in call.name or call.get("training", "train", default=True) is False
    )
    own = call.owner(value)
    scales = [joined_over(call.owner(v), range(v.dim()), call.mixed, keepdim=False) for v in running]
    if not fixed:
        own = joined_over(own, [0, *range(2, value.dim())], call.mixed)
    statistics = call.owner(None) if fixed else joined_over(own, range(value.dim()), call.mixed, keepdim=False)
    statistics = call.together(statistics, *scales)
    wide = call.together(own, *scales).expand(value.shape)
    orders = call.owned(value).orders if fixed else ()
    return [Owned(wide, orders), *(Owned(statistics.expand(r.shape)) for r in call.results[1:])]


@written_by(
    *("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "miopen_batch_norm"),
    "_batch_norm_with_update",
)
def running_statistics(call: Call) -> dict[str, Owned]:
    """While training, the running mean and variance are moved towards the batch's; some kernels do not say that they write."""
    names = [name for name in ("running_mean", "running_var") if call.get(name) is not None]
    if call.get("training", "train", default=True) is False:
        return {name: call.owned(call[name]) for name in names}
    return {name: call.all_mixed(call[name], "statistics of the batch") for name in names}


@owner_rule("native_batch_norm_backward", "cudnn_batch_norm_backward")
def batch_norm_backward(call: Call) -> list[Owned]:
    """Gradients of input, weight and bias."""
    value, back = call["input"], call.get("grad_out", "grad_output")
    both = call.together(call.owner(value), call.owner(back))
    if call.get("train", default=True) is not False:
        both = joined_over(both, [0, *range(2, value.dim())], call.mixed)
    given = [v for name in ("weight", "running_mean", "running_var") if (v := call.get(name)) is not None]
    scales = [joined_over(call.owner(v), range(v.dim()), call.mixed, keepdim=False) for v in given]
    train = call.get("train", default=True) is not False
    own = call.together(call.owner(back), *([both] if train else []), *scales).expand(value.shape)
    total = joined_over(both, range(value.dim()), call.mixed, keepdim=False)
    wanted = [k for k, kept in enumerate(call.get("output_mask", default=[True] * 3)) if kept]
    return [Owned((own if k == 0 else total).expand(r.shape)) for k, r in zip(wanted, call.results, strict=False)]
