"""Matrix products, convolutions and other contractions."""

from __future__ import annotations

from torch import Tensor

from dplit.grads.ownership.call import Call
from dplit.grads.ownership.owner_map import Counts, Owned, joined_over
from dplit.grads.ownership.registry import owner_rule


def _over(call: Call, value: Tensor | None, *dims: int) -> Tensor:
    """Return the owners of numbers that are each computed from all numbers of an argument along some dimensions."""
    return joined_over(call.owner(value), dims, call.mixed)


def _product(call: Call, a: Tensor, b: Tensor, *added: Tensor | None) -> Owned:
    """`a @ b`, of matrices or batches of them: each number depends on a row of a and a column of b."""
    oa, ob = call.owned(a), call.owned(b)
    inner, outer = oa.orders[-1], ob.orders[-2]
    result = call.results[0]
    if inner is not None or outer is not None:
        return call.all_mixed(result, "records decide the order of what is summed over")
    owner = call.together(_over(call, a, -1), _over(call, b, -2), *(call.owner(v) for v in added))
    batch = [x if x is not None else y for x, y in zip(oa.orders[:-2], ob.orders[:-2], strict=True)]
    if any(x is not None and y is not None and x != y for x, y in zip(oa.orders[:-2], ob.orders[:-2], strict=True)):
        return call.all_mixed(result, "rows in an order that records decide meet rows in another order")
    if call.refuse_order(*added):
        return call.all_mixed(result, "rows in an order that records decide are added")
    return Owned(owner.expand(result.shape), (*batch, oa.orders[-2], ob.orders[-1]))


@owner_rule("mm", "bmm")
def product(call: Call) -> Owned:
    """Products of matrices."""
    return _product(call, call["self"], call["mat2"])


@owner_rule("addmm", "baddbmm", "addbmm", "_addmm_activation")
def product_and_sum(call: Call) -> Owned:
    """A product of matrices added to another tensor."""
    a, b = call.get("mat1", "batch1"), call.get("mat2", "batch2")
    if call.name == "addbmm":
        owner = joined_over(call.together(_over(call, a, -1), _over(call, b, -2)), [0], call.mixed, keepdim=False)
        return Owned(call.together(owner, call.owner(call["self"])).expand(call.results[0].shape))
    return _product(call, a, b, call["self"])


@owner_rule("mv", "addmv")
def matrix_vector(call: Call) -> Owned:
    """A matrix times a vector."""
    matrix, vector = call.get("mat", "self") if call.name == "addmv" else call["self"], call["vec"]
    owner = call.together(_over(call, matrix, -1)[..., 0], _over(call, vector, 0))
    added = [call.owner(call["self"])] if call.name == "addmv" else []
    if call.refuse_order(vector):
        return call.all_mixed(call.results[0], "records decide the order of a vector")
    return Owned(
        call.together(owner, *added).expand(call.results[0].shape), call.owned(matrix).orders[:-1] if not added else ()
    )


@owner_rule("dot", "vdot", "inner")
def inner(call: Call) -> Owned:
    """Sums of products of two vectors."""
    a, b = list(call.tensors())
    if call.refuse_order(a, b):
        return call.all_mixed(call.results[0], "records decide the order of what is summed over")
    owner = call.together(_over(call, a, 0), _over(call, b, 0))
    return Owned(owner[0])


@owner_rule("addr", "ger", "outer")
def outer(call: Call) -> Owned:
    """Each number of a vector times each of another."""
    *added, a, b = list(call.tensors())
    owner = call.together(call.owner(a)[:, None], call.owner(b)[None, :], *(call.owner(v) for v in added))
    return Owned(owner.expand(call.results[0].shape), (*call.owned(a).orders, *call.owned(b).orders))


@owner_rule("_grouped_mm")
def grouped(call: Call) -> Owned:
    """Runs of rows, each run with a matrix of its own: where the runs end has to be given by the keys the rows are sorted by."""
    rows, weights, ends = call["self"], call["mat2"], call["offs"]
    owned, meaning = call.owned(rows), call.owned(ends).meaning if ends is not None else None
    if ends is None:
        return _product(call, rows, weights)
    keyed = isinstance(meaning, Counts) and owned.orders and owned.orders[0] == ("sorted", meaning.keys)
    if not keyed and call.is_owned(ends):
        return call.all_mixed(call.results[0], "records decide where the groups of rows end")
    if call.is_owned(weights) or rows.dim() != 2 or call.results[0].dim() != 2:
        return call.all_mixed(call.results[0])
    return Owned(_over(call, rows, -1).expand(call.results[0].shape), owned.orders)


@owner_rule(
    *("convolution", "_convolution", "cudnn_convolution", "conv_depthwise3d", "_slow_conv2d_forward"),
    "mkldnn_convolution",
)
def convolved(call: Call) -> Owned:
    """A number of the result depends on the channels of its group in its example's input, and on the group's kernels."""
    value, weight, bias = call.get("input", "self"), call["weight"], call.get("bias")
    result, groups = call.results[0], call.get("groups", default=1)
    if call.refuse_order(weight, bias) or any(o is not None for o in call.owned(value).orders[1:]):
        return call.all_mixed(result, "records decide the order of what is convolved")
    if value.dim() != weight.dim():
        return call.all_mixed(result, "it has no dimension of examples")
    of_kernels = _by_group(call, call.owner(weight), 0, groups)[:, 0]
    owner = call.together(_by_group(call, call.owner(value), 1, groups), of_kernels)
    by_channel = _to_channels(owner, result)
    of_bias = call.owner(bias) if bias is None else call.owner(bias).reshape(1, -1, *[1] * (result.dim() - 2))
    wide = call.together(by_channel, of_bias)
    return Owned(wide.expand(result.shape), (call.owned(value).orders[0], *[None] * (result.dim() - 1)))


def _by_group(call: Call, owner: Tensor, channels: int, groups: int) -> Tensor:
    """Return the owners of the channels of each group: `(n, groups)`, or `(groups, 1)` where the channels come first."""
    over = joined_over(owner, range(channels + 1, owner.dim()), call.mixed)
    small = over.flatten(channels + 1)[..., 0] if over.dim() > channels + 1 else over
    apart = joined_over(small.unflatten(channels, (groups, -1)), [channels + 1], call.mixed)
    return apart if channels == 0 else apart[..., 0]


def _to_channels(owner: Tensor, value: Tensor) -> Tensor:
    """Return the owners of each channel of a tensor `(n, c, ...)` from those of its groups, `(n, groups)`."""
    groups = owner.shape[1]
    channels = owner[..., None].expand(*owner.shape, value.shape[1] // groups).flatten(1)
    return channels.reshape(*channels.shape, *[1] * (value.dim() - 2))


@owner_rule("convolution_backward")
def convolution_backward(call: Call) -> list[Owned]:
    """Gradients of input, weight and bias, by groups."""
    back, value, weight, groups = call["grad_output"], call["input"], call["weight"], call["groups"]
    if call.refuse_order(back, value, weight):
        return [call.all_mixed(r, "records decide the order of what is convolved") for r in call.results]
    of_back, of_value = (_by_group(call, call.owner(v), 1, groups) for v in (back, value))
    of_kernels = _by_group(call, call.owner(weight), 0, groups)[:, 0]
    of_weight = joined_over(call.together(of_back, of_value), [0], call.mixed, keepdim=False)
    of_bias = joined_over(call.owner(back), [0, *range(2, back.dim())], call.mixed).reshape(-1)
    found = {
        0: lambda: _to_channels(call.together(of_back, of_kernels).expand(len(value), groups), value).expand(
            value.shape
        ),
        1: lambda: _of_kernels(of_weight, weight).expand(weight.shape),
        2: lambda: of_bias,
    }
    wanted = [k for k, kept in enumerate(call["output_mask"]) if kept]
    return [Owned(found[k]()) for k in wanted]


def _of_kernels(owner: Tensor, weight: Tensor) -> Tensor:
    """Return the owners of each kernel, first dimension of the weight, from those of its groups."""
    kernels = owner[:, None].expand(len(owner), weight.shape[0] // len(owner)).flatten()
    return kernels.reshape(-1, *[1] * (weight.dim() - 1))
