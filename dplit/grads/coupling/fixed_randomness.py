"""Random operations that always give the same value, so that an example can be compared alone and together with others."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from inspect import signature
from statistics import NormalDist
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dplit.grads.types import Args, Kwargs, Result, TorchFunction

_DROPOUTS: frozenset[TorchFunction] = frozenset(
    {
        *(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout),
        *(torch.dropout, torch.feature_dropout, torch.alpha_dropout, torch.feature_alpha_dropout),
    }
)


class FixedRandomness(TorchFunctionMode):
    """While active, dropout keeps everything, and random draws give one quantile of their distribution for every example.

    Args:
        level: the quantile, in (0, 1).
        only: the operations to fix; None fixes all that are known.
    """

    def __init__(self, level: float = 0.5, only: frozenset[TorchFunction] | None = None) -> None:
        super().__init__()
        self.level = level
        z = NormalDist().inv_cdf(level)
        self._answers: dict[TorchFunction, TorchFunction] = {
            torch.rand: _filled_with(level),
            torch.rand_like: _filled_with(level),
            torch.randn: _filled_with(z),
            torch.randn_like: _filled_with(z),
            torch.normal: lambda mean, std=1.0, *a, **k: mean + std * z,
            torch.bernoulli: lambda p, *a, **k: (p > 1 - level).to(p.dtype),
            torch.poisson: lambda rate, *a, **k: rate.round(),
            torch.multinomial: lambda p, num_samples, *a, **k: p.topk(num_samples, dim=-1).indices,
            torch.randint: self._integers,
            F.gumbel_softmax: _softmax,
            F.multi_head_attention_forward: _multi_head_attention,
            F.scaled_dot_product_attention: _attention,
            F.rrelu: lambda x, lower=1 / 8, upper=1 / 3, *a, **k: F.leaky_relu(x, lower + level * (upper - lower)),
            Tensor.uniform_: lambda x, low=0.0, high=1.0, **k: x.fill_(low + level * (high - low)),
            Tensor.normal_: lambda x, mean=0.0, std=1.0, **k: x.fill_(mean + std * z),
            Tensor.exponential_: lambda x, lambd=1.0, **k: x.fill_(-math.log(1 - level) / lambd),
            Tensor.bernoulli_: lambda x, p=0.5, **k: x.copy_((torch.as_tensor(p) > 1 - level).to(x.dtype)),
            **dict.fromkeys(_DROPOUTS, lambda input, *a, **k: input),
        }
        if only is not None:
            self._answers = {func: answer for func, answer in self._answers.items() if func in only}

    def __torch_function__(
        self, func: TorchFunction, types: Collection[type], args: Args = (), kwargs: Kwargs | None = None
    ) -> Result:
        """Answer random operations without randomness, and leave the others as they are."""
        return self._answers.get(func, func)(*args, **(kwargs or {}))

    def _integers(self, *args: Any, **kwargs: Any) -> Tensor:
        """Stand in for `torch.randint(low=0, high, size)`."""
        kwargs.pop("generator", None)
        size = kwargs.pop("size", None)
        numbers = [a for a in args if isinstance(a, int)] + [kwargs.pop(k) for k in ("low", "high") if k in kwargs]
        size = size if size is not None else next(a for a in args if not isinstance(a, int))
        low, high = numbers if len(numbers) > 1 else (0, numbers[0])
        dtype = kwargs.pop("dtype", torch.int64)
        return torch.full(tuple(size), low + int(self.level * (high - low)), dtype=dtype, **kwargs)


def _filled_with(value: float) -> Callable[..., Tensor]:
    """Return a stand-in for `torch.rand`, `torch.randn` and those that end in `_like`."""

    def answer(*args: Any, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            return torch.full_like(args[0], value, **kwargs)
        kwargs.pop("generator", None)
        return torch.full(_shape(args, kwargs), value, **kwargs)

    return answer


def _softmax(logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """Stand in for `F.gumbel_softmax`: noise that is the same for every class cancels in the softmax."""
    soft = (logits / tau).softmax(dim)
    if not hard:
        return soft
    one_hot = torch.zeros_like(soft).scatter_(dim, soft.argmax(dim, keepdim=True), 1.0)
    return one_hot - soft.detach() + soft


def _attention(*args: object, **kwargs: object) -> Tensor:
    """Stand in for `F.scaled_dot_product_attention`, without dropout."""
    named = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False))
    attention: Callable[..., Tensor] = F.scaled_dot_product_attention
    return attention(**{**named, **kwargs, "dropout_p": 0.0})


def _multi_head_attention(*args: object, **kwargs: object) -> Result:
    """Stand in for `F.multi_head_attention_forward`, without dropout."""
    given = signature(F.multi_head_attention_forward).bind(*args, **kwargs)
    given.arguments["dropout_p"] = 0.0
    return F.multi_head_attention_forward(*given.args, **given.kwargs)


def _shape(args: Args, kwargs: dict[str, Any]) -> tuple[int, ...]:
    """Return the shape given as numbers, as a sequence, or by `size=`, which is removed."""
    size = kwargs.pop("size", args)
    return tuple(size[0]) if size and isinstance(size[0], list | tuple | torch.Size) else tuple(size)
