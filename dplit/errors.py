"""What dplit says when it refuses. Every message is one line: what was given, what would break, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class DplitError(Exception):
    """Base of all refusals that a user can mend; `python -m dplit.fit` prints the message alone."""


class ConfigurationError(DplitError, ValueError):
    """An argument, recipe, batch or data set that cannot mean what it says."""


class PrivacyError(DplitError, RuntimeError):
    """Something that would make the stated (ε, δ) untrue."""


class BudgetExhausted(PrivacyError):
    """One more release would pass the declared target."""


class JournalError(PrivacyError):
    """A ledger, journal or checkpoint that is missing, damaged or belongs to another run."""


class UnsupportedOperation(PrivacyError):
    """A trainable parameter reached an operation without a rule, or got gradient by an unseen road.

    Args:
        message: what is shown.
        parameters: names of the parameters concerned; none where it is not known which.
    """

    def __init__(self, message: str, parameters: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.parameters = tuple(parameters)


class ForbiddenOperation(UnsupportedOperation):
    """An operation that no backend may run: it mixes examples, or writes what it reads into the model."""


class CoupledExamples(PrivacyError):
    """The gradient of one example depends on another example of the batch."""
