"""Protocols are satisfied by what is meant by them, and by nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.strategies import SingleDeviceStrategy

import dplit
from dplit.data.adult import Adult
from dplit.diagnostics import SubgroupDiagnostics
from dplit.fairness import FairnessMonitor
from dplit.protocols import (
    DeclaresGroups,
    LogsFigures,
    PrivateStrategy,
    ReleasesFigures,
    ReleasesSplits,
    UnitSamples,
    Watcher,
    WrappedDataset,
    callbacks_of,
    datamodule_of,
    fetch_samples,
    per_example_losses,
    private_strategy,
    single_samples,
    watchers_of,
)


def trainer_with(strategy: object) -> Any:
    return SimpleNamespace(strategy=strategy, callbacks=[1, 2], datamodule=None)


def test_a_private_strategy_is_told_from_others() -> None:
    private, plain = dplit.DPStrategy(), SingleDeviceStrategy("cpu")
    assert private_strategy(trainer_with(private)) is private
    assert private_strategy(trainer_with(plain)) is None
    assert private_strategy(None) is None
    assert per_example_losses(trainer_with(private))
    assert not per_example_losses(trainer_with(plain))
    assert not per_example_losses(None)


@pytest.mark.parametrize("missing", ["spent", "noise_std", "release_statistic", "groups"])
def test_a_strategy_without_one_of_the_answers_is_not_private(missing: str) -> None:
    answers = dict.fromkeys(("spent", "noise_std", "release_statistic", "groups", "group", "per_example_losses"), print)
    assert isinstance(SimpleNamespace(**answers), PrivateStrategy)
    del answers[missing]
    assert not isinstance(SimpleNamespace(**answers), PrivateStrategy)


def test_callbacks_speak_for_their_own_figures() -> None:
    monitor, diagnostics = FairnessMonitor(groups=["a"]), SubgroupDiagnostics(declared_public=True)
    assert isinstance(monitor, ReleasesFigures)
    assert isinstance(monitor, LogsFigures)
    assert isinstance(diagnostics, ReleasesFigures)
    assert isinstance(monitor, ReleasesSplits)
    assert not isinstance(diagnostics, ReleasesSplits)


def test_who_watches_which_figure() -> None:
    """A `monitor` that is no name of a figure, and a scheduler that no figure steps, watch nothing."""
    callbacks = [SimpleNamespace(monitor=monitor) for monitor in (None, "a", ["b", "c"], object(), [1])]
    schedulers = [SimpleNamespace(scheduler=1.5, monitor="d", reduce_on_plateau=plateau) for plateau in (True, False)]
    trainer: Any = SimpleNamespace(callbacks=[*callbacks, object()], lr_scheduler_configs=schedulers)
    found = watchers_of(trainer)
    assert found == [*(Watcher("SimpleNamespace", name) for name in "abc"), Watcher("float", "d")]
    assert str(found[-1]) == "float watches d"


def test_data_modules_declare_groups() -> None:
    assert isinstance(Adult(), DeclaresGroups)
    assert not isinstance(object(), DeclaresGroups)


def test_what_a_trainer_sets_by_name_is_read_in_one_place() -> None:
    assert callbacks_of(trainer_with(None)) == [1, 2]
    assert datamodule_of(trainer_with(None)) is None
    assert datamodule_of(SimpleNamespace()) is None
    assert datamodule_of(None) is None


class Plain:
    """A data set that gives one sample at a time."""

    def __getitem__(self, index: int) -> int:
        return 10 * index


class AtOnce(Plain):
    """One that is asked for several at a time, and counts how often."""

    asked = 0

    def __getitems__(self, indices: list[int]) -> list[int]:
        self.asked += 1
        return [10 * index for index in indices]


def test_samples_are_fetched_at_once_where_the_data_set_can() -> None:
    assert fetch_samples(Plain(), [3, 1]) == [30, 10]
    data = AtOnce()
    assert fetch_samples(data, [3, 1]) == [30, 10]
    assert data.asked == 1
    assert fetch_samples(data, []) == []
    assert data.asked == 1


def test_units_are_opened_in_order_and_lists_are_samples() -> None:
    unit = UnitSamples([1, 2])
    assert list(single_samples([0, unit, [3, 4], UnitSamples([5])])) == [0, 1, 2, [3, 4], 5]


def test_a_wrapper_answers_what_the_data_set_would() -> None:
    class Wrapper(WrappedDataset):
        def __init__(self, dataset: Any) -> None:
            self.dataset = dataset

    assert Wrapper(AtOnce()).asked == 0
    with pytest.raises(AttributeError):
        _ = Wrapper(AtOnce()).nothing
    with pytest.raises(AttributeError):
        _ = Wrapper.__new__(Wrapper).asked
