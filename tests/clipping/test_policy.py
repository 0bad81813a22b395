"""What every clipping policy passes by being there (promises 9, 10, 19)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from dplit.clipping import ClippingPolicy, Flat, GlobalAdaptive, GroupQuantile, GroupRates, PerLayer, Quantile
from dplit.clipping import policy as policy_module
from dplit.clipping.catalogue import described
from dplit.errors import ConfigurationError
from dplit.training.charge import Charge
from tests.clipping.laws import (
    GROUPS,
    PARAMETERS,
    answered,
    answers,
    every_instance,
    every_policy,
    law_alone,
    law_bound_ignores_the_batch,
    law_bounded,
    law_hostile_answers,
    ones,
    ready,
    rows,
    tensors,
)

Make = Callable[[], ClippingPolicy]


@every_instance
@settings(max_examples=40, deadline=None, derandomize=True)
@given(records=rows, values=answers)
def test_bounded_whatever_the_norms_and_answers(make: Make, records, values) -> None:
    policy = answered(make(), values)
    law_bounded(policy, records)


@every_instance
@settings(max_examples=20, deadline=None, derandomize=True)
@given(values=answers)
def test_hostile_answers(make: Make, values) -> None:
    law_hostile_answers(make(), values)


@every_instance
@settings(max_examples=30, deadline=None, derandomize=True)
@given(records=rows, values=answers)
def test_each_record_on_its_own(make: Make, records, values) -> None:
    law_alone(make(), records)
    law_alone(answered(make(), values), records)


@every_instance
def test_no_records_are_as_good_as_any(make: Make) -> None:
    policy = make()
    assert policy.weights(*tensors(policy, [])).shape == tensors(policy, [])[0].shape
    query = policy.ask(*tensors(policy, []))
    assert (query is None) == (policy.queries == ())
    if query is not None:
        full = policy.ask(*tensors(policy, [ones(1.0, 0), ones(2.0, 2)]))
        assert full.value.shape == query.value.shape
        assert query.value.abs().sum() == 0


@every_instance
def test_parts_of_a_query_add_up(make: Make) -> None:
    policy = make()
    records = [ones(0.1 * i, i % 3) for i in range(12)]
    if policy.queries:
        parts = [policy.ask(*tensors(policy, records[i : i + 5])).value for i in range(0, 12, 5)]
        assert torch.equal(sum(parts[1:], parts[0]), policy.ask(*tensors(policy, records)).value)


@every_instance
def test_the_bound_covers_absent_groups(make: Make) -> None:
    law_bound_ignores_the_batch(make())


def law_charge(policy: ClippingPolicy) -> None:
    """Every query, cap and rate is in the event, jointly with the gradient of the draw."""
    event, rates = Charge.of(policy, 0.8, 0.01).event(), policy.rates(0.01) or {}
    queries = sum(1 / q**2 for q in policy.queries)
    assert event.rate == max(rates.values(), default=0.01)
    assert event.noise_multiplier == pytest.approx((1 / 0.8**2 + queries) ** -0.5, rel=1e-9)
    assert set(event.groups) == set(policy.caps or {})
    for name, cap in (policy.caps or {}).items():
        assert event.for_group(name).noise_multiplier == pytest.approx(((cap / 0.8) ** 2 + queries) ** -0.5, rel=1e-9)
        assert event.for_group(name).rate == rates.get(name, 0.01)


@every_instance
def test_the_charge_has_every_query_cap_and_rate(make: Make) -> None:
    law_charge(make())


@every_instance
def test_weights_do_not_move_without_an_answer(make: Make) -> None:
    """What a policy has seen, but was not told, leaves no trace (way 2)."""
    policy, fresh = make(), make()
    for size in (1e-3, 5.0, 1e9):
        policy.weights(*tensors(policy, [ones(size, k % 3) for k in range(50)]))
        policy.ask(*tensors(policy, [ones(size, k % 3) for k in range(50)]))
    records = tensors(policy, [ones(5.0, k) for k in range(3)])
    assert torch.equal(policy.weights(*records), fresh.weights(*records))
    assert policy.bound == fresh.bound


@every_instance
def test_state_survives_a_checkpoint(make: Make) -> None:
    policy, other = answered(make(), [3.0, 50.0, 400.0]), make()
    other.load_state_dict(copy.deepcopy(policy.state_dict()))
    assert other.bound == policy.bound
    records = tensors(policy, [ones(5.0, k) for k in range(3)])
    assert torch.equal(other.weights(*records), policy.weights(*records))


@every_instance
def test_state_survives_when_it_is_read_before_the_fit(make: Make) -> None:
    """Lightning loads a checkpoint before the parameters and the batch size are known."""
    policy = answered(make(), [3.0, 50.0, 400.0])
    other = next(p for p in type(policy).examples(GROUPS) if vars(p).keys() == vars(policy).keys() and _same(p, policy))
    other.load_state_dict(copy.deepcopy(policy.state_dict()))
    records = tensors(policy, [ones(5.0, k) for k in range(3)])
    assert torch.equal(ready(other).weights(*records), policy.weights(*records))


def _everywhere(state: Any, value: float) -> Any:
    if isinstance(state, dict):
        return {name: _everywhere(kept, value) for name, kept in state.items()}
    if isinstance(state, list):
        return [_everywhere(kept, value) for kept in state]
    return value if isinstance(state, int | float) else state


@every_instance
@pytest.mark.parametrize("value", [1e300, 1e-300])
def test_a_checkpoint_leads_no_further_than_answers_do(make: Make, value: float) -> None:
    """Thresholds that were written into a file are held where noisy answers could have led."""
    policy, fresh = answered(make(), [3.0, 50.0, 400.0]), make()
    policy.load_state_dict(_everywhere(policy.state_dict(), value))
    assert fresh.bound / 1e4 < policy.bound < fresh.bound * 1e4


def _same(one: ClippingPolicy, other: ClippingPolicy) -> bool:
    return one.settings() == other.settings()


@every_policy
def test_groups_that_are_needed_must_be_declared(cls: type[ClippingPolicy]) -> None:
    if cls.needs_groups:
        with pytest.raises(ConfigurationError) as caught:
            cls.example([])
        assert "\n" not in str(caught.value)


@every_policy
def test_docstring_states_rule_bound_query_charge_and_source(cls: type[ClippingPolicy]) -> None:
    assert all(described(cls).values())


# -- one clear line before training -----------------------------------------------------------------------------------

REFUSED = {
    "threshold 0": lambda: Flat(0.0),
    "threshold -1": lambda: Flat(-1),
    "threshold of a group": lambda: dc("GroupThresholds", thresholds={"north": 0.0, "east": 1, "south": 1}),
    "no thresholds": lambda: dc("GroupThresholds", thresholds={}),
    "undeclared group": lambda: dc("GroupThresholds", thresholds={"north": 1, "east": 1, "south": 1, "west": 1}),
    "missing group": lambda: dc("GroupThresholds", thresholds={"north": 1}),
    "weights of others": lambda: dc("Reweighted", weights={"west": 1.0}),
    "where": lambda: dc("Reweighted", weights=dict.fromkeys(GROUPS, 1.0), where="beside"),
    "factors of others": lambda: dc("GroupRates", factors={"north": 1.0}),
    "rate over 1": lambda: dc("GroupRates", factors=dict(zip(GROUPS, [1, 1, 9], strict=True))).rates(0.2),
    "cutoff below the bound": lambda: dc("Global", bound=2.0, cutoff=1.0),
    "adaptive cutoff below the bound": lambda: GlobalAdaptive(bound=2.0, cutoff=1.0),
    "cap below the start": lambda: dc("GroupQuantile", caps=dict(zip(GROUPS, [1, 1, 0.5], strict=True))),
    "cap below a start": lambda: dc(
        "GroupAdaptive",
        start=dict(zip(GROUPS, [4.0, 4.0, 3.0], strict=True)),
        caps=dict(zip(GROUPS, [1, 1, 0.5], strict=True)),
    ),
    "cap over 1": lambda: dc("GroupQuantile", caps=dict(zip(GROUPS, [1, 1, 1.5], strict=True))),
    "no cap of 1": lambda: dc("GroupQuantile", start=0.1, caps=dict.fromkeys(GROUPS, 0.5)),
    "caps of others": lambda: dc("GroupQuantile", caps={"west": 1.0}),
    "quantile 1": lambda: Quantile(quantile=1.0),
    "smoothing": lambda: dc("GroupAdaptive", smoothing=1.0),
    "query without noise": lambda: Quantile(noise_multiplier=0.0),
    "blocks and bounds": lambda: PerLayer(blocks=["0"], bounds={"0": 1.0}),
    "no block for 2": lambda: ready(PerLayer(blocks=["0"])),
    "empty block": lambda: ready(PerLayer(blocks=["0", "2", "9"])),
    "block twice": lambda: PerLayer(blocks=["0", "0"]),
    "bound of a block": lambda: PerLayer(bounds={"0": 0.0}),
}


def dc(name: str, **settings) -> ClippingPolicy:
    policy = getattr(policy_module_package(), name)(**settings)
    policy.declare(GROUPS)
    return policy


def policy_module_package():
    import dplit.clipping

    return dplit.clipping


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_settings_get_one_clear_line(case: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        REFUSED[case]()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) > 20


def test_parameters_that_change_during_a_fit_are_refused() -> None:
    policy = ready(PerLayer())
    with pytest.raises(ConfigurationError, match="same ones throughout"):
        policy.weights(torch.ones(len(PARAMETERS) + 1, 2), torch.zeros(2, dtype=torch.int64))


# -- mutants ------------------------------------------------------------------------------------------------------------


def test_mutant_plain_minimum_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """min(1, C/norm) alone leaves NaN weights."""
    monkeypatch.setattr("dplit.clipping.flat.clip", lambda norms, bound: (bound / norms).clamp(max=1.0))
    with pytest.raises(AssertionError):
        law_bounded(Flat(), [ones(float("nan"), 0), ones(1.0, 0)])


def test_mutant_two_cells_per_record_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = GroupQuantile.ask
    monkeypatch.setattr(
        GroupQuantile,
        "ask",
        lambda self, norms, group: policy_module.Query(2 * honest(self, norms, group).value, sensitivity=1.0),
    )
    with pytest.raises(AssertionError):
        law_alone(GroupQuantile.example(GROUPS), [ones(1.0, 0), ones(2.0, 1)])


def test_mutant_sensitivity_of_one_count_for_all_blocks_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    import dplit.clipping.per_layer_adaptive as module

    monkeypatch.setattr(module.math, "sqrt", lambda count: 1.0)
    with pytest.raises(AssertionError):
        law_alone(ready(module.PerLayerAdaptive.example(GROUPS)), [ones(1.0, 0), ones(2.0, 1)])


def test_mutant_each_block_to_the_whole_bound_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = lambda self: torch.full((len(self._blocks.names), 1), self.threshold, dtype=torch.float64)  # noqa: E731
    monkeypatch.setattr(PerLayer, "_thresholds", whole)
    with pytest.raises(AssertionError):
        law_bounded(ready(PerLayer()), [ones(1e3, 0)])


def test_mutant_scaling_after_the_clip_without_its_bound_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """w_g outside the clip, charged as if it were inside (way 5)."""
    policy = policy_module_package().Reweighted.examples(GROUPS)[1]
    monkeypatch.setattr(type(policy), "bound", property(lambda self: self.threshold))
    with pytest.raises(AssertionError):
        law_bounded(policy, [ones(1e3, k) for k in range(3)])


def test_mutant_query_left_out_of_the_charge_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from dplit.training.charge import Charge

    def unasked(cls, policy: ClippingPolicy, noise: float, rate: float) -> Charge:
        return cls(noise, rate, (), tuple((policy.caps or {}).items()))

    monkeypatch.setattr(Charge, "of", classmethod(unasked))
    with pytest.raises(AssertionError):
        law_charge(Quantile.example(GROUPS))


def test_mutant_one_rate_charged_for_all_groups_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from dplit.training.charge import Charge

    def one_rate(cls, policy: ClippingPolicy, noise: float, rate: float) -> Charge:
        return cls(noise, rate, tuple(policy.queries), tuple((policy.caps or {}).items()))

    monkeypatch.setattr(Charge, "of", classmethod(one_rate))
    with pytest.raises(AssertionError):
        law_charge(GroupRates.example(GROUPS))


def test_mutant_threshold_from_the_batch_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def weights(self: GroupQuantile, norms: Tensor, group: Tensor) -> Tensor:
        return policy_module.clip(norms, norms.median())

    monkeypatch.setattr(GroupQuantile, "weights", weights)
    with pytest.raises(AssertionError):
        law_alone(
            GroupQuantile.example(GROUPS), [ones(size, k) for size, k in ((1.0, 0), (2.0, 1), (3.0, 2), (9.0, 1))]
        )
