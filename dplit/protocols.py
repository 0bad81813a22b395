"""What one part of dplit may ask of another, of a data set or of a strategy, without importing it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor
from torch.utils.data import Dataset

from dplit.groups import GroupKey

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningDataModule, Trainer
    from transformers import PreTrainedTokenizerBase


# -- what models, callbacks and commands may ask of a strategy -------------------------------------------------------


class Spent(Protocol):
    """What was spent so far: the certified upper bound ε at δ."""

    @property
    def epsilon(self) -> float:
        """Overall: of every record, whatever its group."""

    @property
    def delta(self) -> float:
        """In (0, 1)."""

    @property
    def by_group(self) -> Mapping[str, float] | None:
        """ε of each declared group; None where only the overall ε holds."""


@runtime_checkable
class TakesLosses(Protocol):
    """A strategy that says which losses `training_step` should return."""

    per_example_losses: bool
    """True for `(n,)` losses, False for their mean."""


@runtime_checkable
class PrivateStrategy(TakesLosses, Protocol):
    """A strategy that trains privately; `private_strategy` returns a trainer's."""

    group: GroupKey | None
    """Where a batch keeps its group ids."""
    groups: Sequence[str] | None
    """The declared, public list of groups."""

    def spent(self) -> Spent | None:
        """Return what was spent so far; None before training has begun."""

    def noise_std(self) -> float:
        """Return the standard deviation of the noise in each coordinate of the next released gradient; 0 before training."""

    def release_statistic(
        self, value: Tensor, *, sensitivity: float, noise_multiplier: float, split: str = "validation"
    ) -> Tensor:
        """Charge a statistic of records that training does not see, and return it with noise."""


def per_example_losses(trainer: Trainer | None) -> bool:
    """Whether the strategy of a trainer takes `(n,)` losses from `training_step`."""
    strategy: object = None if trainer is None else trainer.strategy
    return isinstance(strategy, TakesLosses) and strategy.per_example_losses


def private_strategy(trainer: Trainer | None) -> PrivateStrategy | None:
    """Return the strategy of a trainer if it trains privately, else None."""
    strategy: object = None if trainer is None else trainer.strategy
    return strategy if isinstance(strategy, PrivateStrategy) else None


# -- what a strategy may ask of callbacks and data modules -----------------------------------------------------------


def callbacks_of(trainer: Trainer) -> Sequence[Callback]:
    """Return the callbacks of a trainer, which sets them by name."""
    callbacks: Sequence[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def datamodule_of(trainer: Trainer | None) -> LightningDataModule | None:
    """Return the data module of a trainer, which sets it by name; None without one."""
    return getattr(trainer, "datamodule", None)


@runtime_checkable
class LogsFigures(Protocol):
    """A callback whose logged figures are spoken for: charged, or listed by `released_without_charge`."""

    @property
    def logged_keys(self) -> Collection[str]:
        """Names under which it logs."""


@runtime_checkable
class ReleasesFigures(Protocol):
    """A callback that says itself which exact figures it lets out, so that the privacy statement can list them."""

    def released_without_charge(self) -> Iterable[str]:
        """Return one line for each exact figure or file that left the private records so far."""


@runtime_checkable
class ReleasesSplits(Protocol):
    """A callback that says how the figures of validation and test records leave, and under which names."""

    release: str
    """"public": the records are free to publish; "flagged": exact and listed; "noisy": with noise, charged."""
    drop_exact: bool
    """Whether, with "noisy", exact figures of the same records are to be dropped."""

    def speaks_for(self, name: str) -> bool:
        """Whether a figure of this name is one of the callback's own."""


class Watcher(NamedTuple):
    """Who decides by a logged figure, and by which."""

    who: str
    """Class of a callback or of a learning rate scheduler."""
    name: str
    """The figure, as `trainer.callback_metrics` has it."""

    def __str__(self) -> str:
        return f"{self.who} watches {self.name}"


def watchers_of(trainer: Trainer) -> list[Watcher]:
    """Return the callbacks that have a `monitor`, and the schedulers that Lightning steps by a figure."""
    callbacks = [
        Watcher(type(callback).__name__, name) for callback in callbacks_of(trainer) for name in _watched(callback)
    ]
    plateaus = [config for config in trainer.lr_scheduler_configs if config.reduce_on_plateau and config.monitor]
    return [*callbacks, *(Watcher(type(config.scheduler).__name__, str(config.monitor)) for config in plateaus)]


def _watched(callback: Callback) -> list[str]:
    if any(cls.__name__ == "SpikeDetection" for cls in type(callback).__mro__):
        return ["loss"]
    monitor = getattr(callback, "monitor", None)
    names = monitor if isinstance(monitor, list | tuple | set) else [monitor]
    return [name for name in names if isinstance(name, str)]


@runtime_checkable
class DeclaresGroups(Protocol):
    """A data module with a declared, public list of groups."""

    groups: Sequence[str]
    group_key: GroupKey


@runtime_checkable
class DeclaresDisjointSplits(Protocol):
    """A data module that makes its splits so that no record is in two of them."""

    disjoint_splits: Collection[str]
    """Names among "train", "validation" and "test", of which no two share a record."""


# -- what a data set may say to the sampler ----------------------------------------------------------------------------


class UnitSamples(list[Any]):
    """Samples that are drawn and clipped as one unit: their gradients are averaged before the clip.

    Attributes:
        who: whose records they are, where the data say.
    """

    who: Any = None


class WrappedDataset(Dataset[Any]):
    """A data set made of another's samples; what it does not define is the other's."""

    dataset: Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)


def fetch_samples(dataset: Any, indices: Sequence[int]) -> list[Any]:
    """Return the samples at these indices, all at once where the data set can."""
    if not len(indices):
        return []
    fetch = getattr(dataset, "__getitems__", None)
    return list(fetch(list(indices))) if callable(fetch) else [dataset[i] for i in indices]


def single_samples(samples: Iterable[Any]) -> Iterator[Any]:
    """Yield single samples; those of one unit follow one another."""
    for sample in samples:
        yield from sample if isinstance(sample, UnitSamples) else (sample,)


# -- what a model may ask of a data module -----------------------------------------------------------------------------


@runtime_checkable
class DeclaresClasses(Protocol):
    """A data module with a declared, public number of classes."""

    num_classes: int


@runtime_checkable
class DeclaresFeatures(Protocol):
    """A data module whose batches hold rows of features."""

    num_features: int
    """Width of `batch["x"]`, `(n, num_features)`."""


@runtime_checkable
class DeclaresImages(Protocol):
    """A data module whose batches hold images."""

    image_shape: tuple[int, int, int]
    """`(channels, height, width)` of `batch["x"]`, `(n, *image_shape)`."""


@runtime_checkable
class HasTokenizer(Protocol):
    """A data module that turns texts into token ids."""

    tokenizer: PreTrainedTokenizerBase | None
    """None before `setup`."""


@runtime_checkable
class FindsTokens(Protocol):
    """A data module that can say which training texts lack a token."""

    def training_texts_without(self, token: int | None) -> Tensor:
        """Return the numbers of the training texts that do not hold a token, `(k,)` int64."""
