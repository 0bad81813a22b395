"""Which data sets the splits of a ledger were computed from, so that records in two of them are not taken for different ones."""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakKeyDictionary

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from dplit.errors import PrivacyError
from dplit.privacy import Ledger
from dplit.protocols import DeclaresDisjointSplits, datamodule_of
from dplit.sampling.overlap import share_records

_SEEN: WeakKeyDictionary[Ledger, dict[str, list[object]]] = WeakKeyDictionary()
"""By ledger and split, the data sets that it was seen with in this process, whatever fit it was."""


def see(ledger: Ledger, split: str, datasets: Iterable[object], unit: str | None) -> None:
    """Tell the ledger what is seen of a split that is about to be charged and of those before it.

    Two splits with a common record are added up from now on. Splits other than "train" that are different indices of one
    data set are known to be disjoint.

    Args:
        ledger: that is charged.
        split: its name.
        datasets: of the split.
        unit: the key that says whose a record is, where persons are charged: they may have several records, so that
            different records are not known to be different persons' then.

    Raises:
        PrivacyError: two splits that were declared disjoint have a common record.
    """
    seen = _SEEN.setdefault(ledger, {})
    for dataset in datasets:
        mine = seen.setdefault(split, [])
        if any(dataset is other for other in mine):
            continue
        mine.append(dataset)
        for other in seen.keys() - {split}:
            answers = [share_records(a, b) for a in mine for b in seen[other]]
            _relate(ledger, split, other, [None if unit and answer is False else answer for answer in answers])


def _relate(ledger: Ledger, split: str, other: str, answers: list[bool | None]) -> None:
    declared = ledger.splits.is_declared(split, other)
    if True in answers and declared:
        raise PrivacyError(
            f"{split} and {other} have records in common, though they were declared disjoint; take them from different "
            "records, or leave the declaration out, and what they release is added up"
        )
    if True in answers:
        ledger.declare_overlapping(split, other)
    elif None not in answers and "train" not in (split, other):
        ledger.declare_disjoint(split, other)


def declare(ledger: Ledger, trainer: Trainer, everything: bool, unit: str | None) -> None:
    """Tell the ledger which splits are declared disjoint: all of them, or, of records, those that the data module makes so."""
    data: object = datamodule_of(trainer)
    names = data.disjoint_splits if isinstance(data, DeclaresDisjointSplits) else ()
    if everything:
        ledger.declare_disjoint()
    elif unit is None and len(names) > 1:
        ledger.declare_disjoint(*names)


def evaluated(trainer: Trainer, split: str) -> list[object]:
    """Return the data sets of the evaluation that runs which `split` names: "validation", or "validation/0" and so on."""
    if not (trainer.validating or trainer.testing or trainer.sanity_checking):
        return []
    combined = trainer._evaluation_loop._combined_loader
    loaders = [] if combined is None else combined.flattened
    name = "test" if trainer.testing else "validation"
    return [
        loader.dataset
        for number, loader in enumerate(loaders)
        if isinstance(loader, DataLoader) and split in (name, f"{name}/{number}")
    ]
