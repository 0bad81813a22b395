"""A callback that keeps, every few epochs, what clipping does to each declared group."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule, Trainer

from dplit.diagnostics.plots import draw
from dplit.diagnostics.sample import Sample, counted
from dplit.errors import ConfigurationError
from dplit.fairness.metrics.counts import Counts
from dplit.fairness.metrics.losses import losses, perplexities
from dplit.fairness.metrics.rates import Rates, Row, accuracies, by_group, is_defined, overall, sizes
from dplit.fairness.monitor.csv_log import append, claim
from dplit.fairness.monitor.draws_at_end import DrawsAtEnd
from dplit.fairness.monitor.plots import save
from dplit.fairness.monitor.release import spent
from dplit.fairness.monitor.snapshot import Snapshot
from dplit.training.strategies.private import PrivateHooks

GAP = "train minus validation"
"""The split of the generalisation gap's rows."""
MEASURED: dict[str, Rates] = {"accuracy": accuracies, "loss": losses, "perplexity": perplexities}


class Outcomes(NamedTuple):
    """What one validation epoch said of the sample and of the validation split, at one step."""

    step: int
    train: Counts
    validation: Counts


class SubgroupDiagnostics(DrawsAtEnd):
    """Write per group: gradient norms, fraction clipped, direction error, and the generalisation gap.

    For public and benchmark data under DPStrategy. The figures are exact, come from the gradients of train records and are
    not charged; the privacy statement lists the files. Nothing is logged or printed.

    Every `every` epochs, at the end of the training epoch, on a sample of train records (drawn uniformly with a public
    seed, the same ones throughout), by the strategy's engine and physical batches and by its policy as it is then:
    the figures of `dplit.diagnostics.clipping_effect.Tally.rows`, in rows of split "train".

    Gradients are those of `training_step` in eval mode, without dropout, so that no randomness moves them. Accuracy and
    loss of the sample (of a language model loss and perplexity) are measured as the epoch's last validation begins, by
    `validation_step`, in its mode and under its weights (averaged ones, too), and compared with its first loader: rows of
    split "train", "validation" and "train minus validation". They are NaN where no validation ends the epoch. Measuring
    is done on a copy that shares the parameters: weights, `.grad`, generators, buffers, metrics, ledger and policy stay
    as they are.

    Written to the run directory: `diagnostics.csv`, with the columns of `fairness.csv`, and the picture
    `diagnostics.png` when fit ends or fails; a number is added where they exist.

    Args:
        declared_public: True says that the train and validation records are free to publish; without it, refused.
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
        self.every, self.records = _whole("every", every), _whole("records", records)
        self._sample: Sample | None = None
        self._outcomes: Outcomes | None = None
        self._history: list[dict[str, Snapshot]] = []
        self._path: Path | None = None

    def released_without_charge(self) -> list[str]:
        """Name the files that left the run so far, exact and uncharged."""
        if self._path is None:
            return []
        held = "gradient norms, clipping, directions, accuracy, loss and perplexity by group; records declared public"
        return [f"{file} ({held})" for file in (self._path.name, self._path.with_suffix(".png").name)]

    # ---- before anything is measured

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a fit without clipping."""
        if stage == "fit" and not isinstance(trainer.strategy, PrivateHooks):
            raise ConfigurationError(
                f"SubgroupDiagnostics measures the clipping of DPStrategy, but this is {type(trainer.strategy).__name__}; "
                "use Trainer(strategy=DPStrategy(...)) or drop the callback"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start files of its own for each fit; refuse one without groups."""
        self._sample, self._outcomes, self._history, self._path = None, None, [], None
        if not _strategy(trainer).groups:
            raise ConfigurationError(
                "SubgroupDiagnostics has no groups to tell apart, neither the strategy nor the data module declares any; "
                "set DPStrategy(group='sex', groups=['Female', 'Male'])"
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the sample as the first epoch begins: from then on the strategy knows its fit."""
        if self._sample is None:
            fit = _strategy(trainer).fit
            assert fit is not None
            self._sample = Sample(fit, self.records)

    # ---- measuring

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Count the sample as a validation epoch begins."""
        if self._due(trainer) and self._sample is not None and batch_idx == dataloader_idx == 0:
            train = self._sample.counts()
            self._outcomes = Outcomes(trainer.global_step, train, Counts.none(train.groups))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch of the first validation loader."""
        if self._due(trainer) and self._outcomes is not None and self._sample is not None and dataloader_idx == 0:
            batches = self._sample.fit.batches
            fresh = counted(outputs, batches.group_ids(batch), tuple(batches.groups))
            self._outcomes = self._outcomes._replace(validation=self._outcomes.validation + fresh)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the sample's gradients and keep the epoch's figures."""
        if not self._due(trainer) or self._sample is None:
            return
        train, validation = self._counts(trainer)
        rates = {metric: rates for metric, rates in MEASURED.items() if is_defined(rates, train + validation)}
        rows = {
            "train": [*self._sample.gradient_rows(), *_figures(train, rates)],
            "validation": _figures(validation, {"n": sizes, **rates}),
            GAP: _gaps(_figures(train, rates), _figures(validation, rates)),
        }
        self._keep(trainer, _snapshots(trainer, rows))

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

    def _keep(self, trainer: Trainer, look: dict[str, Snapshot]) -> None:
        if getattr(trainer, "fast_dev_run", False):
            return
        if self._path is None:
            self._path = claim(Path(trainer.log_dir or trainer.default_root_dir), "diagnostics.csv")
        for snapshot in look.values():
            append(self._path, snapshot)
        self._history.append(look)

    def draw(self) -> None:
        """Draw the curves."""
        if self._path is not None:
            figure = draw([look["train"] for look in self._history], [look[GAP] for look in self._history])
            save(figure, self._path.with_suffix(".png"))


def _figures(counts: Counts, rates: dict[str, Rates]) -> list[Row]:
    """Return each rate of each group, and under the group "" of all records together."""
    found = {metric: {**by_group(rate, counts), **overall(rate, counts)} for metric, rate in rates.items()}
    return [Row(metric, name, value) for metric, values in found.items() for name, value in values.items()]


def _gaps(train: list[Row], validation: list[Row]) -> list[Row]:
    pairs = zip(train, validation, strict=True)
    return [Row(here.metric, here.group, here.value - there.value) for here, there in pairs]


def _snapshots(trainer: Trainer, rows: dict[str, list[Row]]) -> dict[str, Snapshot]:
    paid, groups = spent(trainer), _strategy(trainer).groups or ()
    at, cost = (trainer.current_epoch, trainer.global_step), (paid.epsilon, paid.delta) if paid else (None, None)
    return {split: Snapshot(*at, split, groups, tuple(found), *cost) for split, found in rows.items()}


def _strategy(trainer: Trainer) -> PrivateHooks:
    found = trainer.strategy
    assert isinstance(found, PrivateHooks)
    return found


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name}={value!r} must be a whole number of at least 1")
    return value
