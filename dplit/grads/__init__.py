"""Per-example gradients of any model, exact or refused, without building them."""

from dplit.grads.factors.base import FactoredGrad
from dplit.grads.per_example import PerExample
from dplit.grads.tape.tape import Tape

__all__ = ["FactoredGrad", "PerExample", "Tape"]
