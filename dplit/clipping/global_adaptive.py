"""Global clipping whose cutoff follows the norms."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dplit.clipping.global_cutoff import at_least_bound
from dplit.clipping.policy import ClippingPolicy, Query, clip, kept_number, positive, within

SPAN = 1e3
"""Z stays within [C, SPAN·Z₀]."""


class GlobalAdaptive(ClippingPolicy):
    """Scale every example by one factor as far as its norm allows, and let a noisy count move the cutoff.

    Rule: wᵢ = C/Z where ‖gᵢ‖ ≤ Z, else C/‖gᵢ‖; then Z ← Z·exp(b̃ − η), b̃ the noisy fraction of ‖gᵢ‖ > τZ, Z ≥ C.
    Bound: C.
    Query: #{‖gᵢ‖ > τZ}, sensitivity 1.
    Charge: 1/σ² + 1/σ_b², jointly.
    Per-group ε: the headline's.
    Source: DPSGD-Global-Adapt, Esipova et al. 2023, arXiv:2206.12292.

    Args:
        bound: C > 0.
        cutoff: Z₀ ≥ C, before the first answer.
        fraction: τ > 0, the part of Z over which an example counts.
        learning_rate: η > 0, how far Z falls in a step without any such example.
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
        self.threshold, self.cutoff = positive("bound", bound), positive("cutoff", cutoff)
        at_least_bound(self.cutoff, self.threshold)
        self.fraction = positive("fraction", fraction)
        self.learning_rate = positive("learning_rate", learning_rate)
        self.noise_multiplier = positive("noise_multiplier", noise_multiplier)
        self._cutoff, self._batch = self.cutoff, 1.0

    @property
    def bound(self) -> float:
        return self.threshold

    @property
    def queries(self) -> tuple[float, ...]:
        return (self.noise_multiplier,)

    def prepare(self, parameters: Sequence[str], expected_batch_size: float) -> None:
        self._batch = expected_batch_size

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        scaled = torch.full_like(norms, self.threshold / self._cutoff)
        return torch.minimum(scaled, clip(norms, self.threshold))

    def ask(self, norms: Tensor, group: Tensor) -> Query:
        return Query((~(norms <= self.fraction * self._cutoff)).sum(), sensitivity=1.0)

    def tell(self, answer: Tensor) -> None:
        over = within(answer / self._batch, 0.0, 1.0, otherwise=self.learning_rate)
        self._move(self._cutoff * float(torch.exp(over - self.learning_rate)))

    def _move(self, cutoff: float) -> None:
        self._cutoff = min(max(cutoff, self.threshold), SPAN * self.cutoff)

    def state_dict(self) -> dict[str, Any]:
        return {"cutoff": self._cutoff}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._move(kept_number("cutoff", state))
