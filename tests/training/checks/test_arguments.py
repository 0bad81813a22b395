"""Arguments out of range are refused in one line that names the range."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dplit.errors import ConfigurationError
from dplit.privacy import Target
from dplit.training.checks.arguments import check_arguments, check_figures, check_memory, warn_of_delta

GOOD: dict[str, Any] = {"noise": 1.0, "loss_reduction": None, "delta": None, "grads": "tape"}


@pytest.mark.parametrize(
    "change",
    [{}, {"noise": Target(3, 1e-5)}, {"noise": 2}, {"loss_reduction": "sum"}, {"delta": 1e-6}, {"grads": "loop"}],
)
def test_what_can_be_meant_passes(change: dict[str, Any]) -> None:
    check_arguments(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        *((({"noise": bad}), "noise=.* must be a Target") for bad in (0, -1.0, math.nan, math.inf, True, None, "1")),
        ({"loss_reduction": "max"}, "must be None, 'mean' or 'sum'"),
        ({"grads": "hooks"}, "must be 'auto', 'tape', 'vmap' or 'loop'"),
        ({"delta": 0}, "must lie between 0 and 1"),
        ({"delta": 1.0}, "must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_meant_is_one_line(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as refused:
        check_arguments(**{**GOOD, **change})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("size", "limit"), [(1, None), (64, None), ("auto", None), ("auto", 0.5), ("auto", 16)])
def test_sizes_that_can_be_meant(size: Any, limit: Any) -> None:
    check_memory(size, limit)


@pytest.mark.parametrize(
    ("size", "limit", "says"),
    [
        *((bad, None, "must be a whole number of at least 1, or 'auto'") for bad in (0, -1, 1.5, True, "all", None)),
        (64, 4.0, "has no meaning beside physical_batch_size=64"),
        *(("auto", bad, "must be a number of GiB above 0") for bad in (0, -1, math.nan, math.inf, True, "4")),
    ],
)
def test_sizes_that_cannot_be_meant(size: Any, limit: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        check_memory(size, limit)


def test_names_and_splits_that_can_be_meant() -> None:
    check_figures([], ())
    check_figures(["val_loss", "train_loss"], ["validation", "test"])


@pytest.mark.parametrize(
    ("steered_by", "public", "says"),
    [
        *((bad, (), "steered_by=.* must be a list of names") for bad in ("val_loss", None, [1], {"val_loss": 1})),
        *(((), bad, "public_splits=.* must be a list of names") for bad in ("validation", True, [None])),
        ((), ["train"], "records to train on are never public"),
        ((), ["validation", "val"], "may hold 'validation' and 'test'"),
    ],
)
def test_names_and_splits_that_cannot_be_meant(steered_by: Any, public: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        check_figures(steered_by, public)


def test_a_delta_that_promises_nothing_is_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    warn_of_delta(1e-3, 999)
    assert not recwarn
    with pytest.warns(UserWarning, match="delta=0.001 is not below 1/1000"):
        warn_of_delta(1e-3, 1000)
