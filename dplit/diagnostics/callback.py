"""A callback that keeps, every few epochs, what clipping does to each declared group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch import LightningModule, Trainer

from dplit import validation
from dplit.diagnostics.plots import draw
from dplit.diagnostics.sample import Sample, counted
from dplit.errors import ConfigurationError
from dplit.fairness.metrics.aggregations import overall
from dplit.fairness.metrics.catalogue import METRICS
from dplit.fairness.metrics.counts import Counts
from dplit.fairness.metrics.metric import Metric, Row
from dplit.fairness.metrics.quality import QUALITIES
from dplit.fairness.monitor.csv_log import append, claim
from dplit.fairness.monitor.plots import DrawsAtEnd
from dplit.fairness.monitor.release import spent
from dplit.fairness.monitor.snapshot import Snapshot
from dplit.fairness.plotting import save
from dplit.training.strategies.private import PrivateHooks

GAP = "train minus validation"
"""The split of the generalisation gap's rows."""
SIZE = tuple(metric for metric in METRICS if metric.name == "n")
MEASURED = tuple(metric for metric in METRICS if metric.name in QUALITIES)
"""What is measured on the sample and on the validation split, as far as the examples have it."""


class Outcomes(NamedTuple):
    """What one validation epoch counted of the sample and of the validation split, at one step."""

    step: int
    train: Counts
    validation: Counts


class SubgroupDiagnostics(DrawsAtEnd):
    """Write per group: gradient norms, fraction clipped, direction error, and the generalisation gap.

    For public and benchmark data under DPStrategy. The figures are exact, come from the gradients of train records and are
    not charged; the privacy statement lists the files. Nothing is logged or printed.

    Every `every` epochs, at the end of the training epoch, the gradients of a sample of train records are measured: rows of
    split "train" with the figures of `dplit.diagnostics.clipping_effect.Tally.rows`. The sample is drawn uniformly with a
    public seed and stays the same throughout; the gradients are computed by the strategy's backend and physical batches,
    and weighed by its policy in its present state.

    Gradients are those of `training_step` in eval mode, without dropout, so that no randomness moves them. Accuracy and
    loss of the sample (of a language model loss and perplexity) are measured when the epoch's last validation begins, by
    `validation_step`, in its mode and under its weights (also averaged ones), and compared with its first loader: rows of
    split "train", "validation" and "train minus validation". They are NaN where no validation ends the epoch. Everything
    is measured on a copy that shares the parameters: weights, `.grad`, generators, buffers, metrics, ledger and policy
    stay as they are.

    Written to the run directory: `diagnostics.csv`, with the columns of `fairness.csv`, and the picture
    `diagnostics.png` when fit ends or fails; a number is added where they exist.

    Args:
        declared_public: True declares that the train and validation records are free to publish; anything else is refused.
        every: epochs between measurements, at least 1.
        records: size of the sample, at least 1; all train records if there are fewer.

    Raises:
        ConfigurationError: the data are not declared public, an argument is out of range, the strategy is not
            DPStrategy, no groups are declared, or `validation_step` returned what FairnessMonitor could not read.
    """

    def __init__(self, declared_public: bool = False, every: int = 1, records: int = 1024) -> None:
        super().__init__()
        if declared_public is not True:
            raise ConfigurationError(
                f"declared_public={declared_public!r}: exact figures of private gradients would leave without charge; "
                "train on public or benchmark records and set declared_public=True, or drop SubgroupDiagnostics"
            )
        self.declared_public = declared_public
        self.every, self.records = validation.count("every", every), validation.count("records", records)
        self._sample: Sample | None = None
        self._outcomes: Outcomes | None = None
        self._history: list[dict[str, Snapshot]] = []
        self._path: Path | None = None

    @property
    def logged_keys(self) -> frozenset[str]:
        """None: nothing is logged."""
        return frozenset()

    def released_without_charge(self) -> list[str]:
        """Name the files that left the run so far, exact and uncharged."""
        if self._path is None:
            return []
        content = (
            "gradient norms, clipping, directions, accuracy, loss and perplexity by group; records declared public"
        )
        return [f"{file} ({content})" for file in (self._path.name, self._path.with_suffix(".png").name)]

    # ---- before anything is measured

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a fit without clipping."""
        if stage == "fit" and not isinstance(trainer.strategy, PrivateHooks):
            raise ConfigurationError(
                f"SubgroupDiagnostics measures the clipping of DPStrategy, but this is {type(trainer.strategy).__name__}; "
                "use Trainer(strategy=DPStrategy(...)) or drop the callback"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start new files for each fit; refuse a fit without groups."""
        self._sample, self._outcomes, self._history, self._path = None, None, [], None
        if not _strategy(trainer).groups:
            raise ConfigurationError(
                "SubgroupDiagnostics has no groups to tell apart, neither the strategy nor the data module declares any; "
                "set DPStrategy(group='sex', groups=['Female', 'Male'])"
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the sample as the first epoch begins: from then on the strategy knows its fit."""
        if self._sample is None:
            fit = _strategy(trainer).private_fit
            assert fit is not None
            self._sample = Sample(fit, self.records)

    # ---- measuring

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Count the sample as a validation epoch begins."""
        if self._due(trainer) and self._sample is not None and batch_idx == dataloader_idx == 0:
            train = self._sample.counts()
            self._outcomes = Outcomes(trainer.global_step, train, Counts.none(train.groups))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch of the first validation loader."""
        if self._due(trainer) and self._outcomes is not None and self._sample is not None and dataloader_idx == 0:
            batches = self._sample.fit.batches
            counts = counted(outputs, batches.group_ids(batch), tuple(batches.groups))
            self._outcomes = self._outcomes._replace(validation=self._outcomes.validation + counts)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the sample's gradients and keep the epoch's figures."""
        if not self._due(trainer) or self._sample is None:
            return
        train, held_out = self._counts(trainer)
        metrics = tuple(metric for metric in MEASURED if metric.needs(train + held_out))
        train_rows, held_out_rows = _rows(train, metrics), _rows(held_out, metrics)
        self._keep(
            trainer,
            {
                "train": [*self._sample.gradient_rows(), *train_rows],
                "validation": [*_rows(held_out, SIZE), *held_out_rows],
                GAP: _differences(train_rows, held_out_rows),
            },
        )

    def _due(self, trainer: Trainer) -> bool:
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        return fitting and (trainer.current_epoch + 1) % self.every == 0

    def _counts(self, trainer: Trainer) -> tuple[Counts, Counts]:
        """Return the counts of train and validation at this very step, or counts of no examples."""
        if self._outcomes is None or self._outcomes.step != trainer.global_step:
            none = Counts.none(_strategy(trainer).groups or ())
            return none, none
        return self._outcomes.train, self._outcomes.validation

    # ---- keeping

    def _keep(self, trainer: Trainer, rows: Mapping[str, Sequence[Row]]) -> None:
        if getattr(trainer, "fast_dev_run", False):
            return
        if self._path is None:
            self._path = claim(Path(trainer.log_dir or trainer.default_root_dir), "diagnostics.csv")
        snapshots = {split: _snapshot(trainer, split, of_split) for split, of_split in rows.items()}
        for snapshot in snapshots.values():
            append(self._path, snapshot)
        self._history.append(snapshots)

    def draw(self) -> None:
        """Draw the curves."""
        if self._path is not None:
            gradients, gaps = ([snapshots[split] for snapshots in self._history] for split in ("train", GAP))
            save(draw(gradients, gaps), self._path.with_suffix(".png"))


def _rows(counts: Counts, metrics: Sequence[Metric]) -> list[Row]:
    """Return each metric of each group, and under the group "" of all records together."""
    return [
        Row(metric.name, group, value)
        for metric in metrics
        for group, value in {**metric.values(counts), **overall(metric.rates, counts)}.items()
    ]


def _differences(train: Sequence[Row], held_out: Sequence[Row]) -> list[Row]:
    pairs = zip(train, held_out, strict=True)
    return [Row(ours.metric, ours.group, ours.value - theirs.value) for ours, theirs in pairs]


def _snapshot(trainer: Trainer, split: str, rows: Sequence[Row]) -> Snapshot:
    groups, cost = _strategy(trainer).groups or (), spent(trainer)
    epsilon, delta = (cost.epsilon, cost.delta) if cost else (None, None)
    return Snapshot(trainer.current_epoch, trainer.global_step, split, groups, tuple(rows), epsilon, delta)


def _strategy(trainer: Trainer) -> PrivateHooks:
    strategy = trainer.strategy
    assert isinstance(strategy, PrivateHooks)
    return strategy
