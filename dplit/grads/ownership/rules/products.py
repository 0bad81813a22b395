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
    if inner != outer and not (oa.uniform or ob.uniform):
        return call.all_mixed(result, "rows in an order that records decide meet rows in another order")
    owner = call.together(_over(call, a, -1), _over(call, b, -2), *(call.owner(v) for v in added))
    batch = [x if x is not None else y for x, y in zip(oa.orders[:-2], ob.orders[:-2], strict=True)]
    if any(x is not None and y is not None and x != y for x, y in zip(oa.orders[:-2], ob.orders[:-2], strict=True)):
        return call.all_mixed(result, "rows in an order that records decide meet rows in another order")
    if any(call.owned(v).ordered for v in added if v is not None):
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
    return Owned(call.together(owner, *added).expand(call.results[0].shape), call.owned(matrix).orders[:-1] if not added else ())


@owner_rule("dot", "vdot", "inner")
def inner(call: Call) -> Owned:
    """Sums of products of two vectors."""
    a, b = list(call.tensors())
    if call.owned(a).orders != call.owned(b).orders:
        return call.all_mixed(call.results[0], "rows in an order that records decide meet rows in another order")
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


@owner_rule("convolution", "_convolution", "cudnn_convolution", "conv_depthwise3d", "_slow_conv2d_forward", "mkldnn_convolution")
def convolved(call: Call) -> Owned:
    """A number of the result depends on its example's whole input, and on the kernel."""
    value, weight, bias = call.get("input", "self"), call["weight"], call.get("bias")
    result = call.results[0]
    if call.refuse_order(weight, bias) or any(o is not None for o in call.owned(value).orders[1:]):
        return call.all_mixed(result, "records decide the order of what is convolved")
    batched = value.dim() == result.dim()
    dims = range(1, value.dim()) if batched else range(value.dim())
    of_weight = joined_over(call.owner(weight), range(weight.dim()), call.mixed, keepdim=False)
    of_bias = joined_over(call.owner(bias), range(1), call.mixed, keepdim=False)
    owner = call.together(_over(call, value, *dims), of_weight, of_bias)
    return Owned(owner.expand(result.shape), (call.owned(value).orders[0], *[None] * (result.dim() - 1)))


@owner_rule("convolution_backward")
def convolution_backward(call: Call) -> list[Owned]:
    """Gradients of input, weight and bias."""
    back, value, weight = call["grad_output"], call["input"], call["weight"]
    if call.refuse_order(back, value, weight):
        return [call.all_mixed(r) for r in call.results]
    of_back = _over(call, back, *range(1, back.dim()))
    of_value = _over(call, value, *range(1, value.dim()))
    of_weight = joined_over(call.owner(weight), range(weight.dim()), call.mixed, keepdim=False)
    all_back = joined_over(of_back, range(back.dim()), call.mixed, keepdim=False)
    all_value = joined_over(of_value, range(value.dim()), call.mixed, keepdim=False)
    kinds = {
        0: call.together(of_back, of_weight),
        1: call.together(all_back, all_value),
        2: all_back,
    }
    wanted = [k for k, mask in enumerate(call["output_mask"]) if mask]
    return [Owned(kinds[k].expand(r.shape)) for k, r in zip(wanted, call.results, strict=True)]

