"""Global clipping."""

import torch
from torch import Tensor

from dplit.clipping.policy import ClippingPolicy, zero_unless_finite
from dplit.errors import ConfigurationError
from dplit.validation import positive_finite


class Global(ClippingPolicy):
    """Scale every gradient by one factor, so that the sum keeps its direction; leave out gradients larger than Z.

    Rule: wᵢ = C/Z where ‖gᵢ‖ ≤ Z, else 0.
    Bound: C.
    Query: none.
    Charge: σ.
    Per-group ε: the overall ε.
    Source: Bu et al. 2021, arXiv:2106.07830.

    Args:
        bound: C > 0.
        cutoff: Z ≥ C, the largest norm that takes part.
    """

    def __init__(self, bound: float = 1.0, cutoff: float = 10.0) -> None:
        self.threshold, self.cutoff = positive_finite("bound", bound), positive_finite("cutoff", cutoff)
        at_least_bound(self.cutoff, self.threshold)

    @property
    def bound(self) -> float:
        return self.threshold

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        scaled = torch.full_like(norms, self.threshold / self.cutoff)
        return zero_unless_finite(torch.where(norms <= self.cutoff, scaled, 0.0), norms)


def at_least_bound(cutoff: float, bound: float) -> None:
    """Refuse a Z below C, which would give weights above 1.

    Raises:
        ConfigurationError: Z < C.
    """
    if cutoff < bound:
        raise ConfigurationError(f"cutoff={cutoff:g} is below bound={bound:g}; give a cutoff of at least the bound")
