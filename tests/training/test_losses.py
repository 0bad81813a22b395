"""What `training_step` returns becomes a loss for each example, or is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dplit.errors import ConfigurationError, DplitError, PrivacyError
from dplit.training.losses import LossReduction, StepLosses

LOSSES = torch.tensor([1.0, 2.0, 6.0])


def taken(step: Callable[[], object], examples: int, losses: StepLosses | None = None) -> Tensor:
    """Losses of a step that is followed."""
    losses = losses or StepLosses()
    with losses.following(examples) as scalars:
        output = step()
    return losses.of(output, examples, scalars)


def test_losses_of_examples_are_taken_as_they_are() -> None:
    assert taken(lambda: LOSSES, 3) is LOSSES
    assert taken(lambda: {"loss": LOSSES}, 3) is LOSSES
    assert taken(lambda: LOSSES[:1], 1, StepLosses("mean")).tolist() == [1.0]


def law_a_scalar_is_taken_apart(numbers: list[float], reduce: Callable[[Tensor], Tensor]) -> None:
    values = torch.tensor(numbers)
    assert taken(lambda: reduce(values), len(numbers)).tolist() == numbers


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    numbers=st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=7),
    reduce=st.sampled_from([torch.mean, torch.sum]),
)
def test_a_plain_scalar_is_taken_apart(numbers: list[float], reduce: Callable[[Tensor], Tensor]) -> None:
    law_a_scalar_is_taken_apart(numbers, reduce)


def test_mutant_that_gives_each_example_the_whole_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StepLosses, "_taken_apart", lambda self, loss, examples, scalars: loss.expand(examples))
    with pytest.raises(AssertionError):
        law_a_scalar_is_taken_apart([1.0, 2.0, 6.0], torch.mean)


@pytest.mark.parametrize(("said", "other", "reduce"), [("mean", "sum", torch.mean), ("sum", "mean", torch.sum)])
def test_what_is_declared_is_checked(
    said: LossReduction, other: LossReduction, reduce: Callable[[Tensor], Tensor]
) -> None:
    assert taken(lambda: reduce(LOSSES), 3, StepLosses(said)).tolist() == LOSSES.tolist()
    with pytest.raises(ConfigurationError, match=f"loss_reduction='{other}', but .* is the {said}"):
        taken(lambda: reduce(LOSSES), 3, StepLosses(other))


@pytest.mark.parametrize("declared", [None, "mean", "sum"])
@pytest.mark.parametrize(
    "step", [lambda: LOSSES.mean().square(), lambda: LOSSES.max(), lambda: LOSSES.sum() * LOSSES.mean()]
)
def test_another_scalar_is_refused_whatever_is_declared(
    step: Callable[[], Tensor], declared: LossReduction | None
) -> None:
    with pytest.raises(ConfigurationError, match="not seen to be the plain mean or sum") as refused:
        taken(step, 3, StepLosses(declared))
    assert "\n" not in str(refused.value)


def test_the_scalar_of_an_example_alone_is_its_loss() -> None:
    assert taken(lambda: LOSSES[:1].mean().square(), 1).tolist() == [1.0]


def test_scalars_are_not_followed_after_losses_of_examples() -> None:
    losses = StepLosses()
    taken(lambda: LOSSES, 3, losses)
    with pytest.raises(ConfigurationError, match="return losses per example in each step"):
        taken(lambda: LOSSES.mean(), 3, losses)


@pytest.mark.parametrize(
    ("loss", "says", "kind"),
    [
        (None, "returned NoneType", PrivacyError),
        (1.5, "returned float", PrivacyError),
        (LOSSES.mean(), "not seen to be the plain mean or sum", ConfigurationError),
        (LOSSES[:2], r"shape \(2,\) for 3 examples", ConfigurationError),
        (LOSSES[:, None], r"shape \(3, 1\)", ConfigurationError),
        (LOSSES[None], r"shape \(1, 3\)", ConfigurationError),
    ],
)
def test_everything_else_is_refused_in_one_line(loss: object, says: str, kind: type[DplitError]) -> None:
    with pytest.raises(kind, match=says) as refused:
        taken(lambda: loss, 3)
    assert "\n" not in str(refused.value)
