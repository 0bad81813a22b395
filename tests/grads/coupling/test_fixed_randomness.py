"""Random operations are answered with one quantile of their distribution, the same for every example and batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.grads.coupling.fixed_randomness import FixedRandomness

N, D = 4, 3
X = torch.randn(N, D)

OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "rand": lambda x: torch.rand(len(x), D),
    "rand of a shape": lambda x: torch.rand((len(x), D), dtype=torch.float64),
    "rand by name": lambda x: torch.rand(size=(len(x), D), generator=torch.Generator()),
    "rand_like": torch.rand_like,
    "randn": lambda x: torch.randn(len(x), D),
    "randn_like": torch.randn_like,
    "normal": lambda x: torch.normal(x, 2.0),
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "poisson": lambda x: torch.poisson(x.exp()),
    "multinomial": lambda x: torch.multinomial(x.softmax(-1), 2),
    "randint": lambda x: torch.randint(2, 9, (len(x), D)),
    "randint to": lambda x: torch.randint(high=9, size=(len(x), D)),
    "gumbel_softmax": lambda x: F.gumbel_softmax(x, hard=True),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "uniform_": lambda x: x.clone().uniform_(1, 3),
    "normal_": lambda x: x.clone().normal_(1, 3),
    "exponential_": lambda x: x.clone().exponential_(2.0),
    "bernoulli_": lambda x: x.clone().bernoulli_(0.6),
    "dropout": lambda x: F.dropout(x, 0.5, training=True),
    "feature dropout": lambda x: F.dropout1d(x[:, None], 0.5, training=True),
    "attention": lambda x: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], None, 0.5),
    "multi-head attention": lambda x: nn.MultiheadAttention(D, 1, dropout=0.5, batch_first=True)(
        x[:, None], x[:, None], x[:, None]
    )[1],
}


def law_fixed(name: str, level: float) -> None:
    """Twice the same; and each example the same alone as together with the others."""
    operation = OPERATIONS[name]
    with FixedRandomness(level):
        torch.manual_seed(0)
        together = operation(X)
        again = operation(X) if name != "multi-head attention" else together
        alone = [operation(X[i : i + 1]) for i in range(N)] if name != "multi-head attention" else together[:, None]
    assert torch.equal(together, again)
    assert torch.equal(together, torch.cat(list(alone)).view(together.shape))


@pytest.mark.parametrize("level", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_same_alone_and_together(name: str, level: float) -> None:
    law_fixed(name, level)


@pytest.mark.parametrize(
    ("draw", "quantile"),
    [
        (lambda: torch.rand(1), lambda q: torch.distributions.Uniform(0, 1).icdf(torch.tensor([q]))),
        (lambda: torch.randn(1), lambda q: torch.distributions.Normal(0, 1).icdf(torch.tensor([q]))),
        (
            lambda: torch.empty(1).exponential_(2.0),
            lambda q: torch.distributions.Exponential(2.0).icdf(torch.tensor([q])),
        ),
        (lambda: torch.empty(1).uniform_(1, 3), lambda q: torch.distributions.Uniform(1, 3).icdf(torch.tensor([q]))),
        (lambda: torch.empty(1).normal_(1, 3), lambda q: torch.distributions.Normal(1, 3).icdf(torch.tensor([q]))),
    ],
    ids=["uniform", "normal", "exponential", "uniform_", "normal_"],
)
@pytest.mark.parametrize("level", [0.25, 0.75])
def test_the_answer_is_the_quantile(
    draw: Callable[[], Tensor], quantile: Callable[[float], Tensor], level: float
) -> None:
    with FixedRandomness(level):
        drawn = draw()
    torch.testing.assert_close(drawn, quantile(level))


def test_dropout_keeps_everything() -> None:
    with FixedRandomness():
        assert torch.equal(nn.Dropout(0.9)(X), X)


def test_only_some_operations_are_fixed() -> None:
    with FixedRandomness(only=frozenset({F.rrelu})):
        assert not torch.equal(torch.rand(9), torch.rand(9))
        assert torch.equal(F.rrelu(X, training=True), F.rrelu(X, training=True))


def test_other_operations_stay_as_they_are() -> None:
    with FixedRandomness():
        assert torch.equal(X.exp() + 1, torch.exp(X) + 1)


@pytest.mark.parametrize("name", ["rand", "dropout", "bernoulli_", "gumbel_softmax"])
def test_mutant_that_leaves_randomness_on_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        FixedRandomness,
        "__torch_function__",
        lambda self, func, types, args=(), kwargs=None: func(*args, **(kwargs or {})),
    )
    with pytest.raises(AssertionError):
        law_fixed(name, 0.5)
