"""A callback that shows, after every validation epoch, how each declared group fares and which ε was spent on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lightning.pytorch import LightningModule, Trainer

from dplit.errors import ConfigurationError, PrivacyError
from dplit.fairness.metrics.catalogue import PER_GROUP, table
from dplit.fairness.metrics.counts import Counts, count
from dplit.fairness.metrics.metric import Row
from dplit.fairness.metrics.metric_frame import WeightedMetric, metric_frame
from dplit.fairness.metrics.terms import PER_TERM, count_terms, mentioned, term_rows
from dplit.fairness.monitor.csv_log import append, claim
from dplit.fairness.monitor.declarations import declared_group_key, declared_groups, declared_terms
from dplit.fairness.monitor.display import rendered, say
from dplit.fairness.monitor.outputs import Outcome, outcome
from dplit.fairness.monitor.plots import DrawsAtEnd, draw
from dplit.fairness.monitor.release import (
    across_ranks,
    callbacks,
    check_each_record_once,
    check_no_more_than_records,
    check_noisy,
    noised,
    spent,
    watchers,
)
from dplit.fairness.monitor.snapshot import Snapshot
from dplit.fairness.plotting import save
from dplit.groups import GroupKey, declared, group_ids

if TYPE_CHECKING:
    from fairlearn.metrics import MetricFrame

RELEASES = {
    "public": "declared public",
    "flagged": "exact, not charged",
    "noisy": "noisy counts, charged",
}


class FairnessMonitor(DrawsAtEnd):
    """Count predictions and losses by declared group; print, log and keep the figures of `dplit.fairness.metrics`.

    `validation_step` (and `test_step`) returns a mapping: "logits" `(n, C)`, or `(n,)` for two classes, or "preds"
    `(n,)`; "target" `(n,)`; and optionally "loss" `(n,)`. A language model returns "loss" alone: then n, loss and their
    summaries are all there is. With "tokens" `(n,)`, the number of tokens that each loss is a mean over, there are also
    perplexities: `perplexity` of each group, exp of its mean loss over all its tokens (`metrics.perplexity`), and
    `perplexity_gap`, the largest minus the smallest. Group ids come from the batch. Sanity checking is not counted.
    Each of several loaders has its own table.

    With identity terms declared, for two classes, a batch's "mentions" `(n, T)` says which of them each text mentions:
    the file gets `term_negatives`, `term_fpr` and `term_fpr_difference` (with the term in the column `group`) and the
    false positive equality difference, Σₜ |FPR − FPRₜ| (`dplit.fairness.metrics.terms`; Dixon et al. 2018).

    Written to the run directory (`trainer.log_dir`): `filename`, tidy with the columns of `csv_log.HEADER`, and a
    picture of the curves beside it when fit ends or fails. Logged: `fairness/<summary metric>` and
    `fairness/<group>/accuracy` (without labels perplexity, or loss), with `test_fairness/` in front when testing and
    `/dataloader_idx_<i>` behind where there are several loaders. A second monitor, for another attribute, needs another
    `filename`: its stem takes the place of `fairness` in what is logged. `metric_frame()` returns the last evaluation as
    a fairlearn MetricFrame.

    What leaves the run, and what it costs:

    * "public": the split is declared free to publish.
    * "flagged": exact figures, not charged; the privacy statement lists `released_without_charge()`. A callback or
      scheduler that watches them would let private records choose the model, and is refused.
    * "noisy": only group × label × prediction counts (no prediction is one of them) leave, once an epoch, with noise of
      standard deviation `noise_multiplier` in each, through `strategy.release_statistic`, which charges them (sensitivity
      1); loaders that may hold the same records are added up (`DPStrategy(disjoint_splits=...)`). The figures follow by
      post-processing; a rate whose denominator, a sum of m noisy cells, is under three of its
      standard deviations, 3·noise_multiplier·√m, is NaN, and so is every loss. Perplexities are left out, because a
      loss has no bound. A step that returns a loss alone is refused, and so are identity terms, of which a text may
      mention many. Exact figures of the same records, such as a `val/loss` that `validation_step` logs, are dropped by
      the strategy; with `drop_exact=False` they leave, and the statement gives no ε for the split.

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
        allow_monitoring: let callbacks and schedulers watch "flagged" figures; the privacy statement names them.
        drop_exact: see "noisy".
        terms: the identity terms, as the columns of "mentions"; None: the data module's `identity_terms`, if any; an
            empty list: none.

    Raises:
        ConfigurationError: no groups are declared anywhere, a step returned something else, or not the same for every
            batch, a batch lacks "mentions", the strategy cannot release noisy counts, or an argument is out of range.
        PrivacyError: flagged figures are watched, noisy counts might have a sensitivity over 1, or another monitor lets
            out exact figures of the same records.

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
        drop_exact: bool = True,
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
        self.allow_monitoring, self.picture, self.drop_exact = allow_monitoring, picture, drop_exact
        self._key: GroupKey = "group"
        self._names: tuple[str, ...] = ()
        self._terms: tuple[str, ...] = ()
        self._counts: dict[int, Counts] = {}
        self._by_term: dict[int, Counts] = {}
        self._released: dict[str, Counts] = {}
        self._framed: set[str] = set()
        self._history: dict[str, list[Snapshot]] = {}
        self._path: Path | None = None
        self._logged: set[str] = set()
        self._watched: list[str] = []

    @property
    def logged_keys(self) -> frozenset[str]:
        """The names this monitor has logged under so far; `release` says whether they were charged."""
        return frozenset(self._logged)

    def speaks_for(self, name: str) -> bool:
        """Whether a figure of this name is one of the monitor's own."""
        return name.startswith((f"{self._prefix}/", f"test_{self._prefix}/"))

    def released_without_charge(self) -> list[str]:
        """Name everything that left the run so far, exact and uncharged, and who watched it.

        Logged keys, files, counts that `metric_frame` gave out, then lines like "EarlyStopping watches
        fairness/accuracy_gap", which are there only with `allow_monitoring=True`. Empty unless `release="flagged"`.
        """
        if self.release != "flagged" or not self._logged:
            return []
        files = [] if self._path is None else [self._path.name]
        files += [self._path.with_suffix(".png").name] if self._path is not None and self.picture else []
        frames = [f"MetricFrame of {split} (counts by group, label and prediction)" for split in sorted(self._framed)]
        content = self._content_of_files()
        return [*sorted(self._logged), *(f"{file} ({content})" for file in files), *frames, *self._watched]

    def _content_of_files(self) -> str:
        metrics = [metric for snapshots in self._history.values() for metric in snapshots[-1].per_group]
        terms = f", {', '.join(PER_TERM)} by identity term" if self._terms else ""
        return f"{', '.join(dict.fromkeys(metrics))} by group{terms} and their summaries"

    def metric_frame(
        self, split: str = "validation", metrics: Mapping[str, WeightedMetric] | None = None
    ) -> MetricFrame:
        """Return the last evaluation of a split as a `fairlearn.metrics.MetricFrame`, of the counts as they were released.

        Noisy counts give a noisy frame: it costs nothing more. Of "flagged" counts `released_without_charge` lists it from
        then on; a privacy statement that is already written does not.

        Args:
            split: "validation" or "test", with "/0", "/1", ... where there are several loaders.
            metrics: as for `dplit.fairness.metric_frame`.

        Raises:
            ConfigurationError: the split was not evaluated yet, or the step returned a loss alone.

        """
        if split not in self._released:
            known = ", ".join(self._released) or "none"
            raise ConfigurationError(
                f"split={split!r} has no counts, evaluated are: {known}; call fit, validate or test first"
            )
        frame = metric_frame(self._released[split], metrics)
        self._framed.add(split)
        return frame

    # ---- before anything is counted

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the declared groups and refuse what cannot be released."""
        if stage == "predict":
            return
        self._names = declared_groups(trainer, self.groups)
        self._key = declared_group_key(trainer, self.group)
        self._check_own_name(trainer)
        self._terms = declared_terms(trainer, self.terms)
        if self.release == "noisy":
            check_noisy(trainer, self.noise_multiplier)
            self._check_no_terms()
            self._check_no_exact_monitor(trainer)

    @property
    def _prefix(self) -> str:
        return Path(self.filename).stem

    def _check_own_name(self, trainer: Trainer) -> None:
        others = [other for other in callbacks(trainer) if isinstance(other, FairnessMonitor) and other is not self]
        if any(other._prefix == self._prefix for other in others):
            raise ConfigurationError(
                f"two monitors with filename={self.filename!r} would log under the same names, and be averaged; "
                'give one a name of its own, as filename="fairness_race.csv"'
            )

    def _check_no_exact_monitor(self, trainer: Trainer) -> None:
        exact = [
            other for other in callbacks(trainer) if isinstance(other, FairnessMonitor) and other.release == "flagged"
        ]
        if exact and self.drop_exact:
            raise PrivacyError(
                f"{exact[0].filename} would hold exact figures of the records whose noisy counts are charged for "
                f'{self.filename}; set release="noisy" for both, or drop_exact=False, and no ε is stated for the split'
            )

    def _check_no_terms(self) -> None:
        if self._terms:
            raise ConfigurationError(
                f"a text may mention several of {len(self._terms)} identity terms and move as many counts, which noisy "
                'counts do not charge; set terms=[] to leave them out, or release="flagged"'
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a new file and new curves for each fit; refuse watchers of uncharged figures."""
        self._history, self._path, self._logged = {}, None, set()
        self._released, self._framed = {}, set()
        self._watched = watchers(trainer, f"{self._prefix}/")
        if self._watched and self.release == "flagged" and not self.allow_monitoring:
            raise PrivacyError(
                f"{', '.join(self._watched)}: exact, uncharged figures would choose the model; watch something else, "
                'set release="noisy", or build the monitor with allow_monitoring=True'
            )

    # ---- counting

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch's counts."""
        self._counts, self._by_term = {}, {}
        if self.release == "noisy":
            check_each_record_once(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
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
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch."""
        self._count(outputs, batch, dataloader_idx, "test_step")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As for validation."""
        self._report(trainer, pl_module, "test", len(trainer.num_test_batches))

    def _count(self, outputs: object, batch: object, loader: int, step: str) -> None:
        result = outcome(outputs, step, self.classes)
        if self.release == "noisy":
            self._check_countable(result, outputs, step)
        group = group_ids(batch, self._key, self._names)
        counts = count(self._names, result.classes, group, result.label, result.pred, result.loss, result.tokens)
        _add(self._counts, loader, counts)
        if self._terms:
            _add(self._by_term, loader, count_terms(self._terms, mentioned(batch, self._terms), result))

    def _check_countable(self, result: Outcome, outputs: object, step: str) -> None:
        if result.label is None:
            raise ConfigurationError(
                f"{step} returned a loss alone, and noisy counts are of labels and predictions: a loss has no bound that "
                'noise could cover; set release="flagged" or "public"'
            )
        if self.classes is None and isinstance(outputs, Mapping) and "logits" not in outputs:
            raise ConfigurationError(
                f"{step} returned preds, and the number of classes would be read from private records; "
                "set classes=... for noisy counts"
            )

    # ---- releasing

    def _report(self, trainer: Trainer, pl_module: LightningModule, split: str, loaders: int) -> None:
        directory = Path(trainer.log_dir or trainer.default_root_dir)
        for loader in range(loaders):
            name = split if loaders == 1 else f"{split}/{loader}"
            released = self._released[name] = self._release(trainer, loader, name)
            rows = (*table(released), *self._term_rows(trainer, released, loader))
            self._publish(trainer, pl_module, _snapshot(trainer, name, self._names, rows), directory)

    def _release(self, trainer: Trainer, loader: int, split: str) -> Counts:
        counts = self._counts.get(loader, Counts.none(self._names, self.classes or 2))
        total = across_ranks(trainer, counts)
        if self.release != "noisy":
            return total
        check_no_more_than_records(trainer, loader, total)
        return noised(trainer, total, self.noise_multiplier, split)

    def _term_rows(self, trainer: Trainer, released: Counts, loader: int) -> list[Row]:
        if not self._terms:
            return []
        return term_rows(across_ranks(trainer, self._by_term.get(loader, Counts.none(self._terms))), released)

    def _publish(self, trainer: Trainer, pl_module: LightningModule, snapshot: Snapshot, directory: Path) -> None:
        self._log(trainer, pl_module, snapshot)
        if not trainer.is_global_zero:
            return
        if not getattr(trainer, "fast_dev_run", False):
            self._keep(snapshot, directory)
        if self.table:
            say(trainer, rendered(snapshot, RELEASES[self.release]))

    def _log(self, trainer: Trainer, pl_module: LightningModule, snapshot: Snapshot) -> None:
        several = trainer.world_size > 1
        for key, value in _scalars(snapshot, self._prefix).items():
            self._logged.add(key)
            pl_module.log(key, value, on_step=False, on_epoch=True, sync_dist=several, add_dataloader_idx=False)

    def _keep(self, snapshot: Snapshot, directory: Path) -> None:
        if self._path is None or self._path.parent != directory:
            self._path = claim(directory, self.filename)
        append(self._path, snapshot)
        self._history.setdefault(snapshot.split, []).append(snapshot)

    # ---- the picture

    def draw(self) -> None:
        """Draw the curves of each validation loader."""
        histories = [history for split, history in self._history.items() if split.startswith("validation")]
        for i, history in enumerate(histories):
            if self._path is not None and self.picture:
                save(draw(history), self._path.with_suffix(f".{i}.png" if i else ".png"))


def _add(totals: dict[int, Counts], loader: int, counts: Counts) -> None:
    totals[loader] = totals[loader] + counts if loader in totals else counts


def _snapshot(trainer: Trainer, split: str, groups: tuple[str, ...], rows: tuple[Row, ...]) -> Snapshot:
    snapshot = Snapshot(trainer.current_epoch, trainer.global_step, split, groups, rows)
    cost = spent(trainer)
    if cost is None:
        return snapshot
    return replace(snapshot, epsilon=cost.epsilon, delta=cost.delta, epsilon_by_group=dict(cost.by_group or {}))


def _scalars(snapshot: Snapshot, prefix: str) -> dict[str, float]:
    """Return what is logged: the summaries, and of each group what the model is judged by."""
    split, _, loader = snapshot.split.partition("/")
    before = prefix if split == "validation" else f"{split}_{prefix}"
    after = f"/dataloader_idx_{loader}" if loader else ""
    summaries = {row.metric: row.value for row in snapshot.rows if row.metric not in (*PER_GROUP, *PER_TERM)}
    by_group = {f"{group}/{snapshot.quality}": snapshot.value(snapshot.quality, group) for group in snapshot.groups}
    return {f"{before}/{name}{after}": value for name, value in (summaries | by_group).items()}
