"""Randomness held still, so that one example can be compared alone and in company."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_DROPOUTS = frozenset(
    {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout}
)
_UNIFORM = frozenset({torch.rand, torch.rand_like})
_NORMAL = frozenset({torch.randn, torch.randn_like})
_FILLS: Mapping[Any, float] = {Tensor.uniform_: 0.5, Tensor.normal_: 0.0, Tensor.bernoulli_: 1.0}


class Still(TorchFunctionMode):
    """While active, dropout keeps everything and random draws give their middle value."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Answer random operations without randomness; leave the rest alone."""
        kwargs = dict(kwargs or {})
        if func in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        if func is F.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False))
            return func(**{**named, **kwargs, "dropout_p": 0.0})
        if func in _FILLS:
            return args[0].detach().fill_(_FILLS[func])
        result = func(*args, **kwargs)
        if func in _UNIFORM:
            return torch.full_like(result, 0.5)
        return torch.zeros_like(result) if func in _NORMAL else result
