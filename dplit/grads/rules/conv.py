"""Convolutions and their transposes in one, two and three dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dplit.grads.factors.base import INSTANTIATED, DenseGrad, FactoredGrad, at_least, inner, wide
from dplit.grads.factors.ghost_norm import ghost_is_slower
from dplit.grads.factors.outer_product import ROOM
from dplit.grads.rules.matmul import BatchedOuterProductGrad
from dplit.grads.tape.autocast import narrowed
from dplit.grads.tape.recorded_function import RecordedFunction
from dplit.grads.tape.registry import rule

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape

SMALL = 1 << 13
"""Numbers of an example's gradient up to which one grouped convolution makes those of all examples the quickest."""


@dataclass(frozen=True)
class Geometry:
    """Where a convolution's windows lie; a transposed one has the same windows, read the other way."""

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
        """Return the gradients of input, weight and bias that `mask` asks for."""
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
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
        return found

    def windows(self, x: Tensor, positions: Sequence[int]) -> Tensor:
        """Return what each of t output positions sees of `(b, channels, *space)`: `(b, groups, t, d)`."""
        padded = F.pad(x, [side for p in reversed(self.padding) for side in (p, p)])
        (b, c, *along), k = padded.stride(), len(self.kernel)
        step = [a * s for a, s in zip(along, self.stride, strict=True)]
        within = [a * d for a, d in zip(along, self.dilation, strict=True)]
        view = padded.as_strided((*x.shape[:2], *self.kernel, *positions), (b, c, *within, *step))
        split: Tensor = view.unflatten(1, (self.groups, -1)).flatten(3 + k).flatten(2, 2 + k)
        return split.mT

    def offsets(self, positions: Sequence[int]) -> Iterator[tuple[slice, ...]]:
        """Yield, for each element of the kernel, the padded pixels that the windows have there."""
        steps = list(zip(self.stride, self.dilation, positions, strict=True))
        for element in product(*(range(k) for k in self.kernel)):
            yield tuple(
                slice(k * d, k * d + s * (count - 1) + 1, s) for k, (s, d, count) in zip(element, steps, strict=True)
            )


@dataclass(frozen=True)
class ConvGrad(FactoredGrad):
    """A convolution is a linear map of windows: gᵢ = Σₜ bᵢₜ wᵢₜᵀ over t positions, per group of channels.

    The windows repeat each activation once per kernel element, so only x and the output gradient are kept; windows
    exist for a few examples at a time, while norms are taken. The weighted sum is one weight gradient of an ordinary
    convolution whose output gradient carries the weights.

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
        """The weight's: `(channels out, channels in / groups, *kernel)`."""
        return (self.back.shape[2], self.x.shape[2] // self.geometry.groups, *self.geometry.kernel)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def select(self, index: Tensor | slice) -> ConvGrad:
        return replace(self, x=self.x[index], back=self.back[index])

    def dense(self) -> Tensor:
        if self.x.device.type == "cpu":
            return self._at_once() if self.size <= SMALL and self.examples else self._one_by_one()
        parts = [part._linear().dense() for part in self._pieces()]
        return torch.cat(parts).reshape(self.examples, *self.shape)

    def _at_once(self) -> Tensor:
        """Return the same as the weight gradient of one convolution in which each example is a group of channels."""
        x, back = (wide(v).transpose(0, 1).flatten(1, 2) for v in (self.x, self.back))
        apart = replace(self.geometry, groups=self.geometry.groups * self.examples)
        like = x.new_empty(1).expand(self.examples * self.shape[0], *self.shape[1:])
        return apart.gradients(back, x, like, (False, True, False))[1].view(self.examples, *self.shape)

    def _one_by_one(self) -> Tensor:
        """Return the same as a weight gradient for each example: no windows, and as quick as one for all of them."""
        x, back = wide(self.x), wide(self.back)
        grads = x.new_empty(self.examples, *self.shape)
        for i in range(self.examples):
            grads[i] = self.geometry.gradients(back[i], x[i], grads[i], (False, True, False))[1]
        return grads

    def compact(self) -> FactoredGrad:
        """Keep the gradients themselves where that is quicker and not much larger than what they come from."""
        kept = self.x[:1].numel() + self.back[:1].numel()
        if self.examples and self.size <= ROOM * kept and self._costs_more():
            return DenseGrad(self.dense())
        return self

    def _costs_more(self) -> bool:
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
        flat, images, like = back.flatten(0, 1), x.flatten(0, 1), x.new_empty(self.shape)
        return self.geometry.gradients(flat, images, like, (False, True, False))[1]

    def sq_norm(self) -> Tensor:
        if self._costs_more():
            return super().sq_norm()
        pixels = self._pixels()
        if self.x.shape[1] == 1 and pixels**2 <= self._positions() ** 2 * math.prod(self.geometry.kernel):
            step = max(1, INSTANTIATED // (pixels**2 * self.geometry.groups))
            parts = [self.select(slice(i, i + step)) for i in range(0, self.examples, step)]
            return torch.cat([part._norm_by_pixels() for part in parts])
        return torch.cat([part._linear().sq_norm() for part in self._pieces()])

    def terms(self) -> Tensor:
        """Σₜ ‖wᵢₜ‖² ‖bᵢₜ‖²: the weight gradient of the same convolution of squares, summed over the kernel."""
        groups = self.geometry.groups
        x, back = (wide(v).square().unflatten(2, (groups, -1)).sum(3) for v in (self.x, self.back))
        like = x.new_empty(groups, 1, *self.geometry.kernel)
        found = [
            self.geometry.gradients(b, a, like, (False, True, False))[1].sum() for a, b in zip(x, back, strict=True)
        ]
        return torch.stack(found) if found else x.new_zeros(0)

    def _norm_by_pixels(self) -> Tensor:
        """Windows share pixels: the Gram matrix of windows is a sum, over the kernel, of shifted ones of pixels."""
        n, groups, positions = self.examples, self.geometry.groups, self.back.shape[3:]
        x, back = (wide(v)[:, 0].unflatten(1, (groups, -1)).flatten(0, 1) for v in (self.x, self.back))
        padded = F.pad(x, [side for p in reversed(self.geometry.padding) for side in (p, p)])
        space, pixels = padded.shape[2:], padded.flatten(2)
        each = (pixels.mT @ pixels).view(-1, *space, *space)
        windows = sum(each[:, *seen, *seen] for seen in self.geometry.offsets(positions)).flatten(1)  # type: ignore[union-attr]
        grams = back.flatten(2).mT @ back.flatten(2)
        own = (v.view(len(x), *[math.prod(positions)] * 2).diagonal(dim1=1, dim2=2) for v in (windows, grams))
        terms = torch.linalg.vecdot(*own)
        total = torch.linalg.vecdot(windows, grams.flatten(1))
        return at_least(*(v.view(n, groups).sum(1) for v in (total, terms)))

    def inner_with(self, other: FactoredGrad) -> Tensor | None:
        if (
            not isinstance(other, ConvGrad)
            or other.shape != self.shape
            or other.geometry.groups != self.geometry.groups
        ):
            return None
        mine, its = self._positions(), other._positions()
        d, p = self.size // self.shape[0], self.shape[0] // self.geometry.groups
        if mine * its * (d + p) >= (mine + its) * d * p:
            return None
        step = min(self._step(), other._step())
        runs = [slice(i, i + step) for i in range(0, self.examples, step)]
        return torch.cat([inner(self.select(run)._linear(), other.select(run)._linear()) for run in runs])

    def _positions(self) -> int:
        return self.back.shape[1] * math.prod(self.back.shape[3:])

    def _step(self) -> int:
        return max(1, INSTANTIATED // max(1, self._positions() * self.size // self.shape[0] * self.geometry.groups))

    def _pieces(self) -> Iterator[ConvGrad]:
        step = self._step()
        for start in range(0, self.examples, step):
            yield self.select(slice(start, start + step))

    def _linear(self) -> BatchedOuterProductGrad:
        (n, m), groups = self.x.shape[:2], self.geometry.groups
        windows = self.geometry.windows(wide(self.x).flatten(0, 1), self.back.shape[3:])
        back = wide(self.back).flatten(0, 1).unflatten(1, (groups, -1)).flatten(3).mT
        return BatchedOuterProductGrad(*(_by_example(v, n, m) for v in (windows, back)))


def _by_example(value: Tensor, n: int, m: int) -> Tensor:
    """`(n·m, k, t, d)` to `(n, k, m·t, d)`."""
    split: Tensor = value.unflatten(0, (n, m))
    return split.transpose(1, 2).flatten(2, 3)


class _Conv(RecordedFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, tape: Tape) -> Tensor:
        ctx.tape, ctx.weight, ctx.bias, ctx.geometry = tape, tape.source(weight), tape.source(bias), geometry
        ctx.shape = x.shape
        ctx.save_for_backward(x if ctx.weight else None, weight if ctx.needs_input_grad[0] else None)
        g, kind = geometry, x.device.type
        if torch.is_autocast_enabled(kind):
            weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        return torch.convolution(
            x, weight, bias, g.stride, g.padding, g.dilation, g.transposed, list(g.output_padding), g.groups
        )

    @staticmethod
    def gradient(ctx: Any, saved: tuple[Any, ...], back: Tensor) -> Any:
        (x, weight), n = saved, ctx.tape.examples
        back = back.detach()
        if ctx.weight is not None:
            ctx.tape.record(ctx.weight, conv_grad(x.detach(), back, ctx.geometry, n))
        if ctx.bias is not None:
            each = wide(back).flatten(2).sum(2)
            ctx.tape.record(ctx.bias, DenseGrad(each.unflatten(0, (n, -1)).sum(1)))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        like = back.new_empty(1).expand(ctx.shape)
        grad = ctx.geometry.gradients(back, like, weight.to(back.dtype), (True, False, False))[0]
        return grad, None, None, None, None


def conv_grad(x: Tensor, back: Tensor, geometry: Geometry, examples: int) -> ConvGrad:
    """Return the use of W in y = conv(x, W). A transposed convolution is that of `back`, whose output gradient is x."""
    x, back = (v.unflatten(0, (examples, -1)) for v in (x, back))
    if not geometry.transposed:
        return ConvGrad(x, back, geometry)
    return ConvGrad(back, x, replace(geometry, transposed=False, output_padding=(0,) * len(geometry.kernel)))


def _convolve(tape: Tape, operation: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    tape.by_example(operation, x, weight, bias)
    if x.dim() != weight.dim():
        raise tape.refusal(
            operation,
            (weight, bias),
            f"got an activation of shape {tuple(x.shape)}, one image without a dimension of examples; put the "
            "examples first",
        )
    tape.refuse_data(operation, weight, bias)
    return _Conv.apply(narrowed(x), weight, bias, geometry, tape)  # type: ignore[no-any-return]


def _conv(operation: Any, dimensions: int) -> None:
    @rule(operation)
    def convolution(
        tape: Tape,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        """Convolution of any stride, padding, dilation and number of groups."""
        kernel = tuple(weight.shape[2:])
        stride, dilation = _each(stride, dimensions), _each(dilation, dimensions)
        if padding == "same" and set(stride) != {1}:
            raise tape.refusal(operation, (weight, bias), "has padding='same' and a stride; use padding in numbers")
        if padding == "same" and input.dim() == weight.dim():
            input, padding = _same(input, kernel, dilation)
        padding = (0,) * dimensions if isinstance(padding, str) else _each(padding, dimensions)
        geometry = Geometry(kernel, stride, padding, dilation, groups, False, (0,) * dimensions)
        return _convolve(tape, operation, input, weight, bias, geometry)


def _conv_transposed(operation: Any, dimensions: int) -> None:
    @rule(operation)
    def convolution(
        tape: Tape,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Tensor:
        """Transposed convolution of any stride, padding, dilation and number of groups."""
        stride, padding, dilation, extra = (_each(v, dimensions) for v in (stride, padding, dilation, output_padding))
        geometry = Geometry(tuple(weight.shape[2:]), stride, padding, dilation, groups, True, extra)
        return _convolve(tape, operation, input, weight, bias, geometry)


def _each(value: Any, dimensions: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dimensions if len(values) == 1 else values


def _same(x: Tensor, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
    """Return the input and the padding of both sides that keep its size; one side more is padded here."""
    totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if any(total % 2 for total in totals):
        x = F.pad(x, [side for total in reversed(totals) for side in (0, total % 2)])
    return x, tuple(total // 2 for total in totals)


for _dimensions, _operation in enumerate((F.conv1d, F.conv2d, F.conv3d), start=1):
    _conv(_operation, _dimensions)
for _dimensions, _transposed in enumerate((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), start=1):
    _conv_transposed(_transposed, _dimensions)
