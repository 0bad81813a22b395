"""Tensors side by side or one after the other, and padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dplit.grads.ownership.call import Call
from dplit.grads.ownership.owner_map import NONE, Meaning, Order, Owned, Positions, compact, joined_over, tidied
from dplit.grads.ownership.registry import owner_rule

MEET = "rows in an order that records decide meet rows in another order"


@owner_rule("cat", "concat", "concatenate")
def joined_up(call: Call) -> Owned:
    """Parts one after the other along a dimension."""
    parts = [v for v in call["tensors"] if v.shape != (0,)]
    dim = call["dim"] % parts[0].dim()
    owners = [call.owner(v) for v in parts]
    orders: list[Order] = []
    for d in range(parts[0].dim()):
        if d == dim:
            seen = [call.owned(v).orders[d] for v in parts]
            orders.append(
                ("parts", *((o, v.shape[d]) for o, v in zip(seen, parts, strict=True))) if any(seen) else None
            )
            continue
        order, clash = common_order(call, parts, d)
        if clash:
            return call.all_mixed(call.results[0], MEET)
        orders.append(order)
    meanings = [call.owned(v).meaning for v in parts]
    meaning = meanings[0] if len(meanings) == 1 else None
    return Owned(
        tidied(torch.cat(_alike(owners, dim), dim)).expand(call.results[0].shape), tuple(orders), meaning=meaning
    )


def common_order(call: Call, parts: Sequence[Tensor], dim: int) -> tuple[Order, bool]:
    """Return the order that parts of the same size along a dimension have in common, and whether there is none."""
    apart = {call.owned(v).orders[dim] for v in parts if not call.owned(v).uniform}
    alike = {call.owned(v).orders[dim] for v in parts if call.owned(v).uniform}
    call.conditional |= bool(apart) and not alike <= (apart | {None})
    return next(iter((apart or alike) - {None}), None), len(apart) > 1


def _alike(owners: list[Tensor], dim: int) -> list[Tensor]:
    """Return maps with size 1 in every dimension but one along which none of them changes."""
    for d in range(owners[0].dim()):
        if d != dim and all(o.stride(d) == 0 and o.shape[d] > 1 for o in owners):
            owners = [o.narrow(d, 0, 1) for o in owners]
    return owners


@owner_rule("stack")
def stacked(call: Call) -> Owned:
    """Parts side by side in a new dimension."""
    parts = list(call["tensors"])
    dim = call["dim"] % (parts[0].dim() + 1)
    common = [common_order(call, parts, d) for d in range(parts[0].dim())]
    if any(clash for _, clash in common):
        return call.all_mixed(call.results[0], MEET)
    kept = [order for order, _ in common]
    owner = torch.cat(_alike([call.owner(v).unsqueeze(dim) for v in parts], dim), dim)
    meanings: list[Meaning] = [call.owned(v).meaning for v in parts]
    same = meanings[0] if len(parts) == 1 and isinstance(meanings[0], Positions) else None
    return Owned(tidied(owner).expand(call.results[0].shape), (*kept[:dim], None, *kept[dim:]), meaning=same)


@owner_rule("constant_pad_nd", "pad")
def padded(call: Call) -> Owned:
    """A constant before and after the numbers."""
    value, pad = call["self"], call["pad"]
    owned = call.owned(value)
    padded_dims = {value.dim() - 1 - k // 2 for k, amount in enumerate(pad) if amount}
    if any(owned.orders[d] is not None for d in padded_dims):
        return call.all_mixed(call.results[0], "records decide the order of rows that are padded")
    small = owned.owner
    for d in range(value.dim()):
        if d not in padded_dims and small.stride(d) == 0 and small.shape[d] > 1:
            small = small.narrow(d, 0, 1)
    owner = torch.constant_pad_nd(small, pad, NONE)
    return Owned(owner.expand(call.results[0].shape), owned.orders)


@owner_rule(
    *(
        "reflection_pad1d",
        "reflection_pad2d",
        "reflection_pad3d",
        "replication_pad1d",
        "replication_pad2d",
        "replication_pad3d",
    ),
    *("reflection_pad1d_backward", "reflection_pad2d_backward", "replication_pad2d_backward"),
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "upsample_linear1d"),
    *("upsample_bicubic2d", "upsample_trilinear3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d"),
    *(
        "_upsample_bilinear2d_aa",
        "_upsample_bicubic2d_aa",
        "upsample_bilinear2d_backward",
        "upsample_nearest2d_backward",
    ),
    *("avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d"),
    *("max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool3d", "max_pool2d"),
    *(
        "avg_pool2d_backward",
        "avg_pool3d_backward",
        "max_pool2d_with_indices_backward",
        "_adaptive_avg_pool2d_backward",
    ),
    *("adaptive_max_pool2d_backward", "max_pool3d_with_indices_backward", "_adaptive_avg_pool3d_backward"),
    *("mkldnn_max_pool2d", "mkldnn_adaptive_avg_pool2d", "max_unpool2d", "fractional_max_pool2d", "max_pool1d"),
    *("grid_sampler_2d", "grid_sampler_3d", "grid_sampler_2d_backward", "affine_grid_generator"),
)
def within_planes(call: Call) -> list[Owned]:
    """Pooling, resampling and mirrored padding: over the last dimensions, one to three, of each example's channels."""
    places = next((k for k in (1, 2, 3) if f"{k}d" in call.name), 2)
    given = [v for v in call.tensors() if v.dim()]
    if call.refuse_order(*given):
        return [call.all_mixed(r, "records decide the order of what is pooled") for r in call.results]
    if "grid" in call.name:
        owner = call.together(*(joined_over(call.owner(v), range(1, v.dim()), call.mixed).reshape(-1) for v in given))
        return [Owned(owner.view(-1, *[1] * (r.dim() - 1)).expand(r.shape)) for r in call.results]
    owners = [joined_over(call.owner(v), range(-places, 0), call.mixed) for v in given]
    if call.name.startswith("fractional"):  # the second is (n, channels, places)
        owners[1] = joined_over(call.owner(given[1]), [-1], call.mixed)[..., None].reshape(
            *given[1].shape[-3:-1], *[1] * places
        )
    owner = call.together(*owners)
    return [Owned(compact(owner).expand(r.shape)) for r in call.results]


@owner_rule("im2col", "col2im")
def patches(call: Call) -> Owned:
    """Patches of an example's image; the first dimension is the examples if there are as many as the result has."""
    value, result = call.get("self", "grad_output"), call.results[0]
    if call.refuse_order(value):
        return call.all_mixed(result, "records decide the order of what is cut into patches")
    batched = len(value) == len(result) and (value.dim() == 4 or result.dim() == 4)
    owner = joined_over(call.owner(value), range(int(batched), value.dim()), call.mixed)
    first = owner.reshape(-1)
    return Owned(first.view(-1, *[1] * (result.dim() - 1)).expand(result.shape))


@owner_rule(
    *("_fft_r2c", "_fft_c2r", "_fft_c2c"),
)
def transformed(call: Call) -> Owned:
    """Fourier transforms along some dimensions."""
    value, result = call["self"], call.results[0]
    dims = [d % value.dim() for d in call["dim"]]
    if any(call.owned(value).orders[d] is not None for d in dims):
        return call.all_mixed(result, "records decide the order of what is transformed")
    owner = joined_over(call.owner(value), dims, call.mixed)
    return Owned(owner.expand(result.shape), call.owned(value).orders)
