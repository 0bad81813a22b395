"""Per-example gradients of any model, exact or refused, without building them."""

from dplit.grads.per_example import PerExample
from dplit.grads.tape import Tape
from dplit.grads.use import Use

__all__ = ["PerExample", "Tape", "Use"]
