"""Within a step no figure reaches a logger unasked, and afterwards the logger is as it was (promise 25)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.loggers import CSVLogger, Logger

from dplit.errors import PrivacyError
from dplit.training.outlets import loggers
from dplit.training.outlets.loggers import watched_loggers
from tests.training.outlets.notebook import ROADS, Notebook, Writer, reached

NAMES = st.text("abcdefgh_", min_size=1, max_size=8).map(lambda text: f"figure_{text}")


def law_nothing_goes_on_unasked(roads: list[str], name: str) -> None:
    logger, told = Notebook(), []
    held = logger.log_metrics  # noqa: F841
    with watched_loggers([logger, logger], lambda names, road: told.append((names, road)) or {}):
        for road in roads:
            ROADS[road](logger, name, 1.0)
    assert not reached(logger, name)
    assert [names for names, _ in told] == [[name]] * len(roads)
    assert all(road.startswith("Notebook.") for _, road in told)


def law_what_may_go_on_does(road: str, name: str) -> None:
    logger, told = Notebook(), []
    with watched_loggers([logger], lambda names, road: told.extend(names)):
        ROADS[road](logger, name, 1.0)
    assert reached(logger, name)
    assert told == [name]


@settings(deadline=None)
@given(st.lists(st.sampled_from(sorted(ROADS)), min_size=1, max_size=5), NAMES)
def test_nothing_goes_on_unasked(roads: list[str], name: str) -> None:
    law_nothing_goes_on_unasked(roads, name)


@settings(deadline=None)
@given(st.sampled_from(sorted(ROADS)), NAMES)
def test_what_may_go_on_does(road: str, name: str) -> None:
    law_what_may_go_on_does(road, name)


def test_mutant_that_sees_log_metrics_only_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "_proxied", lambda value, road, door: value)
    for road in ROADS:
        with pytest.raises(AssertionError):
            law_nothing_goes_on_unasked([road], "loss")


def test_the_logger_is_as_it_was_also_after_an_error() -> None:
    logger = Notebook()

    def fails() -> None:
        assert isinstance(logger, Notebook)
        assert isinstance(logger.experiment, Writer)
        assert (logger.name, logger.log_dir) == ("notebook", None)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), watched_loggers([logger], lambda names, road: {}):
        fails()
    assert type(logger) is Notebook
    assert vars(logger).keys() == vars(Notebook()).keys()
    ROADS["log_metrics"](logger, "later", 1.0)
    assert reached(logger, "later")


def test_log_metrics_gets_what_stands_in_place() -> None:
    logger = Notebook()
    with watched_loggers([logger], lambda names, road: dict.fromkeys(names, -1.0)):
        logger.log_metrics({"loss": 3.0})
        logger.experiment.add_scalar("other", 3.0)
    assert logger.kept == [{"loss": -1.0}]


def test_saving_asks_nobody(tmp_path: Any) -> None:
    logger, told = CSVLogger(tmp_path), []
    logger.log_metrics({"before": 1.0})
    with watched_loggers([logger], lambda names, road: told.append(road) or {}):
        logger.save()
        assert logger.log_dir.startswith(str(tmp_path))
    assert told == []
    assert (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").exists()


def test_what_cannot_be_watched_is_refused() -> None:
    class Sealed:
        __slots__ = ()

    with pytest.raises(PrivacyError, match="Sealed cannot be watched"), watched_loggers([Sealed()], lambda *a: None):
        pass


def test_every_logger_of_lightning_can_be_watched() -> None:
    from lightning.pytorch import loggers as shipped

    kinds = [kind for kind in vars(shipped).values() if isinstance(kind, type) and issubclass(kind, Logger)]
    assert len(kinds) >= 3
    for kind in kinds:
        assert issubclass(loggers._watched(kind), kind)
