"""Flat clipping."""

from torch import Tensor

from dplit.clipping.policy import ClippingPolicy, clip
from dplit.validation import positive_finite


class Flat(ClippingPolicy):
    """Clip every gradient to one norm.

    Rule: wᵢ = min(1, C/‖gᵢ‖).
    Bound: C.
    Query: none.
    Charge: σ.
    Per-group ε: the overall ε.
    Source: Abadi et al. 2016, arXiv:1607.00133.

    Args:
        bound: C > 0, in the units of the gradient.
    """

    def __init__(self, bound: float = 1.0) -> None:
        self.threshold = positive_finite("bound", bound)

    @property
    def bound(self) -> float:
        return self.threshold

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        return clip(norms, self.threshold)
