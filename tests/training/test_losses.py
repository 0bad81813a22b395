"""`training_step` returns losses of its examples, or says what its scalar is."""

from __future__ import annotations

import pytest
import torch

from dplit.errors import ConfigurationError, DplitError, PrivacyError
from dplit.training.losses import losses_per_example

LOSSES = torch.tensor([1.0, 2.0, 6.0])


def test_losses_of_examples_are_taken_as_they_are() -> None:
    assert losses_per_example(LOSSES, 3, None) is LOSSES
    assert losses_per_example(LOSSES[:1], 1, "mean") is not None


@pytest.mark.parametrize(("reduction", "scalar"), [("mean", LOSSES.mean()), ("sum", LOSSES.sum())])
def test_a_declared_scalar_stands_for_the_sum(reduction: str, scalar: torch.Tensor) -> None:
    assert losses_per_example(scalar, 3, reduction) == LOSSES.sum()


@pytest.mark.parametrize(
    ("loss", "says", "kind"),
    [
        (None, "returned NoneType", PrivacyError),
        (1.5, "returned float", PrivacyError),
        (LOSSES.mean(), "say what the scalar is", ConfigurationError),
        (LOSSES[:2], r"shape \(2,\) for 3 examples", ConfigurationError),
        (LOSSES[:, None], r"shape \(3, 1\)", ConfigurationError),
        (LOSSES[None], r"shape \(1, 3\)", ConfigurationError),
    ],
)
def test_everything_else_is_refused_in_one_line(loss: object, says: str, kind: type[DplitError]) -> None:
    with pytest.raises(kind, match=says) as refused:
        losses_per_example(loss, 3, None)
    assert "\n" not in str(refused.value)
