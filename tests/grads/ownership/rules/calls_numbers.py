"""Random calls of operations number by number, of losses, products, convolutions, normalisation and attention."""

from __future__ import annotations

from typing import Any

import torch

from tests.grads.ownership.rules.draws import Call, Draws, calls

A = torch.ops.aten

ONE = "abs acos angle asin atan ceil cos cosh erf exp"
ONE += " expm1 floor frac lgamma log log1p neg reciprocal relu round rsqrt"
ONE += " sigmoid sign sin sinh sqrt square tan tanh trunc"
ONE += " erfc sinc sgn signbit isnan isinf isfinite logit digamma nan_to_num hardtanh"
ONE += " hardswish hardsigmoid silu mish gelu elu leaky_relu"
ONE += " softplus softshrink hardshrink bitwise_not logical_not exp2 log2 log10"
TWO = "add sub mul div maximum minimum atan2 fmax fmin hypot"
TWO += " remainder fmod floor_divide eq ne lt le gt ge logaddexp xlogy"
TWO += " copysign logical_and logical_or logical_xor heaviside nextafter rsub pow sigmoid_backward tanh_backward"
TWO += " silu_backward mish_backward hardsigmoid_backward hardswish_backward"


@calls(*(name for name in ONE.split()))
def one(d: Draws, op: Any) -> Call:
    kind = "bool" if "bitwise" in str(op) else "unit" if d.chance(0.3) else "normal"
    d.rows(*d.shape(), kind=kind)
    return lambda x: op(x)


@calls(*(name for name in TWO.split()))
def two(d: Draws, op: Any) -> Call:
    shape = d.shape()
    d.rows(*shape)
    other = [1 if d.chance(0.3) else s for s in shape[d.size(0, 1) :]]
    d.either(*other) if len(other) == len(shape) and other[0] == d.n else d.fixed(*other)
    if d.chance() and "backward" not in str(op) and len(other) == len(shape):
        return lambda x, y: op(y, x)
    if d.chance(0.3) and hasattr(A, f"{op._qualified_op_name.split('::')[1]}_"):
        place = getattr(A, f"{op._qualified_op_name.split('::')[1]}_")
        inside = ("maximum", "minimum", "fmax", "fmin", "logaddexp", "rsub")
        if not any(name in str(op) for name in (*inside, "backward")):
            return lambda x, y: place(x.clone(), y)
    return lambda x, y: op(x, y)


@calls("clamp_max", "clamp_min")
def clamped(d: Draws, op: Any) -> Call:
    d.rows(*(shape := d.shape())), d.fixed(*shape[1:])
    return lambda x, y: op(x, y if d.n % 2 else 0.3)


@calls("isclose")
def close(d: Draws, op: Any) -> Call:
    d.rows(*(shape := d.shape())), d.either(*shape)
    return lambda x, y: op(x, y)


@calls("where", "lerp", "addcmul", "addcdiv", "masked_fill")
def three(d: Draws, op: Any) -> Call:
    shape, name = d.shape(), str(op)
    if "masked" in name:
        d.rows(*shape), d.rows(*shape, kind="bool") if d.chance() else d.fixed(*shape[1:], kind="bool")
        return lambda x, m: op(x, m, 0.5)
    if "where" in name:
        d.either(*shape, kind="bool"), d.rows(*shape), d.fixed(*shape[1:])
    else:
        d.rows(*shape), d.either(*shape), d.fixed(*shape[1:])
    return lambda x, y, z: op(x, y, z)


@calls(
    "gelu_backward",
    "threshold_backward",
    "leaky_relu_backward",
    "softplus_backward",
    "hardtanh_backward",
    "elu_backward",
)
@calls("softshrink_backward", "hardshrink_backward", "logit_backward", "log_sigmoid_backward", "glu_jvp")
def activation_backward(d: Draws, op: Any) -> Call:
    more: dict[str, tuple[Any, ...]] = {"threshold": (0.1,), "leaky": (0.1, False), "softplus": (1.0, 20.0)}
    more |= {"hardtanh": (-1.0, 1.0), "elu_backward": (1.0, 1.0, 1.0), "shrink": (0.5,), "logit": (0.01,)}
    extra = next((v for k, v in more.items() if k in str(op) and "gelu" not in str(op)), ())
    shape = d.shape(2)
    if "glu_jvp" in str(op):
        last = [*shape[:-1], 2 * shape[-1]]
        d.rows(*shape), d.rows(*last), d.rows(*last)
        return lambda y, x, t: op(y, x, t, -1)
    d.rows(*shape), d.rows(*shape)
    if "elu_backward" in str(op) and "gelu" not in str(op) and "leaky" not in str(op):
        return lambda g, x: op(g, 1.0, 1.0, 1.0, False, x)
    if "log_sigmoid" in str(op):
        return lambda g, x: op(g, x, A.log_sigmoid_forward(x)[1])
    return lambda g, x: op(g, x, *extra)


@calls("log_sigmoid_forward", "_conj_physical", "positive")
def one_more(d: Draws, op: Any) -> Call:
    d.rows(*d.shape(), kind="complex" if "conj" in str(op) else "normal")
    return lambda x: op(x)


@calls("real", "imag", "view_as_real", "_conj", "resolve_conj", "angle", "_neg_view", "resolve_neg")
def of_complex(d: Draws, op: Any) -> Call:
    d.rows(*d.shape(), kind="normal" if "neg" in str(op) and d.chance() else "complex")
    return lambda x: op(x)


@calls("complex", "polar")
def to_complex(d: Draws, op: Any) -> Call:
    d.rows(*(shape := d.shape())), d.either(*shape)
    return lambda x, y: op(x, y)


@calls("view_as_complex", "view_as_complex_copy")
def pairs(d: Draws, op: Any) -> Call:
    d.rows(*d.shape(0, 2), 2)
    return lambda x: op(x)


@calls("triu", "tril")
def triangle(d: Draws, op: Any) -> Call:
    d.rows(*d.shape(2, 3))
    k = d.size(-1, 1)
    return lambda x: op(x, k)


@calls("_prelu_kernel")
def prelu(d: Draws, op: Any) -> Call:
    shape = d.shape(1, 2)
    d.rows(*shape), d.fixed(1, shape[1], *[1] * (len(shape) - 2))
    return lambda x, w: op(x, w)


@calls("native_dropout", "dropout", "native_dropout_backward", "bernoulli", "poisson", "rrelu_with_noise")
def drops(d: Draws, op: Any) -> Call:
    shape, name = d.shape(), str(op)
    if "backward" in name:
        d.rows(*shape), d.rows(*shape, kind="bool")
        return lambda g, m: op(g, m, 2.0)
    if "bernoulli" in name or "poisson" in name:
        d.rows(*shape, kind="unit")
        return lambda x: op(x)
    d.rows(*shape)
    if "rrelu" in name:
        d.rows(*shape)
        return lambda x, noise: op(x, noise, 0.1, 0.3, False)
    return lambda x: op(x, 0.5, True)


@calls(
    "clone", "_to_copy", "contiguous", "lift_fresh_copy", "lift", "detach_copy", "alias_copy", "to", "detach", "alias"
)
@calls("lift_fresh")
def copies(d: Draws, op: Any) -> Call:
    d.rows(*d.shape())
    if op._qualified_op_name.split("::")[1] in ("_to_copy",):
        return lambda x: op(x, dtype=torch.float32)
    if op._qualified_op_name.split("::")[1] == "to":
        return lambda x: op(x, torch.float32)
    return lambda x: op(x)


@calls("copy")
def copied(d: Draws, op: Any) -> Call:
    d.rows(*(shape := d.shape())), d.either(*shape) if d.chance() else d.fixed(*shape[1:])
    if d.chance():
        return lambda x, y: A.copy_(x.clone(), y)
    return lambda x, y: op(x, y)


@calls("fill", "zero")
def filled(d: Draws, op: Any) -> Call:
    d.rows(*d.shape())
    if "zero" in str(op):
        return lambda x: A.zero_(x.clone())
    if d.chance():
        d.rows()
        return lambda x, v: op(x, v)
    return lambda x: A.fill_(x.clone(), 2.0)


@calls("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty", "full")
@calls("zeros", "ones", "scalar_tensor", "empty", "_efficientzerotensor")
def constants(d: Draws, op: Any) -> Call:
    d.rows(*(shape := d.shape()))
    name = op._qualified_op_name.split("::")[1]
    fill = [3.0] if "full" in name else []
    zero = (lambda v: v.zero_()) if "empty" in name else (lambda v: v)
    if "like" in name:
        return lambda x: (zero(op(x, *fill)), x)
    if "new" in name:
        return lambda x: (zero(op(x, [2, 3], *fill)), x)
    if name == "scalar_tensor":
        return lambda x: (op(2.0), x)
    if name == "full":
        d.rows()
        return lambda x, v: A.fill(op(shape, 1.0, dtype=torch.float64), v)
    if name == "_efficientzerotensor":
        return lambda x: (x, op([2]).clone())
    return lambda x: (zero(op(shape)), x)


@calls("rand_like", "randn_like", "randint_like", "uniform", "normal", "exponential", "random", "geometric", "cauchy")
@calls("log_normal")
def randoms(d: Draws, op: Any) -> Call:
    shape, name = d.shape(), op._qualified_op_name.split("::")[1]
    d.rows(*shape, kind="unit")
    if name == "randint_like":
        return lambda x: op(x, 5)
    if name == "normal":
        return lambda x: A.normal(x, 1.0)
    extra = {"geometric": [0.3]}.get(name, [])
    if name.endswith("_like"):
        return lambda x: op(x)
    place = getattr(A, f"{name}_")
    return lambda x: place(x.clone(), *extra)


# -- losses ----------------------------------------------------------------------------------------------------------------


@calls("mse_loss", "smooth_l1_loss", "huber_loss", "soft_margin_loss", "binary_cross_entropy", "l1_loss", "kl_div")
@calls("binary_cross_entropy_with_logits", "poisson_nll_loss")
def losses(d: Draws, op: Any) -> Call:
    kind, reduction = "unit" if "binary" in str(op) else "normal", 0 if d.chance(0.6) else d.size(1, 2)
    d.mixes = reduction > 0
    d.rows(*(shape := d.shape()), kind=kind), d.either(*shape, kind="unit")
    weighted = "binary" in str(op) and d.chance()
    if "poisson" in str(op):
        return lambda x, y: op(x, y, True, False, 1e-8, reduction)
    if weighted:
        d.either(*shape, kind="unit")
    if "with_logits" in str(op):
        return (
            (lambda x, y, w: op(x, y, w, None, reduction)) if weighted else lambda x, y: op(x, y, None, None, reduction)
        )
    if weighted:
        return lambda x, y, w: op(x, y, w, reduction)
    return (lambda x, y: op(x, y, None, reduction)) if "binary" in str(op) else lambda x, y: op(x, y, reduction)


@calls("mse_loss_backward", "smooth_l1_loss_backward", "huber_loss_backward", "binary_cross_entropy_backward")
@calls("soft_margin_loss_backward")
def losses_backward(d: Draws, op: Any) -> Call:
    reduction, shape = d.size(0, 2), d.shape()
    d.rows(*shape) if reduction == 0 else d.either()
    d.rows(*shape, kind="unit"), d.either(*shape, kind="unit")
    if "binary" in str(op):
        return lambda g, x, y: op(g, x, y, None, reduction)
    more = [1.0] if "smooth" in str(op) or "huber" in str(op) else []
    return lambda g, x, y: op(g, x, y, reduction, *more)


@calls("nll_loss_forward", "nll_loss", "nll_loss2d_forward", "nll_loss2d", "nll_loss_nd")
def likelihood(d: Draws, op: Any) -> Call:
    places = [d.size(), d.size()] if "2d" in str(op) or ("nd" in str(op) and d.chance()) else []
    reduction, classes = 0 if d.chance(0.6) else d.size(1, 2), d.size()
    alone = not places and d.chance(0.1)
    d.mixes = reduction > 0 or alone
    d.rows(*([classes] if alone else [d.n, classes, *places]))
    d.index(classes, *([] if alone else [d.n, *places]), rows=0)
    if d.chance():
        d.fixed(classes, kind="unit")

    def call(x: Any, y: Any, w: Any = None) -> Any:
        result = op(x, y, w, reduction, -100 if d.n % 2 else 1)
        return result if reduction else result[0] if isinstance(result, tuple) else result

    return call


@calls("nll_loss_backward", "nll_loss2d_backward")
def likelihood_backward(d: Draws, op: Any) -> Call:
    places = [d.size(), d.size()] if "2d" in str(op) else []
    reduction, classes = d.size(0, 2), d.size()
    d.mixes = reduction == 1
    d.rows(d.n, *places) if reduction == 0 else d.either()
    d.rows(d.n, classes, *places), d.index(classes, d.n, *places, rows=0), d.fixed(classes, kind="unit")
    forward = A.nll_loss2d_forward if places else A.nll_loss_forward

    def call(g: Any, x: Any, y: Any, w: Any) -> Any:
        return op(g, x, y, w, reduction, -100, forward(x, y, w, reduction, -100)[1])

    return call


@calls("multi_margin_loss", "multilabel_margin_loss_forward")
def margins(d: Draws, op: Any) -> Call:
    reduction, classes = 0 if d.chance(0.6) else d.size(1, 2), d.size()
    d.mixes = reduction > 0
    d.rows(d.n, classes)
    if "multilabel" in str(op):
        d.index(classes, d.n, classes, rows=0, low=-1)
        return lambda x, y: op(x, y, reduction)
    d.index(classes, d.n, rows=0)
    return lambda x, y: op(x, y, 1, 1.0, None, reduction)


@calls("_ctc_loss")
def sequence_loss(d: Draws, op: Any) -> Call:
    steps, classes, longest = d.size(4, 6), d.size(3, 5), d.size(1, 2)
    d.rows(steps, d.n, classes, dim=1), d.index(classes, d.n, longest, rows=0, low=1)
    if d.chance():
        d.index(steps + 1, d.n, rows=0, low=4), d.index(longest + 1, d.n, rows=0, low=1)
        return lambda x, y, a, b: op(x.log_softmax(-1), y, a, b)[0]
    a, b = [d.size(4, steps) for _ in range(d.n)], [d.size(1, longest) for _ in range(d.n)]
    return lambda x, y: op(x.log_softmax(-1), y, a, b)[0]


# -- products --------------------------------------------------------------------------------------------------------------


@calls("mm", "addmm", "_addmm_activation")
def product(d: Draws, op: Any) -> Call:
    m, k, p = d.n, d.size(), d.size()
    added = "addmm" in str(op)
    if added:
        d.fixed(p) if d.chance() else d.rows(m, p)
    d.rows(m, k)
    d.fixed(k, p)
    if added:
        return lambda c, a, b: op(c, a, b, beta=2.0, alpha=0.5)
    return (lambda a, b: op(b.t(), a.t())) if d.chance(0.3) else lambda a, b: op(a, b)


@calls("bmm", "baddbmm", "addbmm")
def products(d: Draws, op: Any) -> Call:
    m, k, p = d.size(), d.size(), d.size()
    if "addbmm" in str(op) and "baddbmm" not in str(op):
        d.fixed(m, p)
    elif "baddbmm" in str(op):
        d.rows(d.n, m, p)
    d.rows(d.n, m, k), d.either(d.n, k, p)
    return lambda *v: op(*v)


@calls("mv", "addmv")
def matrix_vector(d: Draws, op: Any) -> Call:
    k = d.size()
    if "addmv" in str(op):
        d.rows(d.n)
    d.rows(d.n, k), d.fixed(k)
    return lambda *v: op(*v)


@calls("dot", "vdot", "inner")
def inner(d: Draws, op: Any) -> Call:
    k = d.size()
    d.either(k), d.either(k)
    d.mixes = d.n == k
    return lambda a, b: op(a, b)


@calls("ger", "outer", "addr")
def outer(d: Draws, op: Any) -> Call:
    k = d.size()
    if "addr" in str(op):
        d.rows(d.n, k)
    d.rows(d.n), d.fixed(k)
    return lambda *v: op(*v)


@calls("_grouped_mm")
def grouped(d: Draws, op: Any) -> Call:
    def single(*shape: int) -> Any:
        return lambda: torch.randn(shape, generator=d.generator).bfloat16()

    d.of(single(4 * d.n, 8), owners=torch.arange(4 * d.n) // 4), d.of(single(2, 8, 8))
    ends = torch.tensor([d.size(1, 4 * d.n - 1), 4 * d.n], dtype=torch.int32)
    d.of(lambda: torch.tensor([d.size(1, 4 * d.n - 1), 4 * d.n], dtype=torch.int32) if d.chance() else ends)
    return lambda a, b, offs: op(a, b, offs=offs)


@calls("convolution", "_convolution", "_slow_conv2d_forward", "mkldnn_convolution")
def convolved(d: Draws, op: Any) -> Call:
    name = op._qualified_op_name.split("::")[1]
    places = {"_slow_conv2d_forward": 2, "mkldnn_convolution": 2}.get(name, d.size(1, 3))
    groups = d.size(1, 2) if name in ("convolution", "_convolution", "mkldnn_convolution") else 1
    into, out = groups * d.size(1, 2), groups * d.size(1, 2)
    kind = "single" if "mkldnn" in name else "normal"
    transposed = name == "convolution" and d.chance(0.3)
    kernel, padding, one = [2] * places, [1] * places, [1] * places
    d.rows(d.n, into, *[d.size(2, 3)] * places, kind=kind)
    d.fixed(*([into, out // groups] if transposed else [out, into // groups]), *kernel, kind=kind)
    d.fixed(out, kind=kind)
    if name == "_slow_conv2d_forward":
        return lambda x, w, b: op(x, w, kernel, b, one, padding)
    if name == "mkldnn_convolution":
        return lambda x, w, b: op(x, w, b, padding, one, one, groups)
    more = [False, False, False, False] if name == "_convolution" else []
    return lambda x, w, b: op(x, w, b, one, padding, one, transposed, [0] * places, groups, *more)


@calls("convolution_backward")
def convolution_backward(d: Draws, op: Any) -> Call:
    groups, size = d.size(1, 2), d.size(2, 3)
    into, out = groups * d.size(1, 2), groups * d.size(1, 2)
    transposed = d.chance(0.4)
    after = size if transposed else size - 1
    d.rows(d.n, out, *([size + 1] * 2 if transposed else [after] * 2)), d.rows(d.n, into, size, size)
    d.fixed(*([into, out // groups] if transposed else [out, into // groups]), 2, 2)
    mask = [d.chance(0.8), d.chance(0.3), d.chance(0.3)]
    return lambda g, x, w: [
        r for r in op(g, x, w, [out], [1, 1], [0, 0], [1, 1], transposed, [0, 0], groups, mask) if r is not None
    ]


# -- normalisation ---------------------------------------------------------------------------------------------------------


@calls("native_layer_norm", "_fused_rms_norm")
def layer_norm(d: Draws, op: Any) -> Call:
    shape = [d.n, d.size(), d.size()]
    over = shape[-d.size(1, 2) :]
    d.rows(*shape), d.fixed(*over)
    if "rms" in str(op):
        return lambda x, w: op(x, over, w, 1e-5)
    d.fixed(*over)
    return lambda x, w, b: op(x, over, w, b, 1e-5)


@calls("native_layer_norm_backward")
def layer_norm_backward(d: Draws, op: Any) -> Call:
    shape = [d.n, d.size(), d.size()]
    over = shape[-d.size(1, 2) :]
    d.rows(*shape), d.rows(*shape), d.fixed(*over)
    weights = d.chance(0.3)

    def call(g: Any, x: Any, w: Any) -> Any:
        _, mean, scale = A.native_layer_norm(x, over, w, None, 1e-5)
        return [r for r in op(g, x, over, mean, scale, w, None, [True, weights, False]) if r is not None]

    return call


@calls("native_group_norm", "native_group_norm_backward", "instance_norm")
def group_norm(d: Draws, op: Any) -> Call:
    groups, each, places = d.size(1, 2), d.size(1, 2), [d.size(), d.size()]
    channels, spots = groups * each, places[0] * places[1]
    if "backward" in str(op):
        d.rows(d.n, channels, *places)
    d.rows(d.n, channels, *places), d.fixed(channels), d.fixed(channels)
    if "instance" in str(op):
        return lambda x, w, b: op(x, w, b, None, None, True, 0.1, 1e-5, False)
    if "backward" not in str(op):
        return lambda x, w, b: op(x, w, b, d.n, channels, spots, groups, 1e-5)
    weights = d.chance(0.3)

    def call(g: Any, x: Any, w: Any, b: Any) -> Any:
        _, mean, scale = A.native_group_norm(x, w, b, d.n, channels, spots, groups, 1e-5)
        return [
            r for r in op(g, x, mean, scale, w, d.n, channels, spots, groups, [True, weights, weights]) if r is not None
        ]

    return call


@calls("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional", "_batch_norm_no_update")
@calls("_native_batch_norm_legit_no_training", "_batch_norm_with_update", "native_batch_norm_backward")
def batch_norm(d: Draws, op: Any) -> Call:
    name, channels = op._qualified_op_name.split("::")[1], d.size()
    shape = [d.n, channels, *(max(1, s) for s in d.sizes(0, 2))]
    if "backward" in name:
        d.rows(*shape)
    d.rows(*shape), d.fixed(channels), d.fixed(channels), d.fixed(channels), d.fixed(channels, kind="positive")
    train = d.chance()
    d.mixes = train
    if "backward" in name:

        def backward(g: Any, x: Any, w: Any, b: Any, mean: Any, var: Any) -> Any:
            _, m, s = A.native_batch_norm(x, w, b, mean.clone(), var.clone(), train, 0.1, 1e-5)
            return [r for r in op(g, x, w, mean, var, m, s, train, 1e-5, [True, False, False]) if r is not None]

        return backward
    if name in ("_native_batch_norm_legit_no_training", "_batch_norm_with_update", "_batch_norm_no_update"):
        return lambda x, w, b, mean, var: list(op(x, w, b, mean, var, 0.1, 1e-5))[:3]
    if name == "_native_batch_norm_legit" and d.chance(0.3):
        d.mixes = True
        return lambda x, w, b, mean, var: op(x, w, b, True, 0.1, 1e-5)

    def forward(x: Any, w: Any, b: Any, mean: Any, var: Any) -> Any:
        moved = mean.clone(), var.clone()
        return [*op(x, w, b, *moved, train, 0.1, 1e-5), *moved]

    return forward


# -- attention -------------------------------------------------------------------------------------------------------------


@calls("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward")
def attention(d: Draws, op: Any) -> Call:
    heads, t, s, width = d.size(1, 2), d.size(), d.size(), 8
    if "backward" in str(op):
        d.rows(d.n, heads, t, width)
    d.rows(d.n, heads, t, width), d.rows(d.n, heads, s, width), d.rows(d.n, heads, s, width)
    causal, masked = d.chance(0.3), d.chance()
    if masked and not causal:
        d.either(d.n, 1, t, s) if d.chance() else d.fixed(t, s)
    else:
        masked = False
    forward = A._scaled_dot_product_flash_attention_for_cpu
    if "backward" not in str(op):
        return lambda q, k, v, m=None: op(q, k, v, 0.0, causal, attn_mask=m)

    def backward(g: Any, q: Any, k: Any, v: Any, m: Any = None) -> Any:
        out, sums = forward(q, k, v, 0.0, causal, attn_mask=m)
        return op(g, q, k, v, out, sums, 0.0, causal, attn_mask=m)

    return backward
