"""What every clipping policy passes by being there (promises 9, 10, 19)."""

from __future__ import annotations

import math
from importlib import import_module
from pkgutil import iter_modules

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dplit.clipping
from dplit.clipping import ClippingPolicy, GroupQuantile
from dplit.clipping import group_quantile as group_quantile_module
from dplit.clipping import policy as policy_module
from dplit.errors import ConfigurationError
from dplit.step import charge

GROUPS = ["north", "east", "south"]
BAD = [0.0, 5e-324, 1e-45, 1e-30, 1e-3, 1.0, 7.5, 1e30, 3e38, math.inf, math.nan]


def policies() -> list[type[ClippingPolicy]]:
    for module in iter_modules(dplit.clipping.__path__):
        import_module(f"dplit.clipping.{module.name}")
    found, queue = [], [ClippingPolicy]
    while queue:
        for cls in queue.pop().__subclasses__():
            queue.append(cls)
            if cls.__module__.startswith("dplit.") and not cls.__abstractmethods__:
                found.append(cls)
    return sorted(found, key=lambda cls: cls.__name__)


every_policy = pytest.mark.parametrize("cls", policies(), ids=lambda cls: cls.__name__)
norm = st.one_of(st.sampled_from(BAD), st.floats(0, 1e6, width=32))
batch = st.lists(st.tuples(norm, st.integers(0, len(GROUPS) - 1)), max_size=8)
answers = st.lists(st.sampled_from([-1e30, -5.0, 0.0, 1.0, 300.0, 1e30, math.inf, -math.inf, math.nan]), min_size=1)


def tensors(rows: list[tuple[float, int]], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.tensor([r[0] for r in rows], dtype=dtype), torch.tensor([r[1] for r in rows], dtype=torch.int64)


def contribution(weight: Tensor, norm: Tensor) -> Tensor:
    """What one example can add to the sum: nothing where it is left out."""
    return torch.where(weight == 0, 0.0, weight.double() * norm.double())


def law_bounded(policy: ClippingPolicy, rows: list[tuple[float, int]]) -> None:
    """Every record of every group, present or added: finite weight, contribution within bound and cap."""
    norms, group = tensors(rows)
    weights = policy.weights(norms, group)
    assert weights.shape == norms.shape
    assert torch.all(weights.isfinite())
    assert torch.all(weights >= 0)
    assert torch.all(weights[~norms.isfinite()] == 0)
    caps = policy.caps or dict.fromkeys(GROUPS, 1.0)
    limit = policy.bound * torch.tensor([caps[name] for name in GROUPS], dtype=torch.float64)[group]
    assert torch.all(contribution(weights, norms) <= limit * (1 + 1e-5))


def law_alone(policy: ClippingPolicy, rows: list[tuple[float, int]]) -> None:
    """A record's weight does not depend on the others, and its part of the query is within the sensitivity."""
    norms, group = tensors(rows)
    together = policy.weights(norms, group)
    whole = policy.ask(norms, group)
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if j != i]
        assert torch.equal(together[[i]], policy.weights(norms[[i]], group[[i]]))
        if whole is not None:
            rest = policy.ask(norms[others], group[others])
            moved = (whole.value - rest.value).double().norm()
            assert moved <= whole.sensitivity * (1 + 1e-5)


def answered(policy: ClippingPolicy, values: list[float]) -> ClippingPolicy:
    query = policy.ask(*tensors([]))
    if query is not None:
        for start in range(8):
            flat = [values[(start + k) % len(values)] for k in range(query.value.numel())]
            policy.tell(torch.tensor(flat, dtype=torch.float64).view(query.value.shape))
    return policy


@every_policy
@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=batch, values=answers)
def test_bounded_whatever_the_norms_and_answers(cls: type[ClippingPolicy], rows, values) -> None:
    policy = answered(cls.example(GROUPS), values)
    assert math.isfinite(policy.bound)
    assert policy.bound > 0
    law_bounded(policy, rows)


@every_policy
@settings(max_examples=40, deadline=None, derandomize=True)
@given(rows=batch)
def test_each_record_on_its_own(cls: type[ClippingPolicy], rows) -> None:
    law_alone(cls.example(GROUPS), rows)


@every_policy
def test_no_records_are_as_good_as_any(cls: type[ClippingPolicy]) -> None:
    policy = cls.example(GROUPS)
    assert policy.weights(*tensors([])).shape == (0,)
    query = policy.ask(*tensors([]))
    assert (query is None) == (policy.queries == ())
    if query is not None:
        full = policy.ask(*tensors([(1.0, 0), (2.0, 2)]))
        assert full.value.shape == query.value.shape
        assert query.value.abs().sum() == 0


@every_policy
def test_parts_of_a_query_add_up(cls: type[ClippingPolicy]) -> None:
    policy = cls.example(GROUPS)
    rows = [(0.1 * i, i % 3) for i in range(12)]
    if policy.queries:
        parts = [policy.ask(*tensors(rows[i : i + 5])).value for i in range(0, 12, 5)]
        assert torch.equal(sum(parts[1:], parts[0]), policy.ask(*tensors(rows)).value)


def law_bound_ignores_the_batch(policy: ClippingPolicy) -> None:
    """The noise base is the same whichever groups a batch has, and covers a record of any."""
    bounds = []
    for present in range(len(GROUPS)):
        policy.weights(*tensors([(1.0, present)] * 4))
        policy.ask(*tensors([(1.0, present)] * 4))
        bounds.append(policy.bound)
    assert len(set(bounds)) == 1
    law_bounded(policy, [(1e6, k) for k in range(3)])


@every_policy
def test_the_bound_covers_absent_groups(cls: type[ClippingPolicy]) -> None:
    law_bound_ignores_the_batch(cls.example(GROUPS))


@every_policy
def test_the_charge_has_every_query_and_every_cap(cls: type[ClippingPolicy]) -> None:
    policy = cls.example(GROUPS)
    event = charge(policy, 0.8, 0.01)
    expected = (1 / 0.8**2 + sum(1 / q**2 for q in policy.queries)) ** -0.5
    assert event.noise_multiplier == pytest.approx(expected, rel=1e-9)
    for name, cap in (policy.caps or {}).items():
        own = ((cap / 0.8) ** 2 + sum(1 / q**2 for q in policy.queries)) ** -0.5
        assert event.view(name).noise_multiplier == pytest.approx(own, rel=1e-9)


@every_policy
def test_state_survives_a_checkpoint(cls: type[ClippingPolicy]) -> None:
    policy = answered(cls.example(GROUPS), [3.0, 50.0, 400.0])
    copy = cls.example(GROUPS)
    copy.load_state_dict(policy.state_dict())
    assert copy.bound == policy.bound
    rows = tensors([(5.0, k) for k in range(3)])
    assert torch.equal(copy.weights(*rows), policy.weights(*rows))


@every_policy
def test_groups_that_are_needed_must_be_declared(cls: type[ClippingPolicy]) -> None:
    if cls.needs_groups:
        with pytest.raises(ConfigurationError) as caught:
            cls.example([])
        assert "\n" not in str(caught.value)


@every_policy
def test_docstring_states_bound_query_charge_or_source(cls: type[ClippingPolicy]) -> None:
    assert cls.__doc__
    assert all(word in cls.__doc__ for word in ("Bound:", "Source:"))
    assert "Query:" in cls.__doc__ or "Asks" in cls.__doc__


def test_group_quantile_follows_its_quantile() -> None:
    torch.manual_seed(0)
    policy = GroupQuantile(quantile=0.5, start=1.0)
    policy.declare(GROUPS)
    scale = torch.tensor([0.1, 1.0, 10.0])
    for _ in range(200):
        group = torch.randint(0, 3, (300,))
        norms = scale[group] * torch.rand(300)
        asked = policy.ask(norms, group)
        policy.tell(asked.value.double() + 10 * torch.randn(asked.value.shape, dtype=torch.float64))
    assert [policy.bounds[name] for name in GROUPS] == pytest.approx((scale / 2).tolist(), rel=0.25)


def test_mutant_plain_minimum_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """min(1, C/norm) alone leaves NaN weights."""
    monkeypatch.setattr("dplit.clipping.flat.clip", lambda norms, bound: (bound / norms).clamp(max=1.0))
    with pytest.raises(AssertionError):
        law_bounded(dplit.clipping.Flat(), [(math.nan, 0), (1.0, 0)])


def test_mutant_threshold_from_the_batch_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GroupQuantile, "weights", lambda self, norms, group: policy_module.clip(norms, norms.median()))
    with pytest.raises(AssertionError):
        law_alone(GroupQuantile.example(GROUPS), [(1.0, 0), (2.0, 1), (3.0, 2), (9.0, 1)])


def test_mutant_bound_of_present_groups_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def weights(self: GroupQuantile, norms: Tensor, group: Tensor) -> Tensor:
        self._present = group.unique()
        return policy_module.clip(norms, self._each(norms, group))

    monkeypatch.setattr(GroupQuantile, "weights", weights)
    monkeypatch.setattr(GroupQuantile, "bound", property(lambda self: float(self._bounds[self._present].max())))
    policy = GroupQuantile.example(GROUPS)
    policy.load_state_dict({"bounds": dict(zip(GROUPS, [4.0, 2.0, 1.0], strict=True))})
    with pytest.raises(AssertionError):
        law_bound_ignores_the_batch(policy)


def test_mutant_two_cells_per_record_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(self: GroupQuantile, norms: Tensor, group: Tensor) -> policy_module.Query:
        honest = group_quantile_module.GroupQuantile.__dict__["_asked"](self, norms, group)
        return policy_module.Query(2 * honest.value, honest.sensitivity)

    monkeypatch.setattr(GroupQuantile, "_asked", GroupQuantile.ask, raising=False)
    monkeypatch.setattr(GroupQuantile, "ask", ask)
    with pytest.raises(AssertionError):
        law_alone(GroupQuantile.example(GROUPS), [(1.0, 0), (2.0, 1)])
