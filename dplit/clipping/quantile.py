"""A threshold that follows a quantile of the norms."""

import torch
from torch import Tensor

from dplit.clipping.adaptive_by_fraction import SPAN, AdaptiveByFraction
from dplit.clipping.policy import Query, State, clip, saved_threshold
from dplit.validation import fraction, positive_finite


class Quantile(AdaptiveByFraction):
    """Clip every gradient at a quantile of the norms, which a noisy count follows.

    C stays within [start/1000, 1000·start].

    Rule: wᵢ = min(1, C/‖gᵢ‖); then C ← C·exp(−η(b̃ − γ)), b̃ the noisy fraction of ‖gᵢ‖ ≤ C.
    Bound: the present C.
    Query: Σ(bᵢ − ½), bᵢ = [‖gᵢ‖ ≤ C], sensitivity ½; b̃ = answer/B + ½ with the public B.
    Charge: 1/σ² + 1/σ_b², jointly.
    Per-group ε: the overall ε.
    Source: Andrew et al. 2021, arXiv:1905.03871.

    Args:
        quantile: γ in (0, 1), the fraction of gradients whose norm should be at most C.
        start: C before the first answer, > 0.
        learning_rate: η > 0.
        noise_multiplier: σ_b > 0; the count's standard deviation is σ_b/2.
    """

    def __init__(
        self, quantile: float = 0.5, start: float = 1.0, learning_rate: float = 0.2, noise_multiplier: float = 10.0
    ) -> None:
        self.quantile = fraction("quantile", quantile)
        self.start = positive_finite("start", start)
        super().__init__(learning_rate, noise_multiplier)
        self._bound = self.start

    @property
    def bound(self) -> float:
        return self._bound

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        return clip(norms, self._bound)

    def ask(self, norms: Tensor, group: Tensor) -> Query:
        return Query(((norms <= self._bound).double() - 0.5).sum(), sensitivity=0.5)

    def tell(self, answer: Tensor) -> None:
        under = self.noisy_fraction(answer, offset=0.5, otherwise=self.quantile)
        self._move(self._bound * float(torch.exp(-self.learning_rate * (under - self.quantile))))

    def _move(self, bound: float) -> None:
        self._bound = min(max(bound, self.start / SPAN), self.start * SPAN)

    def state_dict(self) -> State:
        return {"bound": self._bound}

    def load_state_dict(self, state: State) -> None:
        self._move(saved_threshold("bound", state))
