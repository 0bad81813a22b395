"""Convolutions and their transposes in one, two and three dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dplit.grads.factors.base import (
    MAX_INSTANTIATED,
    DenseGrad,
    FactoredGrad,
    flattened,
    inner,
    rounded_up,
    sq_norms,
    underflow,
    wide,
)
from dplit.grads.factors.ghost_norm import ghost_is_slower
from dplit.grads.factors.outer_product import MAX_KEPT_RATIO
from dplit.grads.rules.matmul import BatchedOuterProductGrad
from dplit.grads.tape.autocast import to_product_dtype
from dplit.grads.tape.recorded_function import Context, RecordedFunction
from dplit.grads.tape.registry import rule
from dplit.grads.types import InputGradients, TorchFunction

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape

SMALL_GRADIENT = 1 << 13
"""Most numbers of an example's gradient for which one grouped convolution is the quickest way to build all examples'."""


@dataclass(frozen=True)
class Geometry:
    """Where the windows of a convolution lie; those of a transposed convolution lie alike, with input and output exchanged."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool = False
    output_padding: tuple[int, ...] = (0,)

    def gradients(
        self, back: Tensor, x: Tensor, weight: Tensor, mask: tuple[bool, bool, bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of input, weight and bias that `mask` asks for; the others are undefined."""
        gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
            back,
            x,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding,
            self.groups,
            mask,
        )
        return gradients

    def windows(self, x: Tensor, positions: Sequence[int]) -> Tensor:
        """Return the window of x that each output position sees: `(b, groups, t, d)` from `(b, channels, *space)`.

        `positions` is the shape of the output positions, t their number.
        """
        padded = F.pad(x, [side for p in reversed(self.padding) for side in (p, p)])
        (b, c, *along), k = padded.stride(), len(self.kernel)
        step = [a * s for a, s in zip(along, self.stride, strict=True)]
        within = [a * d for a, d in zip(along, self.dilation, strict=True)]
        view = padded.as_strided((*x.shape[:2], *self.kernel, *positions), (b, c, *within, *step))
        split: Tensor = view.unflatten(1, (self.groups, -1)).flatten(3 + k).flatten(2, 2 + k)
        return split.mT

    def offsets(self, positions: Sequence[int]) -> Iterator[tuple[slice, ...]]:
        """Yield, for each element of the kernel, the padded pixels that the windows have in its place."""
        steps = list(zip(self.stride, self.dilation, positions, strict=True))
        for element in product(*(range(k) for k in self.kernel)):
            yield tuple(
                slice(k * d, k * d + s * (count - 1) + 1, s) for k, (s, d, count) in zip(element, steps, strict=True)
            )


@dataclass(frozen=True)
class ConvGrad(FactoredGrad):
    """A convolution is a linear map of windows: gᵢ = Σₜ bᵢₜ wᵢₜᵀ over t positions, for each group of channels.

    The windows repeat each activation once for each element of the kernel. Therefore only x and the output gradient are kept,
    and windows exist for a few examples at a time, while norms are computed. The weighted sum is the weight gradient of one
    ordinary convolution whose output gradient is multiplied by the weights.

    Source: Bu et al. 2022, arXiv:2205.10683 (ghost norm of convolutions, and when it is the cheaper way).
    """

    x: Tensor
    """`(n, m, channels in, *space)` activations: m images of each example."""
    back: Tensor
    """`(n, m, channels out, *positions)` output gradients."""
    geometry: Geometry

    @property
    def examples(self) -> int:
        return self.x.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight: `(channels out, channels in / groups, *kernel)`."""
        return (self.back.shape[2], self.x.shape[2] // self.geometry.groups, *self.geometry.kernel)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def select(self, index: Tensor | slice) -> ConvGrad:
        return replace(self, x=self.x[index], back=self.back[index])

    def dense(self) -> Tensor:
        if self.x.device.type == "cpu":
            return self._at_once() if self.size <= SMALL_GRADIENT and self.examples else self._one_by_one()
        parts = [part._linear().dense() for part in self._window_chunks()]
        return torch.cat(parts).reshape(self.examples, *self.shape)

    def _at_once(self) -> Tensor:
        """Build all gradients as the weight gradient of one convolution in which each example is a group of channels."""
        x, back = (wide(v).transpose(0, 1).flatten(1, 2) for v in (self.x, self.back))
        grouped = replace(self.geometry, groups=self.geometry.groups * self.examples)
        like = x.new_empty(1).expand(self.examples * self.shape[0], *self.shape[1:])
        return grouped.gradients(back, x, like, (False, True, False))[1].view(self.examples, *self.shape)

    def _one_by_one(self) -> Tensor:
        """Build the gradients as a weight gradient for each example, which needs no windows."""
        x, back = wide(self.x), wide(self.back)
        grads = x.new_empty(self.examples, *self.shape)
        for i in range(self.examples):
            grads[i] = self.geometry.gradients(back[i], x[i], grads[i], (False, True, False))[1]
        return grads

    def compact(self) -> FactoredGrad:
        """Build the gradients now where that is quicker and they are not much larger than what they are built from."""
        kept = self.x[:1].numel() + self.back[:1].numel()
        if self.examples and self.size <= MAX_KEPT_RATIO * kept and self._ghost_is_slower():
            return DenseGrad(self.dense())
        return self

    def _ghost_is_slower(self) -> bool:
        pixels, positions = self._pixels(), self._positions()
        width = self.x.shape[2] * min(pixels / positions, math.prod(self.geometry.kernel) ** 0.5) ** 2
        return ghost_is_slower(positions, int(width) + self.shape[0], self.size, self.x.device)

    def _pixels(self) -> int:
        space = zip(self.x.shape[3:], self.geometry.padding, strict=True)
        return self.x.shape[1] * math.prod(size + 2 * p for size, p in space)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        x, back = wide(self.x), wide(self.back)
        back = back * weights.view(-1, *[1] * (back.dim() - 1))
        if not self.examples:
            return back.new_zeros(self.shape)
        flat_back, images, like = back.flatten(0, 1), x.flatten(0, 1), x.new_empty(self.shape)
        return self.geometry.gradients(flat_back, images, like, (False, True, False))[1]

    def sq_norm(self) -> Tensor:
        if self._ghost_is_slower():
            return super().sq_norm()
        pixels = self._pixels()
        if self.x.shape[1] == 1 and pixels**2 <= self._positions() ** 2 * math.prod(self.geometry.kernel):
            step = max(1, MAX_INSTANTIATED // (pixels**2 * self.geometry.groups))
            runs = [slice(i, i + step) for i in range(0, self.examples, step)]
            return torch.cat([self.select(run)._sq_norm_by_pixels() for run in runs])
        return torch.cat([part._linear().sq_norm() for part in self._window_chunks()])

    def terms_sq_norm(self) -> Tensor:
        """Return Σₜ ‖wᵢₜ‖² ‖bᵢₜ‖²: the weight gradient of the same convolution of squares, summed over the kernel."""
        groups = self.geometry.groups
        x, back = (wide(v).square().unflatten(2, (groups, -1)).sum(3) for v in (self.x, self.back))
        like = x.new_empty(groups, 1, *self.geometry.kernel)
        squares = [
            self.geometry.gradients(b, a, like, (False, True, False))[1].sum() for a, b in zip(x, back, strict=True)
        ]
        terms = torch.stack(squares) if squares else x.new_zeros(0)
        return terms + underflow(self._products(), x.flatten(1).sum(1) + back.flatten(1).sum(1))

    def factors_sq_norm(self) -> Tensor:
        return sq_norms(flattened(self.x)) + sq_norms(flattened(self.back))

    @property
    def factors_size(self) -> int:
        return self.x[:1].numel() + self.back[:1].numel()

    def _products(self) -> int:
        """How many numbers an example is kept in, each pixel counted in every window that may hold it."""
        return self.factors_size * math.prod(self.geometry.kernel)

    def _sq_norm_by_pixels(self) -> Tensor:
        """Return ‖gᵢ‖² from the Gram matrix of pixels: that of windows is the sum of its shifts, one for each kernel element."""
        n, groups, positions = self.examples, self.geometry.groups, self.back.shape[3:]
        x, back = (wide(v)[:, 0].unflatten(1, (groups, -1)).flatten(0, 1) for v in (self.x, self.back))
        padded = F.pad(x, [side for p in reversed(self.geometry.padding) for side in (p, p)])
        space, pixels = padded.shape[2:], padded.flatten(2)
        pixel_gram = (pixels.mT @ pixels).view(-1, *space, *space)
        shifts = [pixel_gram[:, *seen, *seen] for seen in self.geometry.offsets(positions)]
        windows = sum(shifts[1:], shifts[0]).flatten(1)
        grams = back.flatten(2).mT @ back.flatten(2)
        diagonals = [v.view(len(x), *[math.prod(positions)] * 2).diagonal(dim1=1, dim2=2) for v in (windows, grams)]
        terms = torch.linalg.vecdot(*diagonals)
        total = torch.linalg.vecdot(windows, grams.flatten(1))
        lost = underflow(self._products(), diagonals[0].sum(1) + diagonals[1].sum(1))
        return rounded_up(*(v.view(n, groups).sum(1) for v in (total + lost, terms)))

    def inner_with(self, other: FactoredGrad) -> Tensor | None:
        if (
            not isinstance(other, ConvGrad)
            or other.shape != self.shape
            or other.geometry.groups != self.geometry.groups
        ):
            return None
        t, s = self._positions(), other._positions()
        d, p = self.size // self.shape[0], self.shape[0] // self.geometry.groups
        if t * s * (d + p) >= (t + s) * d * p:
            return None
        step = min(self._step(), other._step())
        runs = [slice(i, i + step) for i in range(0, self.examples, step)]
        return torch.cat([inner(self.select(run)._linear(), other.select(run)._linear()) for run in runs])

    def _positions(self) -> int:
        return self.back.shape[1] * math.prod(self.back.shape[3:])

    def _step(self) -> int:
        return max(1, MAX_INSTANTIATED // max(1, self._positions() * self.size // self.shape[0] * self.geometry.groups))

    def _window_chunks(self) -> Iterator[ConvGrad]:
        """Yield runs of examples whose windows may exist at one time."""
        step = self._step()
        for start in range(0, self.examples, step):
            yield self.select(slice(start, start + step))

    def _linear(self) -> BatchedOuterProductGrad:
        """Return the same gradients as those of a linear map of windows, side by side for the groups."""
        (n, m), groups = self.x.shape[:2], self.geometry.groups
        windows = self.geometry.windows(wide(self.x).flatten(0, 1), self.back.shape[3:])
        back = wide(self.back).flatten(0, 1).unflatten(1, (groups, -1)).flatten(3).mT
        return BatchedOuterProductGrad(_by_example(windows, n, m), _by_example(back, n, m))


def _by_example(value: Tensor, n: int, m: int) -> Tensor:
    """Return `(n, k, m·t, d)` from `(n·m, k, t, d)`: the positions of all m images of an example."""
    split: Tensor = value.unflatten(0, (n, m))
    return split.transpose(1, 2).flatten(2, 3)


class _Conv(RecordedFunction):
    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, tape: Tape) -> Tensor:
        ctx.tape, ctx.weight, ctx.bias, ctx.geometry = tape, tape.tracked(weight), tape.tracked(bias), geometry
        ctx.shape = x.shape
        ctx.save_for_backward(x if ctx.weight else None, weight if ctx.needs_input_grad[0] else None)
        g, kind = geometry, x.device.type
        if torch.is_autocast_enabled(kind):
            weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        return torch.convolution(
            x, weight, bias, g.stride, g.padding, g.dilation, g.transposed, list(g.output_padding), g.groups
        )

    @staticmethod
    def gradient(ctx: Context, saved: tuple[Tensor, ...], back: Tensor) -> InputGradients:
        (x, weight), n = saved, ctx.tape.examples
        back = back.detach()
        if ctx.weight is not None:
            ctx.tape.record(ctx.weight, conv_grad(x.detach(), back, ctx.geometry, n))
        if ctx.bias is not None:
            by_image = wide(back).flatten(2).sum(2)
            ctx.tape.record(ctx.bias, DenseGrad(by_image.unflatten(0, (n, -1)).sum(1)))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        like = back.new_empty(1).expand(ctx.shape)
        grad = ctx.geometry.gradients(back, like, weight.to(back.dtype), (True, False, False))[0]
        return grad, None, None, None, None


def conv_grad(x: Tensor, back: Tensor, geometry: Geometry, examples: int) -> ConvGrad:
    """Return the gradient of W in y = conv(x, W), in factors.

    A transposed convolution is treated as the convolution of `back` with x as its output gradient.

    Args:
        x: `(n·m, channels in, *space)`.
        back: the gradient of y, `(n·m, channels out, *positions)`.
        geometry: of the convolution.
        examples: n.
    """
    x, back = (v.unflatten(0, (examples, -1)) for v in (x, back))
    if not geometry.transposed:
        return ConvGrad(x, back, geometry)
    return ConvGrad(back, x, replace(geometry, transposed=False, output_padding=(0,) * len(geometry.kernel)))


def _convolve(
    tape: Tape, operation: TorchFunction, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
) -> Tensor:
    if x.dim() != weight.dim():
        raise tape.refusal(
            operation,
            (weight, bias),
            f"got an activation of shape {tuple(x.shape)}, one image without a dimension of examples; put the "
            "examples first",
        )
    tape.refuse_data(operation, weight, bias)
    return tape.apply_by_row(
        operation, lambda v: _Conv.apply(to_product_dtype(v), weight, bias, geometry, tape), x, weight, bias
    )


def _conv(operation: TorchFunction, dimensions: int) -> None:
    @rule(operation, any_batch_axis=True)
    def convolution(
        tape: Tape,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Tensor:
        """Convolution of any stride, padding, dilation and number of groups."""
        kernel, strides, dilations = (
            tuple(weight.shape[2:]),
            _as_tuple(stride, dimensions),
            _as_tuple(dilation, dimensions),
        )
        if padding == "same" and set(strides) != {1}:
            raise tape.refusal(operation, (weight, bias), "has padding='same' and a stride; use padding in numbers")
        if padding == "same" and input.dim() == weight.dim():
            padded, padding = _same(input, kernel, dilations)
            tape.keep_batch_axis(input, padded)
            input = padded
        sides = (0,) * dimensions if isinstance(padding, str) else _as_tuple(padding, dimensions)
        geometry = Geometry(kernel, strides, sides, dilations, groups, False, (0,) * dimensions)
        return _convolve(tape, operation, input, weight, bias, geometry)


def _conv_transposed(operation: TorchFunction, dimensions: int) -> None:
    @rule(operation, any_batch_axis=True)
    def convolution(
        tape: Tape,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        dilation: int | Sequence[int] = 1,
    ) -> Tensor:
        """Transposed convolution of any stride, padding, dilation and number of groups."""
        stride, padding, dilation, extra = (
            _as_tuple(v, dimensions) for v in (stride, padding, dilation, output_padding)
        )
        geometry = Geometry(tuple(weight.shape[2:]), stride, padding, dilation, groups, True, extra)
        return _convolve(tape, operation, input, weight, bias, geometry)


def _as_tuple(value: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dimensions if len(values) == 1 else values


def _same(x: Tensor, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
    """Return the padding of both sides that keeps the input's size, and the input, padded on one side where that is odd."""
    totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if any(total % 2 for total in totals):
        x = F.pad(x, [side for total in reversed(totals) for side in (0, total % 2)])
    return x, tuple(total // 2 for total in totals)


for _dimensions, _operation in enumerate((F.conv1d, F.conv2d, F.conv3d), start=1):
    _conv(_operation, _dimensions)
for _dimensions, _transposed in enumerate((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), start=1):
    _conv_transposed(_transposed, _dimensions)
