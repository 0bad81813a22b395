"""What `training_step` may return: losses per example, or a scalar whose meaning is declared."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from dplit.errors import ConfigurationError, PrivacyError

LossReduction = Literal["mean", "sum"]
"""What a scalar loss is of the losses of its examples."""


def losses_per_example(loss: object, size: int, reduction: LossReduction | None) -> Tensor:
    """Return `(n,)` losses, or the sum of the n losses that a declared reduction stands for.

    Raises:
        PrivacyError: it is no tensor.
        ConfigurationError: it has another shape, or is a scalar without a declared reduction.
    """
    if not isinstance(loss, Tensor):
        raise PrivacyError(
            f"training_step returned {type(loss).__name__}; return losses per example, shape (n,), as a tensor or under 'loss'"
        )
    if loss.shape == (size,):
        return loss
    if loss.dim() == 0 and reduction is not None:
        return loss * size if reduction == "mean" else loss
    if loss.dim() == 0:
        raise ConfigurationError(
            "training_step returned a scalar; return losses per example, shape (n,), or say what the scalar is with "
            "DPStrategy(loss_reduction='mean')"
        )
    raise ConfigurationError(
        f"training_step returned a loss of shape {tuple(loss.shape)} for {size} examples; it must be ({size},)"
    )
