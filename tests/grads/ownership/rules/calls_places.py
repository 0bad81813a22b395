"""Random calls of views, reductions, joins, pooling, indexing and sorting."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from tests.grads.ownership.rules.draws import Call, Draws, calls

A = torch.ops.aten


def named(op: Any) -> str:
    return str(op._qualified_op_name.split("::")[1])


# -- views -----------------------------------------------------------------------------------------------------------------


@calls("view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy", "view_copy", "flatten", "unflatten")
@calls("_reshape_alias_copy")
def reshaped(d: Draws, op: Any) -> Call:
    a, b, c = d.size(), d.size(), d.size()
    before, after = d.one_of(
        ([d.n, a, b * c], [d.n, a * b, c]),
        ([d.n, a, b], [d.n * a, b]),
        ([d.n * a, b], [d.n, a, b]),
        ([d.n * a, b], [d.n, a * b]),
        ([d.n, a, 1, b], [d.n, a * b, 1]),
        ([d.n, a, b], [a, d.n, b]),
        ([d.n, 1, a], [1, d.n, a, 1]),
        ([d.n, 0, a], [0, d.n]),
    )
    d.rows(*before)
    name = named(op)
    if name == "flatten":
        return lambda x: op(x, 1) if x.dim() > 2 else op(x)
    if name == "unflatten":
        return lambda x: op(x.flatten(), 0, after)
    if name.startswith("_reshape_alias"):
        return lambda x: op(x, after, torch.empty(after).stride())
    d.mixes = before[0] == d.n and after[0] not in (d.n, 1)
    if name in ("view", "view_copy") and d.chance(0.2):
        return lambda x: op(x.contiguous(), torch.int64 if d.n % 2 else torch.float32)
    return lambda x: op(x, after)


@calls("permute", "transpose", "t", "movedim", "swapaxes", "unsqueeze", "squeeze", "expand", "numpy_T", "expand_copy")
@calls("permute_copy", "transpose_copy", "t_copy", "unsqueeze_copy", "squeeze_copy", "adjoint", "mT", "mH")
def turned(d: Draws, op: Any) -> Call:
    name = named(op)
    if name in ("t", "t_copy", "numpy_T"):
        d.rows(d.n, d.size())
        return lambda x: op(x)
    shape = d.shape(2, 3)
    d.rows(*shape)
    k = len(shape)
    if name.startswith("permute"):
        order = d.random.sample(range(k), k)
        return lambda x: op(x, order)
    if name.startswith(("transpose", "swapaxes", "movedim")):
        a, b = d.random.sample(range(k), 2)
        return lambda x: op(x, a, b - k)
    if name.startswith("unsqueeze"):
        at = d.size(-k - 1, k)
        return lambda x: op(x, at)
    if name.startswith("squeeze"):
        at = d.size(0, k)
        return lambda x: op(x.unsqueeze(at), at) if at % 2 else op(x.unsqueeze(at))
    if name.startswith("expand"):
        return lambda x: op(x.unsqueeze(1), [-1, 3, *shape[1:]]) if k % 2 else op(x, [2, *shape])
    return lambda x: op(x)


@calls("slice", "narrow", "select", "unbind", "split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split")
@calls("unsafe_chunk", "unsafe_split_with_sizes", "slice_copy", "select_copy", "split_copy", "split_with_sizes_copy")
@calls("unbind_copy", "flip", "roll", "unfold", "unfold_copy", "repeat", "tile", "rot90", "diagonal", "diagonal_copy")
def chosen(d: Draws, op: Any) -> Call:
    name, shape = named(op), [d.n, d.size(2, 5), d.size(2, 5)]
    x = d.rows(*shape)
    dim = d.dim(x)
    size, places = shape[dim], len(shape)
    if name.startswith("slice"):
        a, b, step = d.size(-1, 2), d.size(1, size + 1), d.size(1, 2)
        return lambda x: op(x, dim, a, b, step)
    if name == "narrow":
        return lambda x: op(x, dim, 1, size - 1)
    if name.startswith("select"):
        at = d.size(-size, size - 1)
        return lambda x: op(x, dim, at)
    if name.startswith("unbind"):
        return lambda x: op(x, dim)
    if "with_sizes" in name:
        return lambda x: op(x, [1, size - 1], dim)
    if "split" in name or "chunk" in name:
        parts = d.size(2, 3)
        return lambda x: op(x, parts, dim)
    if name in ("flip", "roll"):
        others = d.random.sample(range(places), d.size(1, 2))
        return lambda x: op(x, others) if name == "flip" else op(x, [1] * len(others), others)
    if name.startswith("unfold"):
        return lambda x: op(x, dim, 2, d.n % 2 + 1)
    if name in ("repeat", "tile"):
        return lambda x: op(x, [2, 1, 2]) if d.n % 2 else op(x, [2, 1, 1, 2])
    a, b = d.random.sample(range(places), 2)
    if name == "rot90":
        return lambda x: op(x, 1, [a, b])
    offset = d.size(-1, 1)
    return lambda x: op(x, offset, a, b)


@calls("pixel_shuffle", "pixel_unshuffle", "channel_shuffle")
def shuffled(d: Draws, op: Any) -> Call:
    d.rows(d.n, 4, 4, 2)
    return lambda x: op(x, 2)


@calls("select_backward", "slice_backward", "diagonal_backward", "select_scatter", "slice_scatter", "diagonal_scatter")
def put_back(d: Draws, op: Any) -> Call:
    name, shape = named(op), [d.n, d.size(), d.size()]
    dim = d.size(0, 2)
    d.mixes = dim == 0
    at, step = d.size(0, shape[dim] - 1), d.size(1, 2)
    whole = torch.zeros(shape)
    part = {
        "select": lambda: whole.select(dim, at),
        "slice": lambda: A.slice(whole, dim, at, None, step),
        "diagonal": lambda: whole.diagonal(0, 1, 2),
    }[name.partition("_")[0]]()
    settings = {"select": [dim, at], "slice": [dim, at, shape[dim], step], "diagonal": [0, 1, 2]}[
        name.partition("_")[0]
    ]
    if name.endswith("scatter"):
        d.rows(*shape)
    d.rows(*part.shape)
    if name.endswith("backward"):
        return lambda g: op(g, shape, *settings)
    return lambda x, s: op(x, s, *settings)


# -- reductions ------------------------------------------------------------------------------------------------------------


@calls("sum", "mean", "amax", "amin", "std", "var", "logsumexp", "prod", "norm", "any", "all", "nansum", "nanmean")
@calls("std_mean", "var_mean", "linalg_vector_norm", "count_nonzero", "frobenius_norm", "aminmax", "argmax", "argmin")
@calls("max", "min", "median", "nanmedian", "mode", "kthvalue", "trace", "quantile")
def reduced(d: Draws, op: Any) -> Call:
    name, keep = named(op), d.chance()
    if name == "trace":
        d.rows(d.n, d.size())
        return lambda x: op(x)
    shape = [d.n, d.size(1, 3), d.size()]
    x = d.rows(*shape)
    dim = d.dim(x)
    if name in ("max", "min") and d.chance(0.4):
        d.either(*shape)
        return lambda x, y: op(x, y)
    if d.chance(0.15) and name in ("sum", "mean", "std", "var", "prod", "any", "all", "nansum", "max", "min", "median"):
        d.mixes = True
        return lambda x: op(x)
    if name == "quantile":
        return lambda x: op(x, 0.3, dim, keep)
    if name in ("amax", "amin", "sum", "mean", "nansum", "nanmean", "std", "var", "logsumexp", "std_mean", "var_mean"):
        dims = [dim] if d.chance() else [-1, -2]
        if name in ("std", "var", "std_mean", "var_mean"):
            return lambda x: op(x, dims, correction=d.n % 2 if shape[dim] > 1 else 0, keepdim=keep)
        return lambda x: op(x, dims, keep)
    if name == "norm":
        return lambda x: op(x, 2, [dim], keep)
    if name == "linalg_vector_norm":
        d.mixes |= d.n % 2 == 0
        return lambda x: op(x, 2, [dim] if d.n % 2 else None, keep)
    if name == "frobenius_norm":
        return lambda x: op(x, [1, 2], keep)
    if name == "count_nonzero":
        return lambda x: op(x, [dim])
    if name == "kthvalue":
        return lambda x: op(x, 1, dim, keep)
    if name == "aminmax":
        return lambda x: op(x, dim=dim, keepdim=keep)
    return lambda x: op(x, dim, keep)


@calls("_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax", "cumsum", "cumprod", "logcumsumexp")
@calls("cummax", "cummin", "glu", "diff")
def along(d: Draws, op: Any) -> Call:
    name, shape = named(op), d.shape(2)
    x = d.rows(*shape[:-1], 2 * max(1, shape[-1]))
    dim = d.dim(x)
    if name in ("_softmax", "_log_softmax"):
        return lambda x: op(x, dim, False)
    if name == "glu":
        return lambda x: op(x, -1)
    return (lambda x: op(x, 1, dim)) if name == "diff" else lambda x: op(x, dim)


@calls("_softmax_backward_data", "_log_softmax_backward_data", "glu_backward")
def along_backward(d: Draws, op: Any) -> Call:
    shape = [d.n, d.size(), 2 * d.size()]
    half = [*shape[:-1], shape[-1] // 2] if "glu" in str(op) else shape
    g = d.rows(*half)
    d.rows(*shape)
    if "glu" in str(op):
        return lambda g, y: op(g, y, -1)
    dim = d.dim(g)
    return lambda g, y: op(g, y, dim, torch.float64)


@calls("renorm")
def renormed(d: Draws, op: Any) -> Call:
    x = d.rows(*d.shape(1, 2))
    dim = d.size(0, x.dim() - 1)
    d.mixes = dim > 0
    return lambda x: op(x, 2, dim, 0.5)


@calls("_weight_norm_interface")
def weight_norm(d: Draws, op: Any) -> Call:
    k, m = d.size(), d.size()
    dim = d.one_of(0, 2)
    d.mixes = dim > 0
    d.rows(d.n, k, m), d.rows(*([d.n, 1, 1] if dim == 0 else [1, 1, m]))
    return lambda v, g: op(v, g, dim)


# -- joins, pooling --------------------------------------------------------------------------------------------------------


@calls("cat", "concat", "concatenate", "stack")
def joined(d: Draws, op: Any) -> Call:
    shape = d.shape(1, 2)
    x = d.rows(*shape)
    dim = d.dim(x)
    other = list(shape)
    if named(op) != "stack":
        other[dim] = d.size(1, 3)
    d.either(*other) if other[0] == d.n else d.fixed(*other)
    if d.chance(0.3):
        d.fixed(*shape)
    return lambda *v: op(list(v), dim)


@calls("constant_pad_nd", "pad")
def padded(d: Draws, op: Any) -> Call:
    d.rows(*d.shape(2))
    by = [d.size(-1, 2), d.size(0, 2), *([0, 1] if d.chance() else [])]
    return lambda x: op(x, by) if named(op) == "constant_pad_nd" else op(x, by, "constant", 0.5)


@calls("reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d")
@calls("replication_pad3d", "reflection_pad1d_backward", "reflection_pad2d_backward", "replication_pad2d_backward")
def mirrored(d: Draws, op: Any) -> Call:
    name = named(op)
    k = next(k for k in (1, 2, 3) if f"{k}d" in name)
    lead = [d.n, d.size(1, 2)] if d.chance(0.8) else [d.n]
    places = [3] * k
    if "backward" in name:
        d.rows(*lead, *[s + 2 for s in places])
    d.rows(*lead, *places)
    return (lambda g, x: op(g, x, [1] * 2 * k)) if "backward" in name else lambda x: op(x, [1] * 2 * k)


@calls("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "upsample_linear1d")
@calls("upsample_bicubic2d", "upsample_trilinear3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d")
@calls(
    "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "upsample_bilinear2d_backward", "upsample_nearest2d_backward"
)
def resampled(d: Draws, op: Any) -> Call:
    name = named(op)
    k = next(k for k in (1, 2, 3) if f"{k}d" in name)
    before, after = [d.n, d.size(1, 2), *[2] * k], [d.size(1, 5) for _ in range(k)]
    corners = [] if "nearest" in name else [False]
    if "backward" in name:
        d.rows(*before[:2], *after)
        return lambda g: op(g, after, before, *corners)
    d.rows(*before)
    return lambda x: op(x, after, *corners)


@calls("avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool2d_with_indices")
@calls("max_pool3d_with_indices", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d")
@calls("adaptive_max_pool2d", "adaptive_max_pool3d")
@calls("fractional_max_pool2d")
def pooled(d: Draws, op: Any) -> Call:
    name = named(op)
    k = next(k for k in (1, 2, 3) if f"{k}d" in name)
    lead = [d.n, d.size(1, 2)] if d.chance(0.8) or "fractional" in name else [d.n]
    d.rows(*lead, *[d.size(3, 4)] * k)
    if "fractional" in name:
        d.rows(*lead, 2, kind="unit")
        return lambda x, r: op(x, [2, 2], [2, 2], r)
    if "adaptive" in name:
        return lambda x: op(x, [2] * k)
    return lambda x: op(x, [2] * k, [1] * k)


@calls(
    "avg_pool2d_backward", "avg_pool3d_backward", "max_pool2d_with_indices_backward", "_adaptive_avg_pool2d_backward"
)
@calls("adaptive_max_pool2d_backward", "max_pool3d_with_indices_backward", "_adaptive_avg_pool3d_backward")
@calls("max_unpool2d")
def pooled_backward(d: Draws, op: Any) -> Call:
    name = named(op)
    k = 3 if "3d" in name else 2
    channels, after = d.size(1, 2), 2 if "adaptive" in name else 3
    d.rows(d.n, channels, *[after] * k)
    d.rows(d.n, channels, *[4] * k)
    two, one, zero = [2] * k, [1] * k, [0] * k
    if name.startswith("avg"):
        return lambda g, x: op(g, x, two, one, zero, False, True, None)
    if name.startswith("_adaptive"):
        return lambda g, x: op(g, x)
    if name.startswith("adaptive_max"):
        return lambda g, x: op(g, x, A.adaptive_max_pool2d(x, two)[1])
    if name == "max_unpool2d":
        return lambda g, x: op(g, A.max_pool2d_with_indices(x, two, one)[1], [4, 4])
    forward = A.max_pool3d_with_indices if k == 3 else A.max_pool2d_with_indices
    return lambda g, x: op(g, x, two, one, zero, one, False, forward(x, two, one)[1])


@calls("grid_sampler_2d", "grid_sampler_3d", "grid_sampler_2d_backward", "affine_grid_generator")
def sampled(d: Draws, op: Any) -> Call:
    name = named(op)
    if name == "affine_grid_generator":
        d.rows(d.n, 2, 3)
        return lambda theta: op(theta, [d.n, 1, 2, 3], False)
    k = 3 if "3d" in name else 2
    if "backward" in name:
        d.rows(d.n, 2, *[2] * k)
    d.rows(d.n, 2, *[3] * k), d.rows(d.n, *[2] * k, k, kind="unit")
    if "backward" in name:
        return lambda g, x, at: op(g, x, at, 0, 0, False, [True, True])
    return lambda x, at: op(x, at, 0, 0, False)


@calls("im2col", "col2im")
def patches(d: Draws, op: Any) -> Call:
    two, one, none = [2, 2], [1, 1], [0, 0]
    batched = d.chance(0.7)
    lead = [d.n] if batched else []
    if named(op) == "im2col":
        d.rows(*lead, 2, 3, 3) if batched else d.fixed(2, 3, 3)
        return lambda x: op(x, two, one, none, one)
    d.rows(*lead, 8, 4) if batched else d.fixed(8, 4)
    return lambda x: op(x, [3, 3], two, one, none, one)


@calls("_fft_r2c", "_fft_c2r", "_fft_c2c")
def transformed(d: Draws, op: Any) -> Call:
    name, shape = named(op), [d.n, d.size(2, 4), d.size(2, 4)]
    d.rows(*shape, kind="normal" if "r2c" in name else "complex")
    dims = d.one_of([2], [1, 2])
    if "r2c" in name:
        return lambda x: op(x, dims, 0, d.n % 2 == 0)
    if "c2r" in name:
        return lambda x: op(x, dims, 0, 2 * (shape[-1] - 1))
    return lambda x: op(x, dims, 0, True)


# -- indexing --------------------------------------------------------------------------------------------------------------


@calls("index", "_unsafe_index")
def indexed(d: Draws, op: Any) -> Call:
    shape = [d.n, d.size(), d.size()]
    d.rows(*shape)
    way = d.one_of("columns", "rows", "mask", "middle", "own column", "apart")
    way = "columns" if way == "mask" and "unsafe" in str(op) else way
    m = d.size(1, 4)
    d.mixes = way in ("rows", "apart")
    if way == "columns":
        d.index(shape[1], m)
        return lambda x, i: op(x, [None, i])
    if way == "middle":
        d.index(shape[2], m, 2)
        return lambda x, i: op(x, [None, None, i])
    if way == "rows":
        d.index(d.n, d.n, rows=0)
        return lambda x, i: op(x, [i])
    if way == "mask":
        d.either(*shape[: d.size(1, 2)], kind="bool")
        return lambda x, i: op(x, [i])
    if way == "apart":
        d.index(d.n, m), d.index(shape[2], m)
        return lambda x, i, j: op(x, [i, None, j])
    d.index(shape[1], d.n, rows=0 if way == "own column" else None)
    return lambda x, i: op(x, [torch.arange(d.n), i])


@calls("nonzero", "masked_select")
def masked(d: Draws, op: Any) -> Call:
    shape = d.shape(0, 2)
    if named(op) == "nonzero":
        d.rows(*shape, kind="bool")
        return lambda x: op(x)
    d.rows(*shape)
    d.mixes = d.chance(0.2)  # a mask of another shape
    d.fixed(*shape[1:], kind="bool") if d.mixes else d.either(*shape, kind="bool")
    return lambda x, m: op(x, m)


@calls("index_select", "take", "embedding", "gather", "take_along_dim")
def looked_up(d: Draws, op: Any) -> Call:
    name, shape = named(op), [d.n, d.size(), d.size()]
    if name == "embedding":
        if d.chance(0.7):
            d.fixed(5, d.size())
        else:
            d.rows(d.n, d.size())
            d.mixes = True
        d.index(d.given[0].value.shape[0], *d.shape(0, 1), rows=0)
        return lambda w, i: op(w, i)
    x = d.rows(*shape)
    dim = d.dim(x)
    if name == "index_select":
        d.index(shape[dim], d.size(1, 4))
        return lambda x, i: op(x, dim, i)
    if name == "take":
        d.mixes = True
        d.index(prod(shape), d.size(), d.size())
        return lambda x, i: op(x, i)
    smaller = [s if k == 0 else d.size(1, s) for k, s in enumerate(shape)]
    d.index(shape[dim], *smaller if name == "gather" else shape, rows=0 if d.chance() else None)
    return lambda x, i: op(x, dim, i) if name == "gather" else op(x, i, dim)


@calls("_embedding_bag", "_embedding_bag_forward_only")
def bags(d: Draws, op: Any) -> Call:
    m = 2 * d.n
    d.fixed(5, d.size()), d.of(lambda: torch.randint(5, (m,), generator=d.generator), owners=torch.arange(m) // 2)
    starts = torch.arange(0, m, 2)
    mode, weighted = d.size(0, 2), d.chance(0.3)
    if weighted:
        d.fixed(m)
    given = d.of(lambda: starts.clone())
    del given
    if weighted:
        return lambda w, i, s, o: list(op(w, i, o, False, 0, False, s))[:1]
    return lambda w, i, o: list(op(w, i, o, False, mode))[:1]


@calls("index_put", "_index_put_impl", "_unsafe_index_put")
def placed(d: Draws, op: Any) -> Call:
    shape, adds, m = [d.n, d.size(), d.size()], d.chance(), d.size(1, 3)
    d.rows(*shape)
    way = d.one_of("columns", "rows", "own column", "mask", "number", "apart")
    d.mixes = way in ("rows", "apart")
    if way == "columns":
        d.index(shape[1], m), d.rows(d.n, m, shape[2])
        return lambda x, i, v: op(x.clone(), [None, i], v, adds)
    if way == "rows":
        d.index(d.n, m, rows=0), d.either(m, *shape[1:])
        return lambda x, i, v: op(x.clone(), [i], v, adds)
    if way == "apart":
        d.index(d.n, m), d.index(shape[2], m), d.either(m, shape[1])
        return lambda x, i, j, v: op(x.clone(), [i, None, j], v, adds)
    if way == "mask":
        d.either(*shape[: d.size(1, 3)], kind="bool"), d.either()
        return lambda x, i, v: op(x.clone(), [i], v, adds)
    d.index(shape[1], d.n, rows=0)
    d.rows(d.n, shape[2]) if way == "own column" else d.fixed()
    return lambda x, i, v: op(x.clone(), [torch.arange(d.n), i], v, adds)


@calls("index_add", "index_copy", "index_fill", "index_reduce")
def added(d: Draws, op: Any) -> Call:
    name, shape, m = named(op), [d.n, d.size(), d.size()], d.size(1, 2)
    x = d.rows(*shape)
    dim = d.dim(x) % 3
    source = [m if k == dim else s for k, s in enumerate(shape)]
    distinct = name in ("index_copy",) or d.chance(0.3)
    d.places(shape[dim], m, distinct=distinct)
    if name == "index_fill":
        if d.chance():
            return lambda x, i: op(x, dim, i, 0.5)
        d.either()
        return lambda x, i, v: op(x, dim, i, v)
    d.either(*source) if dim else d.fixed(*source)
    if name == "index_reduce":
        how, inside = d.one_of("prod", "mean", "amax", "amin"), d.chance()
        return lambda x, i, v: op(x, dim, i, v, how, include_self=inside)
    return lambda x, i, v: op(x, dim, i, v)


@calls("scatter", "scatter_add", "scatter_reduce")
def scattered(d: Draws, op: Any) -> Call:
    name, shape = named(op), [d.n, d.size(), d.size()]
    x = d.rows(*shape)
    dim = d.dim(x) % 3
    smaller = [s if k == 0 or d.chance() else d.size(1, s) for k, s in enumerate(shape)]
    d.index(shape[dim], *smaller, rows=0 if d.chance() else None)
    if name == "scatter" and d.chance(0.4):
        return lambda x, i: op(x, dim, i, 0.5)
    d.either(*shape)
    if name == "scatter_reduce":
        how, inside = d.one_of("sum", "prod", "mean", "amax", "amin"), d.chance()
        return lambda x, i, v: op(x, dim, i, v, how, include_self=inside)
    if name == "scatter" and d.chance(0.3):
        return lambda x, i, v: op(x, dim, i, v, reduce="add")
    return lambda x, i, v: op(x, dim, i, v)


@calls("embedding_dense_backward", "embedding_backward")
def table_backward(d: Draws, op: Any) -> Call:
    shape, m = d.shape(0, 1), d.size()
    d.rows(*shape, m), d.index(5, *shape, rows=0)
    d.mixes = True
    more = [-1, False] if named(op) == "embedding_dense_backward" else [-1, False, False]
    return lambda g, i: op(g, i, 5, *more)


# -- sorting ---------------------------------------------------------------------------------------------------------------


@calls("sort", "argsort", "topk", "msort")
def ordered(d: Draws, op: Any) -> Call:
    name, shape = named(op), d.shape(0, 2)
    x = d.rows(*shape)
    dim = d.dim(x)
    d.mixes |= name == "msort"
    if name == "msort":
        return lambda x: op(x)
    if name == "topk":
        k = d.size(min(1, shape[dim]), shape[dim])
        return lambda x: op(x, k, dim)
    if name == "argsort":
        return lambda x: op(x, stable=True, dim=dim)
    return lambda x: op(x, stable=True, dim=dim)


@calls("histc", "bincount")
def counted(d: Draws, op: Any) -> Call:
    d.mixes = True
    if named(op) == "bincount":
        d.index(4, d.n, rows=0)
        return lambda x: op(x, minlength=4)
    d.rows(d.n)
    return lambda x: op(x, 4, -2, 2)


@calls("searchsorted", "bucketize")
def sought(d: Draws, op: Any) -> Call:
    if named(op) == "bucketize":
        d.fixed(4), d.rows(*d.shape())
        return lambda b, x: op(x, b.sort()[0])
    if d.chance():
        d.rows(d.n, 4), d.rows(d.n, d.size())
    else:
        d.fixed(4), d.rows(*d.shape())
    return lambda b, x: op(b.sort(-1)[0], x)


@calls("isin")
def among(d: Draws, op: Any) -> Call:
    d.rows(*d.shape(), kind="whole"), d.fixed(3, kind="whole")
    return lambda x, y: op(x, y)


@calls("_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive")
def distinct(d: Draws, op: Any) -> Call:
    name, d.mixes = named(op), True
    d.rows(*(max(size, 1) if "dim" in name else size for size in d.shape(0, 1)), kind="whole")
    if name == "_unique2":
        return lambda x: op(x, True, True, True)
    if name == "unique_dim":
        return lambda x: op(x, 0, True, True, True)
    return (lambda x: op(x, True, True)) if name == "unique_consecutive" else lambda x: op(x, 0, True, True)


@calls("repeat_interleave")
def repeated(d: Draws, op: Any) -> Call:
    d.index(3, d.n, rows=0)
    d.mixes = True
    return lambda x: op(x)


# -- slots -----------------------------------------------------------------------------------------------------------------


@calls("rows_to_slots", "slots_to_rows")
def slots(d: Draws, op: Any) -> Call:
    m, width = d.size(2, 6), d.size()
    owner = torch.randint(d.n, (m,), generator=d.generator)
    if named(op) == "slots_to_rows":
        d.rows(d.n, m, width), d.of(lambda: owner.clone())
        return lambda y, o: op(y, o)
    d.of(lambda: d._normal([m, width]), owners=owner), d.of(lambda: owner.clone())
    return lambda x, o: op(x, o, d.n, m)
