"""A callback that shows, after every validation epoch, how each declared group fares and what it has paid in ε."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer

from dplit.errors import ConfigurationError, PrivacyError
from dplit.fairness.metrics.counts import Counts, count
from dplit.fairness.metrics.rates import PER_GROUP, Row, table
from dplit.fairness.metrics.terms import PER_TERM, count_terms, mentioned, term_rows
from dplit.fairness.monitor.csv_log import append, claim
from dplit.fairness.monitor.display import rendered, say
from dplit.fairness.monitor.draws_at_end import DrawsAtEnd
from dplit.fairness.monitor.outputs import Outcome, outcome
from dplit.fairness.monitor.plots import draw, save
from dplit.fairness.monitor.release import (
    across_ranks,
    check_no_more,
    check_noisy,
    check_once_each,
    noised,
    spent,
)
from dplit.fairness.monitor.snapshot import Snapshot
from dplit.groups import GroupKey, declared, group_ids

RELEASES = {
    "public": "declared public",
    "flagged": "exact, not charged",
    "noisy": "noisy counts, charged",
}


class FairnessMonitor(DrawsAtEnd):
    """Count predictions and losses by declared group; print, log and keep the figures of `dplit.fairness.metrics.rates`.

    `validation_step` (and `test_step`) returns a mapping: "logits" `(n, C)`, or `(n,)` for two classes, or "preds"
    `(n,)`; "target" `(n,)`; and optionally "loss" `(n,)`. A language model returns "loss" alone: then n, loss and their
    summaries are all there is. With "tokens" `(n,)`, the number of tokens that each loss is a mean over, come
    perplexities: `perplexity` of each group, exp of its mean loss over all its tokens (`losses.perplexities`), and
    `perplexity_gap`, the largest minus the smallest. Group ids come from the batch. Sanity checking is not counted.
    Several loaders give a table each.

    With identity terms declared, for two classes, a batch's "mentions" `(n, T)` says which of them each text mentions:
    the file gets `term_negatives`, `term_fpr` and `term_fpr_difference` (in the column `group` stands the term) and
    the false positive equality difference, Σₜ |FPR − FPRₜ| (`dplit.fairness.metrics.terms`; Dixon et al. 2018).

    Written to the run directory (`trainer.log_dir`): `filename`, tidy with the columns of `records.HEADER`, and a
    picture of the curves beside it when fit ends or fails. Logged: `fairness/<summary metric>` and
    `fairness/<group>/accuracy` (without labels perplexity, or loss), with `test_fairness/` in front when testing and
    `/dataloader_idx_<i>` behind where there are several loaders. A second monitor, for another attribute, needs another
    `filename`: its stem takes the place of `fairness` in what is logged.

    What leaves the run, and what it costs:

    * "public": the split is declared free to publish.
    * "flagged": exact figures, not charged; the privacy statement lists `released_without_charge()`. A callback or
      scheduler that watches them would let private records choose the model, and is refused.
    * "noisy": only group × label × prediction counts leave, once an epoch, with noise of standard deviation
      `noise_multiplier` in each, through `strategy.release_statistic`, which charges them (sensitivity 1). The
      figures follow by post-processing; a rate whose denominator, a sum of m noisy cells, is under three of its
      standard deviations, 3·noise_multiplier·√m, is NaN, and so is every loss. Perplexities are left out: a loss has
      no bound. A step that returns a loss alone, and identity terms, of which a text may mention many, are refused.

    Args:
        group: where a batch keeps its group ids; None: the strategy's `group`, else the key "group".
        groups: the declared list; None: the strategy's `groups`, else the data module's.
        release: see above.
        noise_multiplier: standard deviation of the noise in one count, in examples; for "noisy".
        filename: name of the file; where it exists, a number is added.
        table: print the table after each epoch.
        picture: draw the curves when fit ends.
        classes: number of classes; None: the width of the logits. With "preds", the largest id seen, plus one,
            which "noisy" refuses, as it is read from private records.
        allow_monitoring: let "flagged" figures be watched all the same.
        terms: the identity terms, as the columns of "mentions"; None: the data module's `identity_terms`, if any; an
            empty list: none.

    Raises:
        ConfigurationError: no groups are declared anywhere, a step returned something else, or not the same for every
            batch, a batch lacks "mentions", the strategy cannot release noisy counts, or an argument is out of range.
        PrivacyError: flagged figures are watched, or noisy counts might have a sensitivity over 1.

    """

    def __init__(
        self,
        group: GroupKey | None = None,
        groups: Sequence[str] | None = None,
        release: Literal["public", "flagged", "noisy"] = "flagged",
        noise_multiplier: float = 50.0,
        filename: str = "fairness.csv",
        table: bool = True,
        classes: int | None = None,
        allow_monitoring: bool = False,
        picture: bool = True,
        terms: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if release not in RELEASES:
            raise ConfigurationError(f"release={release!r} is not one of {', '.join(RELEASES)}; flagged is the default")
        if Path(filename).name != filename or not filename or Path(filename).suffix == ".png":
            raise ConfigurationError(
                f"filename={filename!r} must be a bare name like fairness.csv, kept in the run directory"
            )
        self.group, self.groups = group, None if groups is None else declared(groups)
        self.terms = None if terms is None else declared(terms, "terms")
        self.release, self.noise_multiplier = release, noise_multiplier
        self.filename, self.table, self.classes = filename, table, classes
        self.allow_monitoring, self.picture = allow_monitoring, picture
        self._key: GroupKey = "group"
        self._names: tuple[str, ...] = ()
        self._terms: tuple[str, ...] = ()
        self._counts: dict[int, Counts] = {}
        self._by_term: dict[int, Counts] = {}
        self._history: dict[str, list[Snapshot]] = {}
        self._path: Path | None = None
        self._logged: set[str] = set()
        self._watched: list[str] = []

    @property
    def logged_keys(self) -> frozenset[str]:
        """The names this monitor has logged under so far; `release` says whether they were charged."""
        return frozenset(self._logged)

    def released_without_charge(self) -> list[str]:
        """Name everything that left the run so far, exact and uncharged, and who watched it.

        Logged keys, files, then lines like "EarlyStopping watches fairness/accuracy_gap", which are there only with
        `allow_monitoring=True`. Empty unless `release="flagged"`.
        """
        if self.release != "flagged" or not self._logged:
            return []
        files = [] if self._path is None else [self._path.name]
        files += [self._path.with_suffix(".png").name] if self._path is not None and self.picture else []
        return [*sorted(self._logged), *(f"{file} ({self._kept()})" for file in files), *self._watched]

    def _kept(self) -> str:
        seen = [metric for looks in self._history.values() for metric in looks[-1].per_group]
        terms = f", {', '.join(PER_TERM)} by identity term" if self._terms else ""
        return f"{', '.join(dict.fromkeys(seen))} by group{terms} and their summaries"

    # ---- before anything is counted

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the declared groups and refuse what cannot be released."""
        if stage == "predict":
            return
        self._names = self._declared_groups(trainer)
        keys = (self.group, getattr(trainer.strategy, "group", None), "group")
        self._key = next(key for key in keys if key is not None)
        self._check_alone(trainer)
        of_data = getattr(getattr(trainer, "datamodule", None), "identity_terms", None) or ()
        self._terms = tuple(of_data) if self.terms is None else self.terms
        if self.release == "noisy":
            check_noisy(trainer, self.noise_multiplier)
            self._check_no_terms()

    @property
    def _prefix(self) -> str:
        return Path(self.filename).stem

    def _check_alone(self, trainer: Trainer) -> None:
        monitors = [one for one in trainer.callbacks if isinstance(one, FairnessMonitor)]  # type: ignore[attr-defined]
        if any(one is not self and one._prefix == self._prefix for one in monitors):
            raise ConfigurationError(
                f"two monitors with filename={self.filename!r} would log under the same names, and be averaged; "
                'give one a name of its own, as filename="fairness_race.csv"'
            )

    def _check_no_terms(self) -> None:
        if self._terms:
            raise ConfigurationError(
                f"a text may mention several of {len(self._terms)} identity terms and move as many counts, which noisy "
                'counts do not charge; set terms=[] to leave them out, or release="flagged"'
            )

    def _declared_groups(self, trainer: Trainer) -> tuple[str, ...]:
        places = (
            self.groups,
            getattr(trainer.strategy, "groups", None),
            getattr(getattr(trainer, "datamodule", None), "groups", None),
        )
        found = next((place for place in places if place), None)
        if found is None:
            raise ConfigurationError(
                "FairnessMonitor has no groups to tell apart, neither the strategy nor the data module declares any; "
                'set groups=["Female", "Male"] and group="sex"'
            )
        return declared(found)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a file and curves of its own for each fit; refuse watchers of uncharged figures."""
        self._history, self._path, self._logged = {}, None, set()
        self._watched = watchers = _watchers(trainer, f"{self._prefix}/")
        if watchers and self.release == "flagged" and not self.allow_monitoring:
            raise PrivacyError(
                f"{', '.join(watchers)}: exact, uncharged figures would choose the model; watch something else, "
                'set release="noisy", or build the monitor with allow_monitoring=True'
            )

    # ---- counting

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch's counts."""
        self._counts, self._by_term = {}, {}
        if self.release == "noisy":
            check_once_each(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch."""
        if not trainer.sanity_checking:
            self._count(outputs, batch, dataloader_idx, "validation_step")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Release, log, keep and print the epoch's figures."""
        if not trainer.sanity_checking:
            self._report(trainer, pl_module, "validation", len(trainer.num_val_batches))

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As for validation."""
        self.on_validation_epoch_start(trainer, pl_module)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch."""
        self._count(outputs, batch, dataloader_idx, "test_step")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As for validation."""
        self._report(trainer, pl_module, "test", len(trainer.num_test_batches))

    def _count(self, outputs: Any, batch: Any, loader: int, step: str) -> None:
        seen = outcome(outputs, step, self.classes)
        if self.release == "noisy":
            self._check_countable(seen, outputs, step)
        ids = group_ids(batch, self._key, self._names)
        fresh = count(self._names, seen.classes, ids, seen.label, seen.pred, seen.loss, seen.tokens)
        self._counts[loader] = self._counts[loader] + fresh if loader in self._counts else fresh
        if self._terms:
            named = count_terms(self._terms, mentioned(batch, self._terms), seen)
            self._by_term[loader] = self._by_term[loader] + named if loader in self._by_term else named

    def _check_countable(self, seen: Outcome, outputs: Any, step: str) -> None:
        if seen.label is None:
            raise ConfigurationError(
                f"{step} returned a loss alone, and noisy counts are of labels and predictions: a loss has no bound that "
                'noise could cover; set release="flagged" or "public"'
            )
        if self.classes is None and "logits" not in outputs:
            raise ConfigurationError(
                f"{step} returned preds, and the number of classes would be read from private records; "
                "set classes=... for noisy counts"
            )

    # ---- releasing

    def _report(self, trainer: Trainer, pl_module: LightningModule, split: str, loaders: int) -> None:
        directory = Path(trainer.log_dir or trainer.default_root_dir)
        for loader in range(loaders):
            counts = self._counts.get(loader, Counts.none(self._names, self.classes or 2))
            name = split if loaders == 1 else f"{split}/{loader}"
            released = self._released(trainer, counts, loader, name)
            rows = (*table(released), *self._term_rows(trainer, released, loader))
            self._publish(trainer, pl_module, _snapshot(trainer, name, self._names, rows), directory)

    def _term_rows(self, trainer: Trainer, released: Counts, loader: int) -> list[Row]:
        if not self._terms:
            return []
        return term_rows(across_ranks(trainer, self._by_term.get(loader, Counts.none(self._terms))), released)

    def _released(self, trainer: Trainer, counts: Counts, loader: int, split: str) -> Counts:
        total = across_ranks(trainer, counts)
        if self.release != "noisy":
            return total
        check_no_more(trainer, loader, total)
        return noised(trainer, total, self.noise_multiplier, split)

    def _publish(self, trainer: Trainer, pl_module: LightningModule, snapshot: Snapshot, directory: Path) -> None:
        self._log(trainer, pl_module, snapshot)
        if not trainer.is_global_zero:
            return
        if not getattr(trainer, "fast_dev_run", False):
            self._keep(snapshot, directory)
        if self.table:
            say(trainer, rendered(snapshot, RELEASES[self.release]))

    def _log(self, trainer: Trainer, pl_module: LightningModule, snapshot: Snapshot) -> None:
        for key, value in _scalars(snapshot, self._prefix).items():
            self._logged.add(key)
            many = trainer.world_size > 1
            pl_module.log(key, value, on_step=False, on_epoch=True, sync_dist=many, add_dataloader_idx=False)

    def _keep(self, snapshot: Snapshot, directory: Path) -> None:
        if self._path is None or self._path.parent != directory:
            self._path = claim(directory, self.filename)
        append(self._path, snapshot)
        self._history.setdefault(snapshot.split, []).append(snapshot)

    # ---- the picture

    def draw(self) -> None:
        """Draw the curves of each validation loader."""
        curves = {split: seen for split, seen in self._history.items() if split.startswith("validation")}
        for i, history in enumerate(curves.values()):
            if self._path is not None and self.picture:
                save(draw(history), self._path.with_suffix(f".{i}.png" if i else ".png"))


def _watchers(trainer: Trainer, prefix: str) -> list[str]:
    watching = [(type(one).__name__, getattr(one, "monitor", None)) for one in trainer.callbacks]  # type: ignore[attr-defined]
    watching += [(type(one.scheduler).__name__, one.monitor) for one in trainer.lr_scheduler_configs]
    return [f"{who} watches {key}" for who, key in watching if str(key).startswith(prefix)]


def _snapshot(trainer: Trainer, split: str, groups: tuple[str, ...], rows: tuple[Row, ...]) -> Snapshot:
    paid = spent(trainer)
    place = (trainer.current_epoch, trainer.global_step, split, groups, rows)
    if paid is None:
        return Snapshot(*place)
    return Snapshot(*place, epsilon=paid.epsilon, delta=paid.delta, epsilon_by_group=dict(paid.by_group or {}))


def _scalars(snapshot: Snapshot, prefix: str) -> dict[str, float]:
    split, _, loader = snapshot.split.partition("/")
    before = prefix if split == "validation" else f"{split}_{prefix}"
    after = f"/dataloader_idx_{loader}" if loader else ""
    summaries = {row.metric: row.value for row in snapshot.rows if row.metric not in (*PER_GROUP, *PER_TERM)}
    by_group = {f"{group}/{snapshot.quality}": snapshot.of(snapshot.quality, group) for group in snapshot.groups}
    return {f"{before}/{name}{after}": value for name, value in (summaries | by_group).items()}
