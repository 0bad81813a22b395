"""Which groups and identity terms are declared, and where a batch keeps its group ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from lightning.pytorch import Trainer

from dplit.errors import ConfigurationError
from dplit.groups import GroupKey, declared
from dplit.protocols import private_strategy


@runtime_checkable
class NamesGroups(Protocol):
    """A data module with a declared, public list of groups."""

    groups: Sequence[str] | None


@runtime_checkable
class NamesTerms(Protocol):
    """A data module with a declared, public list of identity terms."""

    identity_terms: Sequence[str] | None


def declared_groups(trainer: Trainer, groups: Sequence[str] | None) -> tuple[str, ...]:
    """Return `groups` if they are given, else those of the private strategy, else those of the data module.

    Raises:
        ConfigurationError: no groups are declared anywhere.
    """
    strategy, data = private_strategy(trainer), datamodule(trainer)
    places = (groups, strategy.groups if strategy else None, data.groups if isinstance(data, NamesGroups) else None)
    names = next((place for place in places if place), None)
    if names is None:
        raise ConfigurationError(
            "FairnessMonitor has no groups to tell apart, neither the strategy nor the data module declares any; "
            'set groups=["Female", "Male"] and group="sex"'
        )
    return declared(names)


def declared_group_key(trainer: Trainer, group: GroupKey | None) -> GroupKey:
    """Return `group` if it is given, else that of the private strategy, else the key "group"."""
    strategy = private_strategy(trainer)
    keys = (group, strategy.group if strategy else None)
    return next((key for key in keys if key is not None), "group")


def declared_terms(trainer: Trainer, terms: Sequence[str] | None) -> tuple[str, ...]:
    """Return `terms` if they are given, else those of the data module, which may be none."""
    data = datamodule(trainer)
    if terms is None:
        terms = data.identity_terms if isinstance(data, NamesTerms) else None
    return tuple(terms or ())


def datamodule(trainer: Trainer) -> object:
    """Return the data module of a trainer, or None."""
    return getattr(trainer, "datamodule", None)
