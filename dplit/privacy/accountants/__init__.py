"""From a composition of events to a certified ε: one file for each accountant, found by itself.

>>> names()
('prv', 'rdp')
>>> find("rdp").name
'rdp'
"""

from __future__ import annotations

import inspect

from dplit import validation
from dplit.discovery import subclasses
from dplit.errors import ConfigurationError
from dplit.privacy.accountants.base import Accountant, Bound, Composition
from dplit.privacy.accountants.prv import PRV

__all__ = ["Accountant", "AccountantLike", "Bound", "Composition", "available", "epsilon", "find", "names"]

AccountantLike = str | type[Accountant] | Accountant
"""An accountant as people give it: its name, its class, or an instance."""


def available() -> tuple[type[Accountant], ...]:
    """Return the accountants that the files of this package define, by name."""
    return tuple(sorted(subclasses(Accountant, __name__, __path__), key=lambda accountant: accountant.name))


def names() -> tuple[str, ...]:
    """Return the names by which `find` knows accountants."""
    return tuple(accountant.name for accountant in available())


def find(accountant: AccountantLike | None = None) -> Accountant:
    """Return the accountant of this name, of this class, or the one given; `PRV` for None.

    Raises:
        ConfigurationError: an unknown name, with the nearest known one, or something that is no accountant.
    """
    if accountant is None:
        return PRV()
    if isinstance(accountant, Accountant):
        return accountant
    if inspect.isclass(accountant) and issubclass(accountant, Accountant):
        return accountant()
    if not isinstance(accountant, str):
        raise ConfigurationError(f"accountant={accountant!r} is no accountant; give one of {', '.join(names())}")
    by_name = {known.name: known for known in available()}
    return by_name[validation.choice("accountant", accountant, by_name)]()


def epsilon(composition: Composition, delta: float, accountant: AccountantLike | None = None) -> Bound:
    """Return the ε of a composition at `delta`, for add or remove one record.

    Args:
        composition: a mapping or pairs (event, how many times).
        delta: in (0, 1).
        accountant: its name, class or instance; None for `PRV`.

    Returns:
        `Bound`; `upper` is the guarantee.

    Raises:
        ConfigurationError: `delta` outside (0, 1), something that is no event, or no accountant.
        PrivacyError: the composition has no finite bound in floating point.
    """
    return find(accountant).epsilon(composition, delta)
