"""What dplit refuses is one family of errors, so that a command can show the message alone."""

from __future__ import annotations

import inspect

import pytest

from dplit import errors
from dplit.errors import BudgetExhausted, ConfigurationError, DplitError, JournalError, PrivacyError

ALL = [cls for _, cls in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("error", ALL)
def test_every_error_is_of_the_family_and_says_when_it_is_raised(error: type[Exception]) -> None:
    assert issubclass(error, DplitError)
    assert error.__doc__


def test_errors_are_what_people_already_catch() -> None:
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(PrivacyError, RuntimeError)
    assert issubclass(BudgetExhausted, PrivacyError)
    assert issubclass(JournalError, PrivacyError)


def test_a_refused_operation_knows_its_parameters() -> None:
    assert errors.UnsupportedOperation("why", ["a", "b"]).parameters == ("a", "b")
    assert errors.UnsupportedOperation("why").parameters == ()
    assert issubclass(errors.ForbiddenOperation, errors.UnsupportedOperation)
