"""Automatic clipping."""

from torch import Tensor

from dplit.clipping.policy import ClippingPolicy, zero_unless_finite
from dplit.validation import positive_finite


class Automatic(ClippingPolicy):
    """Normalise every gradient, so that there is no threshold to tune: C only scales the learning rate.

    Rule: wᵢ = C/(‖gᵢ‖ + γ).
    Bound: C.
    Query: none.
    Charge: σ.
    Per-group ε: the overall ε.
    Source: AUTO-S, Bu et al. 2022, arXiv:2206.07136.

    Args:
        bound: C > 0.
        gamma: γ > 0, which keeps small gradients from being scaled up to the full C.
    """

    def __init__(self, bound: float = 1.0, gamma: float = 0.01) -> None:
        self.threshold = positive_finite("bound", bound)
        self.gamma = positive_finite("gamma", gamma)

    @property
    def bound(self) -> float:
        return self.threshold

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        return zero_unless_finite(self.threshold / (norms + self.gamma), norms)
