"""What every policy must keep, whatever the norms and whatever it was answered."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from dplit.clipping import ClippingPolicy
from dplit.clipping.catalogue import policies

GROUPS = ["north", "east", "south"]
PARAMETERS = ("0.weight", "0.bias", "2")
BAD = [0.0, 5e-324, 1e-45, 1e-30, 1e-3, 1.0, 7.5, 1e30, 3e38, math.inf, math.nan]
HOSTILE = [-1e30, -5.0, 0.0, 1.0, 300.0, 1e30, math.inf, -math.inf, math.nan]

Row = tuple[Sequence[float], int]
"""A record: a norm for each of three parameters, of which other policies read the first, and a group id."""

norm = st.one_of(st.sampled_from(BAD), st.floats(0, 1e6, width=32))
rows = st.lists(st.tuples(st.tuples(norm, norm, norm), st.integers(0, len(GROUPS) - 1)), max_size=8)
answers = st.lists(st.sampled_from(HOSTILE), min_size=1)


def ready(policy: ClippingPolicy) -> ClippingPolicy:
    policy.prepare(PARAMETERS, 100.0)
    return policy


def declared(policy: ClippingPolicy, groups: Sequence[str] = GROUPS) -> ClippingPolicy:
    policy.declare(groups)
    return ready(policy)


def ids(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def instances(prepared: bool = True) -> list[Callable[[], ClippingPolicy]]:
    """Makers of every example of every policy of the package, with names for pytest."""

    def maker(cls: type[ClippingPolicy], i: int) -> Callable[[], ClippingPolicy]:
        return lambda: ready(cls.examples(GROUPS)[i]) if prepared else cls.examples(GROUPS)[i]

    every = [(cls, i) for cls in policies() for i in range(len(cls.examples(GROUPS)))]
    return [pytest.param(maker(cls, i), id=cls.__name__ + (f"-{i}" if i else "")) for cls, i in every]


every_instance = pytest.mark.parametrize("make", instances())
every_policy = pytest.mark.parametrize("cls", policies(), ids=lambda cls: cls.__name__)


def tensors(policy: ClippingPolicy, records: Sequence[Row]) -> tuple[Tensor, Tensor]:
    wide = torch.tensor([list(norms) for norms, _ in records], dtype=torch.float32).view(-1, len(PARAMETERS)).T
    return (wide if policy.per_parameter else wide[0]), torch.tensor([g for _, g in records], dtype=torch.int64)


def ones(size: float, group: int) -> Row:
    return (size, size, size), group


def contribution(weights: Tensor, norms: Tensor) -> Tensor:
    """What each example can add to the sum: nothing where it is left out."""
    parts = torch.where(weights == 0, 0.0, weights.double() * norms.double())
    return parts if parts.dim() == 1 else torch.linalg.vector_norm(parts, dim=0)


def law_bounded(policy: ClippingPolicy, records: Sequence[Row]) -> None:
    """Every record of every group, present or added: finite weights, contribution within bound and cap."""
    assert math.isfinite(policy.bound)
    assert policy.bound > 0
    norms, group = tensors(policy, records)
    weights = policy.weights(norms, group)
    assert weights.shape == norms.shape
    assert torch.all(weights.isfinite())
    assert torch.all(weights >= 0)
    usable = norms.isfinite() if norms.dim() == 1 else norms.isfinite().all(0)
    assert torch.all(weights[..., ~usable] == 0)
    caps = policy.caps or dict.fromkeys(GROUPS, 1.0)
    assert max(caps.values()) <= 1 + 1e-12
    limit = policy.bound * torch.tensor([caps[name] for name in GROUPS], dtype=torch.float64)[group]
    assert torch.all(contribution(weights, norms) <= limit * (1 + 1e-5))


def law_alone(policy: ClippingPolicy, records: Sequence[Row]) -> None:
    """A record's weight does not depend on the others, and its part of the query is within the sensitivity."""
    norms, group = tensors(policy, records)
    together, whole = policy.weights(norms, group), policy.ask(norms, group)
    for i in range(len(records)):
        others = [j for j in range(len(records)) if j != i]
        assert torch.equal(together[..., [i]], policy.weights(norms[..., [i]], group[[i]]))
        if whole is not None:
            rest = policy.ask(norms[..., others], group[others])
            assert rest is not None
            assert (whole.value - rest.value).double().norm() <= whole.sensitivity * (1 + 1e-5)


def law_bound_ignores_the_batch(policy: ClippingPolicy) -> None:
    """The noise base is the same whichever groups a batch has, and covers a record of any."""
    bounds = []
    for present in range(len(GROUPS)):
        policy.weights(*tensors(policy, [ones(1.0, present)] * 4))
        policy.ask(*tensors(policy, [ones(1.0, present)] * 4))
        bounds.append(policy.bound)
    assert len(set(bounds)) == 1
    law_bounded(policy, [ones(1e6, k) for k in range(3)])


def answers_of(policy: ClippingPolicy, values: Sequence[float]) -> Iterator[Tensor]:
    """Eight answers made of these values, none for a policy that asks nothing."""
    query = policy.ask(*tensors(policy, []))
    for start in range(8 if query is not None else 0):
        flat = [values[(start + k) % len(values)] for k in range(query.value.numel())]
        yield torch.tensor(flat, dtype=torch.float64).view(query.value.shape)


def answered(policy: ClippingPolicy, values: Sequence[float]) -> ClippingPolicy:
    """Tell it eight answers made of these values."""
    for answer in answers_of(policy, values):
        policy.tell(answer)
    return policy


def law_hostile_answers(policy: ClippingPolicy, values: Sequence[float]) -> None:
    """Bound and weights are sound after each answer, whatever it was."""
    for answer in answers_of(policy, values):
        policy.tell(answer)
        law_bounded(policy, [ones(size, k) for size in BAD for k in range(len(GROUPS))])
