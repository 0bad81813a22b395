"""What autocast would do to an activation, done where a rule takes an operation's place."""

from __future__ import annotations

import torch
from torch import Tensor


def narrowed(x: Tensor) -> Tensor:
    """Return x in the type that autocast computes products in; float64 stays."""
    kind = x.device.type
    applies = torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    return x.to(torch.get_autocast_dtype(kind)) if applies else x


def widened(x: Tensor) -> Tensor:
    """Return x in the type that autocast computes statistics in: float32, or float64 if it is that."""
    applies = torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64
    return x.float() if applies else x
