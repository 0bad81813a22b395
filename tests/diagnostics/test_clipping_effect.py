"""Norms, clipping, contributions and directions by group equal those of a loop over the records."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dplit.clipping import Automatic, Flat, GroupQuantile, GroupRates
from dplit.clipping.catalogue import policies
from dplit.clipping.policy import ClippingPolicy, clip
from dplit.diagnostics import clipping_effect, sample
from dplit.diagnostics.clipping_effect import Tally
from tests.diagnostics.project import (
    GROUPS,
    Net,
    angle,
    batch_of,
    expected_of,
    fit,
    flat,
    indices_of,
    oracle,
    public,
    rows,
    same,
    tallied,
)
from tests.oracle import loop_gradients


def law_equals_a_loop(**strategy: Any) -> None:
    """Norms, clipping, contributions and directions, absent group and all, at the policy's present thresholds."""
    policy, module = GroupQuantile(quantile=0.4, start=0.7, noise_multiplier=0.1), Net()
    fit(public(), policy, module, strategy=strategy)
    assert len(set(policy.bounds.values())) > 1
    outcomes = ("accuracy", "loss")
    found = {k: v for k, v in rows().items() if k[0] == "train" and k[2] not in outcomes}
    same(found, oracle(module, policy, indices_of()))


@pytest.mark.parametrize("strategy", [{}, {"physical_batch_size": 64}, {"grads": "vmap"}, {"grads": "loop"}])
def test_figures_equal_a_loop(strategy: dict[str, Any]) -> None:
    law_equals_a_loop(**strategy)


added = Tally.add
weighed = clipping_effect.weigh


def _spread(self: Any, gradients: Any, group: Tensor) -> None:
    added(self, gradients, torch.zeros_like(group))


def _unclipped(*given: Any) -> Any:
    found = weighed(*given)
    return found._replace(weights=torch.ones_like(found.weights))


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        (Tally, "add", _spread),
        (clipping_effect, "weigh", _unclipped),
        (
            clipping_effect,
            "directions",
            lambda g, c, t: {"direction_cosine": 1.0, "direction_error": 0.0, "steering_cosine": 1.0},
        ),
        (sample, "SEED", 1),
    ],
    ids=["groups mixed", "nothing clipped", "no direction", "another sample"],
)
def test_mutant_figures(where: Any, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(where, name, broken)
    with pytest.raises(AssertionError):
        law_equals_a_loop()


class PerPart(ClippingPolicy):
    """Each parameter's part to 0.9; a stand-in for policies that weigh parameter by parameter."""

    per_parameter = True
    bound = 1.8

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        assert norms.dim() == 2
        return clip(norms, 0.9)


def law_per_parameter() -> None:
    """Each parameter's part is weighed by its own norm; a record is clipped if one of its parts is."""
    module, batch = Net().eval(), batch_of()
    found = tallied(PerPart(), batch, module)
    parts = loop_gradients(module, lambda i: module.losses({k: v[i : i + 1] for k, v in batch.items()}), 24)
    norms = {name: g.double().flatten(1).norm(dim=1) for name, g in parts.items()}
    kept = {
        name: g.double() * (0.9 / norms[name]).clamp(max=1.0).view(-1, *[1] * (g.dim() - 1))
        for name, g in parts.items()
    }
    over = torch.stack([n > 0.9 for n in norms.values()]).any(0)
    assert 0 < over.double().mean() < 1
    grads, clipped = flat(parts), flat(kept)
    for k, name in enumerate(GROUPS):
        mine = batch["group"] == k
        expected = expected_of(grads[mine], clipped[mine], over[mine], clipped.sum(0))
        same({m: v for (g, m), v in found.items() if g == name}, expected)


def test_policies_by_parameter() -> None:
    law_per_parameter()


def test_mutant_parameters_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    given = clipping_effect._weighted_sum
    monkeypatch.setattr(clipping_effect, "_weighted_sum", lambda gradients, weights: given(gradients, weights.flip(0)))
    with pytest.raises(AssertionError):
        law_per_parameter()


def test_a_policy_that_scales_everything_clips_everyone() -> None:
    assert tallied(Automatic.example(GROUPS), batch_of(), Net().eval())["a", "clipped"] == 1.0


def law_rates_steer() -> None:
    """A group that is drawn twice as often counts twice in the sum that others are led by."""
    module, batch = Net().eval(), batch_of()
    found = tallied(GroupRates({"a": 1.0, "b": 2.0, "c": 0.5, "absent": 4.0}, 0.5), batch, module)
    grads = flat(loop_gradients(module, lambda i: module.losses({k: v[i : i + 1] for k, v in batch.items()}), 24))
    rates = torch.tensor([1.0, 2.0, 0.5])[batch["group"]].double()
    total = (grads * (rates * (0.5 / grads.norm(dim=1)).clamp(max=1.0))[:, None]).sum(0)
    for k, name in enumerate(GROUPS[:3]):
        led = angle(total, grads[batch["group"] == k].mean(0))
        assert abs(found[name, "steering_cosine"] - led) < 1e-5
    assert abs(found["", "direction_cosine"] - angle(total, grads.mean(0))) < 1e-5


def test_rates_by_group_steer() -> None:
    law_rates_steer()


def test_mutant_all_drawn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GroupRates, "rates", lambda self, rate: None)
    with pytest.raises(AssertionError):
        law_rates_steer()


@pytest.mark.parametrize("kind", policies(), ids=lambda kind: kind.__name__)
def test_every_policy_can_be_measured(kind: type[ClippingPolicy]) -> None:
    for policy in kind.examples(GROUPS):
        module = Net().eval()
        policy.prepare([name for name, _ in module.net.named_parameters()], 24.0)
        before = copy.deepcopy((policy.state_dict(), policy.bound))
        found = tallied(policy, batch_of(), module)
        assert (policy.state_dict(), policy.bound) == before
        assert all(math.isfinite(value) for (group, _), value in found.items() if group != "absent")
        assert found["", "contribution"] <= policy.bound * (1 + 1e-5)


def test_a_gradient_that_is_not_finite_is_counted_and_left_out() -> None:
    batch, module = batch_of(), Net().eval()
    whole = {k: v[3:] for k, v in batch.items()}
    clean = tallied(Flat(0.5), whole, module)
    batch["x"][:3] = torch.tensor([math.nan, math.inf, 1e38])[:, None]
    found = tallied(Flat(0.5), batch, module)
    assert found["a", "not_finite"] == pytest.approx(1 / 8)
    assert found["", "contribution"] == pytest.approx(clean["", "contribution"] * 21 / 24)
    for metric in ("norm_mean", "norm_q3", "direction_cosine", "steering_cosine"):
        assert found["", metric] == pytest.approx(clean["", metric], rel=1e-5)


def test_directions_of_nothing_and_of_opposites() -> None:
    one, zero = {"w": torch.tensor([3.0, 4.0])}, {"w": torch.zeros(2)}
    back = {"w": -one["w"]}
    assert clipping_effect.directions(one, back, one) == {
        "direction_cosine": -1.0,
        "direction_error": 1.0,
        "steering_cosine": 1.0,
    }
    assert clipping_effect.directions(one, zero, zero)["direction_error"] == 1.0
    assert all(math.isnan(value) for value in clipping_effect.directions(zero, zero, zero).values())
