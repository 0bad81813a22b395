"""How error messages of this package show errors, tensors and operations: each in part of a line."""

from __future__ import annotations

from torch import Tensor
from torch.overrides import resolve_name

from dplit.grads.types import TorchFunction


def first_line(error: Exception) -> str:
    r"""Return the first line of an error's message without its full stop, or the error's type if it has no message.

    Example:
        >>> first_line(ValueError("too long.\nSee the manual."))
        'too long'
    """
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def shape_text(value: Tensor | None) -> str:
    """Return the shape of a tensor as text, such as `(3, 4)`."""
    return "None" if value is None else f"{tuple(value.shape)}"


def operation_name(operation: TorchFunction) -> str:
    """Return the full name of a torch function, such as `torch.nn.functional.linear`."""
    return str(resolve_name(operation) or getattr(operation, "__name__", operation))
