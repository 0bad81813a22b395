"""A threshold that follows a quantile of the norms."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dplit.clipping.policy import ClippingPolicy, Query, between_0_and_1, clip, kept_number, positive, within

SPAN = 1e3
"""C stays within [start/SPAN, start·SPAN], so that no answer, however noisy, makes it useless."""


class Quantile(ClippingPolicy):
    """Clip every example at a quantile of the norms, tracked by a noisy count.

    Rule: wᵢ = min(1, C/‖gᵢ‖); then C ← C·exp(−η(b̃ − γ)), b̃ the noisy fraction of ‖gᵢ‖ ≤ C.
    Bound: the present C.
    Query: Σ(bᵢ − ½), bᵢ = [‖gᵢ‖ ≤ C], sensitivity ½; b̃ = answer/B + ½ with the public B.
    Charge: 1/σ² + 1/σ_b², jointly.
    Per-group ε: the headline's.
    Source: Andrew et al. 2021, arXiv:1905.03871.

    Args:
        quantile: γ in (0, 1), the fraction of examples that should lie under C.
        start: C before the first answer, > 0.
        learning_rate: η > 0.
        noise_multiplier: σ_b > 0; the count's standard deviation is σ_b/2.
    """

    def __init__(
        self, quantile: float = 0.5, start: float = 1.0, learning_rate: float = 0.2, noise_multiplier: float = 10.0
    ) -> None:
        self.quantile = between_0_and_1("quantile", quantile)
        self.start = positive("start", start)
        self.learning_rate = positive("learning_rate", learning_rate)
        self.noise_multiplier = positive("noise_multiplier", noise_multiplier)
        self._bound, self._batch = self.start, 1.0

    @property
    def bound(self) -> float:
        return self._bound

    @property
    def queries(self) -> tuple[float, ...]:
        return (self.noise_multiplier,)

    def prepare(self, parameters: Sequence[str], expected_batch_size: float) -> None:
        self._batch = expected_batch_size

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        return clip(norms, self._bound)

    def ask(self, norms: Tensor, group: Tensor) -> Query:
        return Query(((norms <= self._bound).double() - 0.5).sum(), sensitivity=0.5)

    def tell(self, answer: Tensor) -> None:
        under = within(answer / self._batch + 0.5, 0.0, 1.0, otherwise=self.quantile)
        self._move(self._bound * float(torch.exp(-self.learning_rate * (under - self.quantile))))

    def _move(self, bound: float) -> None:
        self._bound = min(max(bound, self.start / SPAN), self.start * SPAN)

    def state_dict(self) -> dict[str, Any]:
        return {"bound": self._bound}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._move(kept_number("bound", state))
