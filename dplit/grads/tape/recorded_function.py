"""The autograd functions of the rules: their backward hands factors of gradients to the tape."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from dplit.grads.types import InputGradients

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape


class Context(Protocol):
    """What torch passes from the forward of an autograd function to its backward; each function sets more attributes."""

    tape: Tape
    """The tape that is recording."""
    saved_tensors: tuple[Tensor, ...]
    """What `save_for_backward` got; entries may be None where the function saved None."""
    needs_input_grad: tuple[bool, ...]
    """For each argument of forward, whether its gradient is wanted."""
    _forward_cls: type[RecordedFunction]

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for backward."""

    def __getattr__(self, name: str) -> Any:
        """Return what the function's forward set."""

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute for backward."""


class RecordedFunction(torch.autograd.Function):
    """An operation whose backward records the gradients of tracked tensors instead of computing them.

    A checkpointed layer may be recomputed when backward asks for what forward saved; the tape has to see that. It must not
    see the arithmetic of the gradient itself, which is why the two are separated here.
    """

    if TYPE_CHECKING:

        @classmethod
        def apply(cls, *args: Any, **kwargs: Any) -> Tensor:
            """Run forward and join it to the autograd graph."""

    @staticmethod
    def backward(ctx: Context, back: Tensor) -> InputGradients:
        """Unpack what was saved, then compute the gradient unseen by the tape.

        Raises:
            UnsupportedOperation: the gradient is to be differentiated in turn, as a gradient penalty does.
        """
        if torch.is_grad_enabled():
            raise ctx.tape.differentiated_twice(vars(ctx).values())
        saved = ctx.saved_tensors
        with torch._C.DisableTorchFunction():
            return ctx._forward_cls.gradient(ctx, saved, back)

    @staticmethod
    @abstractmethod
    def gradient(ctx: Context, saved: tuple[Tensor, ...], back: Tensor) -> InputGradients:
        """Record the gradients of tracked tensors, and return the gradients of forward's other arguments.

        Args:
            ctx: what forward set.
            saved: what forward saved.
            back: the gradient of the loss with respect to the output.
        """
