"""Global clipping whose cutoff follows the norms."""

import torch
from torch import Tensor

from dplit.clipping.adaptive_by_fraction import SPAN, AdaptiveByFraction
from dplit.clipping.global_cutoff import at_least_bound
from dplit.clipping.policy import Query, State, clip, saved_threshold
from dplit.validation import positive_finite


class GlobalAdaptive(AdaptiveByFraction):
    """Scale every gradient by one factor as far as its norm allows, and let a noisy count move the cutoff.

    Z stays within [C, 1000·Z₀].

    Rule: wᵢ = C/Z where ‖gᵢ‖ ≤ Z, else C/‖gᵢ‖; then Z ← Z·exp(b̃ − η), b̃ the noisy fraction of ‖gᵢ‖ > τZ, Z ≥ C.
    Bound: C.
    Query: #{‖gᵢ‖ > τZ}, sensitivity 1.
    Charge: 1/σ² + 1/σ_b², jointly.
    Per-group ε: the overall ε.
    Source: DPSGD-Global-Adapt, Esipova et al. 2023, arXiv:2206.12292.

    Args:
        bound: C > 0.
        cutoff: Z₀ ≥ C, before the first answer.
        fraction: τ > 0; a gradient counts where its norm is over τZ.
        learning_rate: η > 0; in a step without any such gradient Z falls by the factor exp(−η).
        noise_multiplier: σ_b > 0, the standard deviation of the count.
    """

    def __init__(
        self,
        bound: float = 1.0,
        cutoff: float = 50.0,
        fraction: float = 0.7,
        learning_rate: float = 0.1,
        noise_multiplier: float = 10.0,
    ) -> None:
        self.threshold, self.cutoff = positive_finite("bound", bound), positive_finite("cutoff", cutoff)
        at_least_bound(self.cutoff, self.threshold)
        self.fraction = positive_finite("fraction", fraction)
        super().__init__(learning_rate, noise_multiplier)
        self._cutoff = self.cutoff

    @property
    def bound(self) -> float:
        return self.threshold

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        scaled = torch.full_like(norms, self.threshold / self._cutoff)
        return torch.minimum(scaled, clip(norms, self.threshold))

    def ask(self, norms: Tensor, group: Tensor) -> Query:
        return Query((~(norms <= self.fraction * self._cutoff)).sum(), sensitivity=1.0)

    def tell(self, answer: Tensor) -> None:
        over = self.noisy_fraction(answer, otherwise=self.learning_rate)
        self._move(self._cutoff * float(torch.exp(over - self.learning_rate)))

    def _move(self, cutoff: float) -> None:
        self._cutoff = min(max(cutoff, self.threshold), SPAN * self.cutoff)

    def state_dict(self) -> State:
        return {"cutoff": self._cutoff}

    def load_state_dict(self, state: State) -> None:
        self._move(saved_threshold("cutoff", state))
