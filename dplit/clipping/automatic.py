"""Automatic clipping."""

from torch import Tensor

from dplit.clipping.policy import ClippingPolicy, finite, positive


class Automatic(ClippingPolicy):
    """Normalise every example: no threshold to tune, C merges with the learning rate.

    Rule: wᵢ = C/(‖gᵢ‖ + γ).
    Bound: C.
    Query: none.
    Charge: σ.
    Per-group ε: the headline's.
    Source: AUTO-S, Bu et al. 2022, arXiv:2206.07136.

    Args:
        bound: C > 0.
        gamma: γ > 0, which keeps small gradients from being blown up to the full C.
    """

    def __init__(self, bound: float = 1.0, gamma: float = 0.01) -> None:
        self.threshold = positive("bound", bound)
        self.gamma = positive("gamma", gamma)

    @property
    def bound(self) -> float:
        return self.threshold

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        return finite(self.threshold / (norms + self.gamma), norms)
