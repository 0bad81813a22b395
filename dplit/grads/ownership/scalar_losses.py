"""A scalar loss that is seen to be the plain mean or sum over the examples, taken apart into a loss for each."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from types import FunctionType, TracebackType
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from dplit.grads.messages import operation_name
from dplit.grads.ownership.blame import Place, place
from dplit.grads.tape.tape import Tape
from dplit.grads.types import Args, Kwargs, Result, TorchFunction

Kind = Literal["mean", "sum"]


@dataclass(frozen=True)
class Plain:
    """A scalar as the mean or the sum over the examples of losses `(n,)`, and how it was made."""

    kind: Kind
    losses: Tensor
    """`(n,)`, with their graph."""


@dataclass(frozen=True)
class NotPlain:
    """A scalar that is no plain mean or sum over the examples, or is not seen to be one."""

    why: str
    alone: bool = True
    """Whether it is the loss of an example that is alone in its batch."""


Seen = Plain | NotPlain

Divisors = dict[Place, float | None]
"""By what sums over the examples are divided at some places: a constant, or None for their number."""


class ScalarLosses(TorchFunctionMode):
    """Follows, while active, scalars that are means or sums over the examples of a batch.

    The losses of torch are computed without their reduction, and reduced afterwards. A mean over numbers is the mean over
    the examples if each has as many; a mean over weights, or over what is not ignored, in general is not. Sums and
    multiples of such scalars are followed, and terms that belong to no example, which a mean has once in each example's loss.

    Args:
        examples: n.
        divisors: what sums were divided by in other batches.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
        >>> with ScalarLosses(2) as scalars:
        ...     loss = 0.5 * x.square().mean() + 1.0
        >>> scalars.of(loss)
        Plain(kind='mean', losses=tensor([ 3.5000, 19.5000]))
    """

    def __init__(self, examples: int, divisors: Divisors | None = None) -> None:
        super().__init__()
        self.examples = examples
        self.divisors = {} if divisors is None else divisors
        self._seen: dict[int, tuple[weakref.ref[Tensor], Seen]] = {}
        modes = _get_current_function_mode_stack()
        self._tape = next((mode for mode in reversed(modes) if isinstance(mode, Tape)), None)

    def __enter__(self) -> Self:
        """Start following. Compiled code runs eagerly meanwhile, because a compiled graph shows no scalars."""
        self._eager = torch.compiler.set_stance("force_eager")
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop following."""
        super().__exit__(kind, error, traceback)
        self._eager.__exit__(kind, error, traceback)

    def of(self, value: Tensor) -> Seen:
        """Return what a scalar was seen to be."""
        known = self._known(value)
        return known or NotPlain("it was not made by a mean or sum that could be followed")

    def __torch_function__(
        self, func: TorchFunction, types: Collection[type], args: Args = (), kwargs: Kwargs | None = None
    ) -> Result:
        """Compute a loss without its reduction, follow a scalar, or leave a function as it is."""
        kwargs = kwargs or {}
        if _has_reduction(func):
            reduced = self._loss(func, args, kwargs)
            if reduced is not None:
                return reduced
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.dim() == 0 and result.is_floating_point():
            self._noted(result, self._after(func, args, kwargs, result))
        return result

    def _known(self, value: object) -> Seen | None:
        entry = self._seen.get(id(value))
        return entry[1] if entry is not None and entry[0]() is value else None

    def _noted(self, value: Tensor, seen: Seen | None) -> Tensor:
        if seen is not None:
            self._seen[id(value)] = weakref.ref(value), seen
        return value

    # -- losses of torch -------------------------------------------------------------------------------------------------

    def _loss(self, func: TorchFunction, args: Args, kwargs: Mapping[str, Any]) -> Tensor | None:
        """Return a loss of torch, reduced by hand, or None to leave it as it is."""
        bound = _signature(func).bind(*args, **kwargs)
        bound.apply_defaults()
        settings = bound.arguments
        kind = settings["reduction"]
        if kind not in ("mean", "sum", "batchmean") or settings.get("size_average") or settings.get("reduce"):
            return None
        numbers = func(**{**settings, "reduction": "none"})
        if not isinstance(numbers, Tensor) or (not numbers.dim() and self.examples > 1):
            return None
        if kind == "sum":
            return self._noted(numbers.sum(), self._plain("sum", numbers))
        if kind == "batchmean":
            rows = len(settings["input"])
            return self._noted(numbers.sum() / rows, self._plain("mean", numbers, by_sum=rows == self.examples))
        counted = self._counted(func, settings, numbers)
        if isinstance(counted, NotPlain):
            return self._noted(func(*args, **kwargs), counted)
        mean = numbers.mean() if counted is None else numbers.sum() / counted.sum()
        return self._noted(mean, self._mean(numbers, counted))

    def _counted(self, func: TorchFunction, settings: Mapping[str, Any], numbers: Tensor) -> Tensor | NotPlain | None:
        """Return which numbers a mean is over, None for all, or why it is not a plain mean."""
        target = settings.get("target")
        if func not in (F.cross_entropy, F.nll_loss) or not isinstance(target, Tensor):
            return None
        at = f"{operation_name(func)} at {place()}"
        if settings["weight"] is not None:
            return NotPlain(
                f"{at} divides by the weights of the classes that are in the batch; multiply the losses of "
                'reduction="none" by weight[target], or use reduction="sum"',
                alone=False,
            )
        if target.is_floating_point():
            return None
        kept: Tensor = (target != settings["ignore_index"]).reshape(numbers.shape)
        by_example = _by_example(kept, self.examples)
        if by_example is None:
            return NotPlain(f"{at}: whose its numbers of shape {tuple(numbers.shape)} are is not known")
        if self.examples == 1:
            return kept
        counts = by_example.sum(1)
        if bool((counts != counts[0]).any()):
            return NotPlain(
                f"{at} is a mean over the labels of the whole batch, of which the examples have from {int(counts.min())} to "
                f'{int(counts.max())}; use reduction="none", and average the losses of each example over its own labels'
            )
        return None if bool(kept.all()) else kept

    def _mean(self, numbers: Tensor, counted: Tensor | None) -> Seen | None:
        if counted is None:
            return self._plain("mean", numbers)
        by_example, kept = _by_example(numbers, self.examples), _by_example(counted, self.examples)
        assert by_example is not None
        assert kept is not None
        return Plain("mean", by_example.sum(1) / kept.sum(1))

    # -- scalars ---------------------------------------------------------------------------------------------------------

    def _plain(self, kind: Kind, numbers: Tensor, by_sum: bool = False) -> Seen | None:
        """Return the mean or sum of numbers, as many of each example, as one over the examples; None if they are no example's."""
        by_example = _by_example(numbers, self.examples) if self._is_data(numbers) else None
        if by_example is None:
            return None
        return Plain(kind, by_example.sum(1) if kind == "sum" or by_sum else by_example.mean(1))

    def _is_data(self, value: Tensor) -> bool:
        """Whether the tape that records, if there is one, does not know a tensor as computed from parameters and constants."""
        return self._tape is None or not (self._tape.tracked(value) or self._tape.is_constant(value))

    def _after(self, func: TorchFunction, args: Args, kwargs: Mapping[str, Any], result: Tensor) -> Seen | None:
        """Return what the scalar that a function returned is, or None where nothing is known of its arguments."""
        name = getattr(func, "__name__", "")
        given = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
        if name in ("mean", "sum") and len(given) == 1 and given[0].dim():
            return self._plain(name, given[0])  # type: ignore[arg-type]
        known = [self._known(v) for v in args]
        if not any(known):
            return None
        broken = next((k for k in known if isinstance(k, NotPlain)), None)
        if broken is not None:
            return broken
        if name in COPIES:
            return known[0]
        if name in ADDS and len(args) == 2:
            return self._added(args, known, -1.0 if "sub" in name else 1.0, "rsub" in name)
        if name in MULTIPLIES and len(args) == 2:
            return self._multiplied(args, known)
        if name in DIVIDES and len(args) == 2 and isinstance(known[0], Plain) and known[1] is None:
            return self._divided(known[0], args[1])
        if name in ("neg", "__neg__") and isinstance(known[0], Plain):
            return Plain(known[0].kind, -known[0].losses)
        return NotPlain(f"{name} at {place()} of a mean or sum over the examples is not one")

    def _added(self, args: Args, known: list[Seen | None], sign: float, reverse: bool) -> Seen:
        """Return the sum of two scalars, of which one may belong to no example."""
        a, b = (known[1], known[0]) if reverse else (known[0], known[1])
        first, second = (args[1], args[0]) if reverse else args
        if isinstance(a, Plain) and isinstance(b, Plain):
            if a.kind != b.kind:
                return NotPlain(
                    f"a mean and a sum over the examples are added at {place()}; use one reduction for both"
                )
            return Plain(a.kind, a.losses + sign * b.losses)
        plain, other = (a, second) if isinstance(a, Plain) else (b, first)
        assert isinstance(plain, Plain)
        if plain.kind == "sum" and not (isinstance(other, int | float) and other == 0):
            return NotPlain(
                f"a term that belongs to no example is added to a sum over the examples at {place()}; add it to a mean, or as "
                "weight_decay of the optimizer"
            )
        if plain is a:
            return Plain(plain.kind, plain.losses + sign * other)
        return Plain(plain.kind, other + sign * plain.losses)

    def _multiplied(self, args: Args, known: list[Seen | None]) -> Seen:
        a, b = known
        if isinstance(a, Plain) and isinstance(b, Plain):
            return NotPlain(f"two means or sums over the examples are multiplied at {place()}")
        plain, factor = (a, args[1]) if isinstance(a, Plain) else (b, args[0])
        assert isinstance(plain, Plain)
        return Plain(plain.kind, plain.losses * factor)

    def _divided(self, plain: Plain, by: Any) -> Seen:
        """Return a quotient; a sum divided by n is a mean.

        Whether a number is n or a constant shows by batches of several sizes: at one place it has to be the same each time.
        """
        if plain.kind == "mean" or not isinstance(by, int | float):
            return Plain(plain.kind, plain.losses / by)
        constant = self.divisors.setdefault(place(), None if by == self.examples else by)
        if constant is None and by == self.examples:
            return Plain("mean", plain.losses)
        if constant == by:
            return Plain("sum", plain.losses / by)
        return NotPlain(
            f"a sum over the examples is divided at {place()} by {by:g}, which neither is their number, {self.examples}, nor the "
            "same in each batch; take the mean of losses of shape (n,)",
            alone=False,
        )


def _by_example(numbers: Tensor, examples: int) -> Tensor | None:
    """Return numbers as `(n, k)`: in row-major order with the examples outermost, or in the second dimension."""
    if not numbers.dim():
        return numbers.reshape(1, 1) if examples == 1 else None
    if len(numbers) == examples or (len(numbers) and len(numbers) % examples == 0):
        return numbers.reshape(examples, -1)
    if numbers.dim() > 1 and numbers.shape[1] == examples:
        return numbers.movedim(1, 0).reshape(examples, -1)
    return None


@cache
def _signature(func: TorchFunction) -> inspect.Signature:
    return inspect.signature(func)


@cache
def _has_reduction(func: TorchFunction) -> bool:
    """Whether a function is a loss of torch that takes a mean or sum of the losses that it computes."""
    is_loss = isinstance(func, FunctionType) and func.__module__ == F.__name__ and func is not F.ctc_loss
    return is_loss and "reduction" in _signature(func).parameters


COPIES = frozenset(
    {
        "clone",
        "to",
        "float",
        "double",
        "type",
        "view",
        "reshape",
        "squeeze",
        "contiguous",
        "type_as",
        "half",
        "bfloat16",
    }
)
ADDS = frozenset(
    {"add", "__add__", "__radd__", "__iadd__", "add_", "sub", "__sub__", "__rsub__", "rsub", "__isub__", "sub_"}
)
MULTIPLIES = frozenset({"mul", "__mul__", "__rmul__", "__imul__", "mul_", "multiply"})
DIVIDES = frozenset({"div", "__truediv__", "__itruediv__", "div_", "true_divide", "divide"})
