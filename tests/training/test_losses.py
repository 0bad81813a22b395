"""What `training_step` returns becomes a loss for each example, or is refused in one line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dplit.errors import ConfigurationError, PrivacyError
from dplit.training.losses import StepLosses

Body = Callable[[Tensor, Tensor], object]


def taken(body: Body, n: int = 4, losses: StepLosses | None = None) -> Tensor:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 3, generator=g), torch.randint(3, (n,), generator=g)
    losses = losses or StepLosses()
    with losses.following(n) as scalars:
        output = body(x, y)
    return losses.of(output, n, scalars)


HONEST: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "cross entropy": ("mean", lambda x, y: F.cross_entropy(x, y)),
    "sum of cross entropies": ("sum", lambda x, y: F.cross_entropy(x, y, reduction="sum")),
    "mean": ("mean", lambda x, y: x.square().mean()),
    "scaled": ("mean", lambda x, y: 0.5 * x.square().mean()),
    "two terms": ("mean", lambda x, y: F.cross_entropy(x, y) + 0.1 * x.abs().mean()),
    "sum over n": ("mean", lambda x, y: x.square().sum() / len(x)),
}


@pytest.mark.parametrize("n", [1, 2, 4, 7])
@pytest.mark.parametrize("name", sorted(HONEST))
def test_a_plain_scalar_is_taken_apart_into_the_losses_of_each_alone(name: str, n: int) -> None:
    kind, body = HONEST[name]
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 3, generator=g), torch.randint(3, (n,), generator=g)
    found = taken(body, n)
    alone = torch.stack([body(x[i : i + 1], y[i : i + 1]) for i in range(n)])
    torch.testing.assert_close(found, alone)
    torch.testing.assert_close(found.mean() if kind == "mean" else found.sum(), body(x, y))


def test_losses_of_each_example_pass_as_they_are() -> None:
    assert taken(lambda x, y: F.cross_entropy(x, y, reduction="none")).shape == (4,)
    assert taken(lambda x, y: {"loss": x.sum(1)}).shape == (4,)


REFUSED: dict[str, tuple[type[Exception], str, Body]] = {
    "no tensor": (PrivacyError, "NoneType", lambda x, y: None),
    "another shape": (ConfigurationError, r"shape \(3,\)", lambda x, y: x.sum(0)),
    "a root of a mean": (ConfigurationError, "sqrt", lambda x, y: x.square().mean().sqrt()),
    "a product of means": (ConfigurationError, "multiplied", lambda x, y: x.mean() * x.square().mean()),
    "a weighted mean": (
        ConfigurationError,
        "weights of the classes",
        lambda x, y: F.cross_entropy(x, y, weight=torch.tensor([1.0, 2, 3])),
    ),
    "the largest": (ConfigurationError, "not seen", lambda x, y: x.max()),
    "a mean and a sum": (ConfigurationError, "use one reduction", lambda x, y: x.mean() + x.sum()),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_no_plain_mean_or_sum_is_refused(name: str) -> None:
    error, why, body = REFUSED[name]
    with pytest.raises(error, match=why):
        taken(body)


def test_a_reduction_that_was_declared_is_checked() -> None:
    assert taken(lambda x, y: x.mean(), losses=StepLosses("mean")).shape == (4,)
    with pytest.raises(ConfigurationError, match="leave loss_reduction out"):
        taken(lambda x, y: x.mean(), losses=StepLosses("sum"))


def test_a_scalar_after_losses_per_example_is_refused() -> None:
    losses = StepLosses()
    taken(lambda x, y: x.sum(1), losses=losses)
    with pytest.raises(ConfigurationError, match="per example before"):
        taken(lambda x, y: x.mean(), losses=losses)
