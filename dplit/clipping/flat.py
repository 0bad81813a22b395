"""Flat clipping."""

from torch import Tensor

from dplit.clipping.policy import ClippingPolicy, clip, positive


class Flat(ClippingPolicy):
    """Clip every example to one norm.

    Rule: wᵢ = min(1, C/‖gᵢ‖).
    Bound: C.
    Query: none.
    Charge: σ.
    Per-group ε: the headline's.
    Source: Abadi et al. 2016, arXiv:1607.00133.

    Args:
        bound: C > 0, in the gradient's own units.
    """

    def __init__(self, bound: float = 1.0) -> None:
        self.threshold = positive("bound", bound)

    @property
    def bound(self) -> float:
        return self.threshold

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        return clip(norms, self.threshold)
