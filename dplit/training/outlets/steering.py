"""Who decides by logged figures: refused where the figures are exact ones of private records, else said in the statement."""

from __future__ import annotations

import re
from collections.abc import Collection

from lightning.pytorch import Trainer

from dplit.errors import PrivacyError
from dplit.protocols import ReleasesSplits, Watcher, callbacks_of, watchers_of

COUNTERS = ("epoch", "step")
"""What `ModelCheckpoint` may watch without any figure: they come from Lightning's counters."""

SUFFIX = re.compile(r"(_step|_epoch)?(/dataloader_idx_\d+)?")
"""What Lightning appends to the name that a figure was logged by."""


def check_steering(trainer: Trainer, accepted: Collection[str], public_splits: Collection[str]) -> None:
    """Refuse callbacks and schedulers that decide by figures of which nobody says that they are public or charged.

    Args:
        trainer: with its schedulers set up.
        accepted: names that a person let steer the training, exact as they are.
        public_splits: "validation", "test": where there are any, figures of other names may be theirs, which is seen when
            they are logged (`check_figure`).

    Raises:
        PrivacyError: naming who watches what.
    """
    for watcher in watchers_of(trainer):
        known = watcher.name in (*accepted, *COUNTERS) or release_of(trainer, watcher.name) is not None
        if not known and not public_splits:
            raise PrivacyError(_refusal(watcher, "an exact figure of private records"))


def check_figure(
    trainer: Trainer, name: str, hook: str, accepted: Collection[str], public_splits: Collection[str]
) -> None:
    """Refuse a figure, before it is logged, by which a callback or scheduler would decide and which is not public.

    Args:
        trainer: of a fit.
        name: what the figure is logged by.
        hook: where.
        accepted: as in `check_steering`.
        public_splits: as in `check_steering`.

    Raises:
        PrivacyError: naming who watches it.
    """
    if split_of(hook) in public_splits:
        return
    for watcher in watchers_of(trainer):
        if watcher.name not in accepted and is_logged_by(name, watcher.name):
            raise PrivacyError(_refusal(watcher, f"logged by {hook}, an exact figure of private records"))


def steering(trainer: Trainer, accepted: Collection[str], public_splits: Collection[str]) -> list[str]:
    """Return a line of the statement for each figure that training depends on, beside the noisy gradients."""
    watchers = watchers_of(trainer)
    unseen = [name for name in accepted if name not in {watcher.name for watcher in watchers}]
    return [
        *(f"the weights depend on {w.name}: {_kind(trainer, w.name, accepted, public_splits)} ({w})" for w in watchers),
        *(f"the weights depend on {name}: exact, uncharged (steered_by says so)" for name in unseen),
    ]


def release_of(trainer: Trainer, name: str) -> str | None:
    """Return how the callback that a figure belongs to releases it: "public", "flagged" or "noisy"; None for no callback's."""
    owners = [c for c in callbacks_of(trainer) if isinstance(c, ReleasesSplits) and c.speaks_for(name)]
    return owners[0].release if owners else None


def split_of(hook: str) -> str:
    """Return whose figures a hook of Lightning logs: "train", "validation" or "test"."""
    return next((split for split in ("validation", "test") if split in hook), "train")


def is_logged_by(name: str, figure: str) -> bool:
    """Whether `trainer.callback_metrics` has `figure` where `name` was logged."""
    return figure.startswith(name) and SUFFIX.fullmatch(figure[len(name) :]) is not None


def _kind(trainer: Trainer, name: str, accepted: Collection[str], public_splits: Collection[str]) -> str:
    if name in COUNTERS and name not in accepted:
        return "a count of Lightning's"
    release = release_of(trainer, name)
    if release == "noisy":
        return "noisy, charged"
    public = release == "public" or (release is None and name not in accepted and public_splits)
    return "of records declared public" if public else "exact, uncharged"


def _refusal(watcher: Watcher, what: str) -> str:
    return (
        f"{watcher}: {what} would steer training uncharged; watch a figure of FairnessMonitor(release='noisy'), declare "
        f"the split public with DPStrategy(public_splits=['validation']), or accept it with "
        f"DPStrategy(steered_by=[{watcher.name!r}]), which the statement then says"
    )
