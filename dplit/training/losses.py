"""From what `training_step` returns to a loss for each example."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from torch import Tensor

from dplit.errors import ConfigurationError, PrivacyError
from dplit.grads.ownership.scalar_losses import Divisors, NotPlain, ScalarLosses

LossReduction = Literal["mean", "sum"]
"""What a scalar loss is of the losses of its examples."""


class StepLosses:
    """Takes the losses of the examples out of what `training_step` returns.

    A scalar is taken apart if it is seen to be the plain mean or sum of losses that belong to the examples. After a step that
    returned losses per example, scalars are no longer followed.

    Args:
        reduction: what a scalar is declared to be, which is then checked; None for nothing.
    """

    def __init__(self, reduction: LossReduction | None = None) -> None:
        self.reduction = reduction
        self._follows = True
        self._divisors: Divisors = {}

    def following(self, examples: int) -> AbstractContextManager[ScalarLosses | None]:
        """Return a context for `training_step` in which scalars are followed."""
        return ScalarLosses(examples, self._divisors) if self._follows else nullcontext()

    def of(self, output: object, examples: int, scalars: ScalarLosses | None) -> Tensor:
        """Return `(n,)` losses.

        Args:
            output: what `training_step` returned: a tensor, or a mapping with one under "loss".
            examples: n.
            scalars: what followed the step.

        Raises:
            PrivacyError: it is no tensor.
            ConfigurationError: it has another shape, or is a scalar that is not seen to be the mean or sum of the losses.
        """
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(loss, Tensor):
            raise PrivacyError(
                f"training_step returned {type(loss).__name__}; return losses per example, shape (n,), as a tensor or "
                "under 'loss'"
            )
        if loss.shape == (examples,):
            self._follows = False
            return loss
        if loss.dim():
            raise ConfigurationError(
                f"training_step returned a loss of shape {tuple(loss.shape)} for {examples} examples; it must be ({examples},)"
            )
        if scalars is None:
            raise ConfigurationError(
                "training_step returned a scalar, and losses per example before; return losses per example in each step"
            )
        return self._taken_apart(loss, examples, scalars)

    def _taken_apart(self, loss: Tensor, examples: int, scalars: ScalarLosses) -> Tensor:
        seen = scalars.of(loss)
        if isinstance(seen, NotPlain):
            if examples == 1 and seen.alone:
                return loss.reshape(1)
            raise ConfigurationError(
                "training_step returned a scalar that is not seen to be the plain mean or sum of the examples' losses: "
                f"{seen.why}; or return losses per example, shape (n,)"
            )
        if self.reduction not in (None, seen.kind):
            raise ConfigurationError(
                f"loss_reduction={self.reduction!r}, but the scalar that training_step returned is the {seen.kind} over the "
                "examples; leave loss_reduction out"
            )
        return seen.losses
