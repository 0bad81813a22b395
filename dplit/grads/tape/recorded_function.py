"""The autograd functions of the rules."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor


class RecordedFunction(torch.autograd.Function):
    """An operation whose gradient hands activation and output gradient to the tape.

    Getting at what forward saved may compute a checkpointed layer anew, which the tape has to watch; the gradient's
    own arithmetic it must not.
    """

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Unpack what was saved, then compute the gradient unwatched."""
        saved = ctx.saved_tensors
        with torch._C.DisableTorchFunction():
            return ctx._forward_cls.gradient(ctx, saved, *grads)

    @staticmethod
    @abstractmethod
    def gradient(ctx: Any, saved: tuple[Any, ...], back: Tensor) -> Any:
        """Record the uses of sources and return the gradients of forward's other arguments."""
