"""Randomness held still, so that one example can be compared alone and in company."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from inspect import signature
from statistics import NormalDist
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_DROPOUTS = frozenset(
    {
        *(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout),
        *(torch.dropout, torch.feature_dropout, torch.alpha_dropout, torch.feature_alpha_dropout),
    }
)


class FixedRandomness(TorchFunctionMode):
    """While active, dropout keeps everything and random draws give one quantile of their law, for every example.

    Args:
        level: the quantile, in (0, 1).
        only: the operations to hold still; all that are known if None.
    """

    def __init__(self, level: float = 0.5, only: frozenset[Any] | None = None) -> None:
        super().__init__()
        self.level = level
        z = NormalDist().inv_cdf(level)
        fill = self._fill
        self._answers: dict[Any, Callable[..., Any]] = {
            torch.rand: fill(lambda *a, **k: level),
            torch.rand_like: fill(lambda *a, **k: level),
            torch.randn: fill(lambda *a, **k: z),
            torch.randn_like: fill(lambda *a, **k: z),
            torch.normal: lambda mean, std=1.0, *a, **k: mean + std * z,
            torch.bernoulli: lambda p, *a, **k: (p > 1 - level).to(p.dtype),
            torch.poisson: lambda rate, *a, **k: rate.round(),
            torch.multinomial: lambda p, num_samples, *a, **k: p.topk(num_samples, dim=-1).indices,
            torch.randint: self._integers,
            F.gumbel_softmax: _softmax,
            F.multi_head_attention_forward: _without_dropout,
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
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Answer random operations without randomness; leave the rest alone."""
        kwargs = dict(kwargs or {})
        if func in self._answers:
            return self._answers[func](*args, **kwargs)
        return func(*args, **kwargs)

    def _fill(self, value: Callable[..., float]) -> Callable[..., Tensor]:
        def answer(*args: Any, **kwargs: Any) -> Tensor:
            if args and isinstance(args[0], Tensor):
                return torch.full_like(args[0], value(), **kwargs)
            kwargs.pop("generator", None)
            return torch.full(_shape(args, kwargs), value(), **kwargs)

        return answer

    def _integers(self, *args: Any, **kwargs: Any) -> Tensor:
        kwargs.pop("generator", None)
        size = kwargs.pop("size", None)
        numbers = [a for a in args if isinstance(a, int)] + [kwargs.pop(k) for k in ("low", "high") if k in kwargs]
        size = size if size is not None else next(a for a in args if not isinstance(a, int))
        low, high = numbers if len(numbers) > 1 else (0, numbers[0])
        dtype = kwargs.pop("dtype", torch.int64)
        return torch.full(tuple(size), low + int(self.level * (high - low)), dtype=dtype, **kwargs)


def _softmax(logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """Gumbel noise that is the same for every class falls out of the softmax."""
    soft = (logits / tau).softmax(dim)
    if not hard:
        return soft
    one_hot = torch.zeros_like(soft).scatter_(dim, soft.argmax(dim, keepdim=True), 1.0)
    return one_hot - soft.detach() + soft


def _attention(*args: Any, **kwargs: Any) -> Tensor:
    named = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False))
    return F.scaled_dot_product_attention(**{**named, **kwargs, "dropout_p": 0.0})


def _without_dropout(*args: Any, **kwargs: Any) -> Any:
    given = signature(F.multi_head_attention_forward).bind(*args, **kwargs)
    given.arguments["dropout_p"] = 0.0
    return F.multi_head_attention_forward(*given.args, **given.kwargs)


def _shape(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
    size = kwargs.pop("size", args)
    return tuple(size[0]) if size and isinstance(size[0], list | tuple | torch.Size) else tuple(size)
