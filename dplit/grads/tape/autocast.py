"""The type conversions that autocast would apply to an activation, for rules that replace an operation."""

from __future__ import annotations

import torch
from torch import Tensor


def to_product_dtype(x: Tensor) -> Tensor:
    """Return x in the type in which autocast computes matrix products and convolutions; float64 stays float64."""
    kind = x.device.type
    applies = torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    return x.to(torch.get_autocast_dtype(kind)) if applies else x


def to_statistics_dtype(x: Tensor) -> Tensor:
    """Return x in the type in which autocast computes means and variances: float32, or float64 if x is float64."""
    applies = torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64
    return x.float() if applies else x
