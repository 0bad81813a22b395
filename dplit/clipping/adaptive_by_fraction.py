"""What policies share whose threshold follows a noisy count, divided by the public batch size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dplit.clipping.policy import ClippingPolicy, clamp_answer
from dplit.validation import positive_finite

SPAN = 1e3
"""Thresholds stay within this factor of where they start, so that no answer, however noisy, makes them useless."""


class AdaptiveByFraction(ClippingPolicy):
    """Ask one noisy count of every draw; a subclass clips, asks, and moves its threshold by the fraction.

    Args:
        learning_rate: η > 0.
        noise_multiplier: σ_b > 0; the standard deviation of the noise is σ_b times the sensitivity of the query.

    Raises:
        ConfigurationError: numbers out of range.
    """

    def __init__(self, learning_rate: float, noise_multiplier: float) -> None:
        self.learning_rate = positive_finite("learning_rate", learning_rate)
        self.noise_multiplier = positive_finite("noise_multiplier", noise_multiplier)
        self._expected_batch_size = 1.0

    @property
    def queries(self) -> tuple[float, ...]:
        return (self.noise_multiplier,)

    def prepare(self, parameters: Sequence[str], expected_batch_size: float) -> None:
        self._expected_batch_size = expected_batch_size

    def noisy_fraction(self, answer: Tensor, *, otherwise: float, offset: float = 0.0) -> Tensor:
        """Return answer/B + offset within [0, 1], with the public B, and `otherwise` where it is NaN.

        Args:
            answer: the noisy count, or Σ(bᵢ − offset) where every bᵢ was centred by the offset to halve the sensitivity.
            otherwise: a fraction that leaves the threshold where it is.
            offset: see `answer`.
        """
        return clamp_answer(answer / self._expected_batch_size + offset, 0.0, 1.0, otherwise)
