"""The private step: promises 1 (order), 5 (coverage), 8, 9, 10, 12, 14."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dplit.clipping import ClippingPolicy, Flat, GroupQuantile, Quantile
from dplit.clipping.policy import Query
from dplit.errors import BudgetExhausted, ConfigurationError, PrivacyError
from dplit.grads import Tape
from dplit.noise.gaussian import GaussianNoise, GaussianReleaseNoise
from dplit.noise.keys import KeyedGenerators
from dplit.privacy import Ledger
from dplit.training import step as step_module
from dplit.training.reduce import OneDevice
from dplit.training.step import PrivateStep
from tests.clipping.laws import GROUPS, instances
from tests.noise.laws import law_normal

EXPECTED = 10.0
every_instance = pytest.mark.parametrize("make_policy", instances(prepared=False))


class Zero(nn.Module):
    """Every gradient is zero, so what is released is noise alone."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.add_module("0", nn.Linear(1000, 1000, dtype=dtype))
        self.idle = nn.Parameter(torch.zeros(300, dtype=dtype))
        self.frozen = nn.Parameter(torch.zeros(3, dtype=dtype), requires_grad=False)

    @property
    def big(self) -> nn.Module:
        return self.get_submodule("0")

    def forward(self, x: Tensor) -> Tensor:
        return (self.big(x) * 0).sum(1, keepdim=True)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def make(module: nn.Module, policy: ClippingPolicy, sigma: float = 1.0, **options: Any) -> PrivateStep:
    if not policy.groups:
        policy.declare(GROUPS)
    ledger = options.pop("ledger", None) or Ledger()
    return PrivateStep(
        module, policy, noise_multiplier=sigma, rate=0.1, expected_batch_size=EXPECTED, ledger=ledger, **options
    )


def add(step: PrivateStep, x: Tensor, group: Tensor | None = None) -> None:
    with Tape(step.module, len(x)) as tape:
        losses = step.module(x).square().flatten(1).sum(1)
    step.accumulate(tape.backward(losses), torch.zeros(len(x), dtype=torch.int64) if group is None else group)


def released(step: PrivateStep) -> Tensor:
    """The noisy sum: `.grad` times the divisor."""
    step.release()
    grads = [p.grad for p in step.module.parameters() if p.requires_grad]
    return torch.cat([g.flatten() for g in grads if g is not None]).double() * EXPECTED


SILENT = 1e-12
"""A noise multiplier so small that the sum can be read."""


def summed(x: Tensor, group: Tensor | None = None, policy: ClippingPolicy | None = None, chunk: int = 100) -> Tensor:
    step = make(net(), policy or Flat(0.3), SILENT)
    for i in range(0, len(x), chunk):
        add(step, x[i : i + chunk], None if group is None else group[i : i + chunk])
    return released(step)


# -- the noise covers everything, with the stated deviation -----------------------------------------------------


def law_covered(policy: ClippingPolicy, dtype: torch.dtype) -> None:
    module = Zero(dtype)
    step = make(module, policy, sigma=1.7)
    add(step, torch.zeros(3, 1000, dtype=dtype))
    std = 1.7 * policy.bound
    step.release()
    for name, parameter in module.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    for parameter in (module.big.weight, module.idle):
        assert parameter.grad.dtype == dtype
        rounding = 0 if dtype != torch.bfloat16 else 1e-3 * torch.randn(parameter.shape)
        law_normal((parameter.grad.double() * EXPECTED + rounding).flatten(), std)


@every_instance
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_noise_covers_every_trainable_parameter(make_policy: Any, dtype: torch.dtype) -> None:
    law_covered(make_policy(), dtype)


def test_mutant_skipped_parameter_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = step_module.trainable_parameters
    monkeypatch.setattr(
        step_module, "trainable_parameters", lambda m: {k: p for k, p in honest(m).items() if k != "idle"}
    )
    with pytest.raises(AssertionError):
        law_covered(Flat(), torch.float32)


@pytest.mark.parametrize("wrong", [0.99, 1 / EXPECTED])
def test_mutant_noise_scale_is_caught(monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    honest = GaussianReleaseNoise.add
    monkeypatch.setattr(GaussianReleaseNoise, "add", lambda self, sums, std, by: honest(self, sums, wrong * std, by))
    with pytest.raises(AssertionError):
        law_covered(Flat(), torch.float32)


# -- charge first ------------------------------------------------------------------------------------------------


class Watched(GaussianNoise):
    """Notes how many records the ledger held when the generator was keyed."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        self.seen: list[int] = []

    def release(self, number: int) -> GaussianReleaseNoise:
        source = self

        class WatchedGenerators(KeyedGenerators):
            def generator(self, release: int, device: Any = "cpu", piece: int = 0) -> torch.Generator:
                source.seen.append(source.ledger.steps)
                return super().generator(release, device, piece)

        return GaussianReleaseNoise(WatchedGenerators(), number)


def law_charged_first() -> None:
    ledger = Ledger()
    noise = Watched(ledger)
    step = make(net(), Flat(), ledger=ledger, noise=noise)
    for _ in range(3):
        add(step, torch.randn(2, 4).double())
        step.release()
    assert noise.seen == [1, 2, 3]


def test_the_ledger_is_charged_before_noise_is_drawn() -> None:
    law_charged_first()


def test_a_ledger_that_cannot_write_stops_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    step = make(net(), Flat())
    monkeypatch.setattr(step.ledger, "begin", lambda *a, **k: lambda: (_ for _ in ()).throw(OSError("disk full")))
    add(step, torch.randn(2, 4).double())
    with pytest.raises(OSError, match="disk full"):
        step.release()
    assert all(p.grad is None for p in step.module.parameters())


def test_mutant_record_after_the_noise_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, begin = PrivateStep.release, Ledger.begin

    def late(self: PrivateStep) -> None:
        honest(self)
        begin(self.ledger, self.event)()

    monkeypatch.setattr(Ledger, "begin", lambda self, *a, **k: lambda: None)
    monkeypatch.setattr(PrivateStep, "release", late)
    with pytest.raises(AssertionError):
        law_charged_first()


def test_an_exhausted_budget_releases_and_charges_nothing() -> None:
    step = make(net(), Flat(), releases=1)
    step.release()
    for p in step.module.parameters():
        p.grad = None
    with pytest.raises(BudgetExhausted):
        step.release()
    assert step.ledger.steps == 1
    assert all(p.grad is None for p in step.module.parameters())


def test_an_interrupted_draw_leaves_nothing_behind() -> None:
    """What was added before an exception must not reach the next release, which is charged for one draw."""
    torch.manual_seed(0)
    x = torch.randn(3, 4).double()
    step = make(net(), Flat(0.3), SILENT)
    add(step, 5 * x)
    step.begin()
    add(step, x)
    assert torch.allclose(released(step), summed(x), atol=1e-9)
    assert step.ledger.steps == 2


def law_a_failed_release_leaves_no_sums() -> None:
    """What was half noised must not be noised and divided once more by a second call."""
    step = make(net(), Flat(0.3), SILENT)
    add(step, torch.randn(2, 4).double())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeyedGenerators, "generator", lambda *a, **k: (_ for _ in ()).throw(OSError("no entropy")))
        with pytest.raises(OSError, match="no entropy"):
            step.release()
    assert all(p.grad is None for p in step.module.parameters())
    assert float(released(step).abs().max()) < 1e-9


def test_a_failed_release_leaves_no_sums() -> None:
    law_a_failed_release_leaves_no_sums()


def test_mutant_sums_kept_over_a_failure_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OneDevice, "_take", lambda self, name, p: self._sums[name])
    with pytest.raises(AssertionError):
        law_a_failed_release_leaves_no_sums()


def test_sums_of_any_layout_and_type_become_gradients() -> None:
    """A transposed sum, an expanded one, one wider than its parameter."""
    module = nn.ParameterDict(
        {"a": torch.zeros(3, 4), "b": torch.zeros(5), "c": torch.zeros(2), "none": torch.zeros(0)}
    )
    step = make(module, Flat(), SILENT)
    step.reduction._sums = {
        "a": torch.arange(12.0).view(4, 3).T,
        "b": torch.ones(1).expand(5),
        "c": torch.ones(2, dtype=torch.float64),
    }
    expected = {name: total.float() / EXPECTED for name, total in step.reduction._sums.items()}
    step.release()
    for name, total in expected.items():
        assert torch.allclose(module[name].grad, total, atol=1e-6)
        assert module[name].grad.dtype == torch.float32
    assert module["none"].grad.shape == (0,)


# -- empty draws -------------------------------------------------------------------------------------------------


def law_empty(policy: ClippingPolicy) -> None:
    step = make(Zero(), policy)
    step.release()
    assert step.ledger.steps == 1
    assert step.module.idle.grad.std() > 0.05 * policy.bound / EXPECTED
    assert math.isfinite(policy.bound)


@every_instance
def test_an_empty_draw_is_an_ordinary_step(make_policy: Any) -> None:
    law_empty(make_policy())


def test_mutant_skipped_empty_draw_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = PrivateStep.release
    monkeypatch.setattr(PrivateStep, "release", lambda self: honest(self) if self.reduction._sums else None)
    with pytest.raises(AssertionError):
        law_empty(Flat())


# -- bad examples ------------------------------------------------------------------------------------------------

BAD = [math.nan, math.inf, -math.inf, 1e30, 3e38]


def law_bad_contributes_nothing(policy_of: Any, bad: float) -> None:
    """In float32, so that 1e30 overflows a squared norm."""
    torch.manual_seed(1)
    good = torch.randn(5, 4)
    poisoned = torch.cat([good[:2], torch.full((1, 4), bad), good[2:]])
    group = torch.tensor([0, 1, 2, 0, 1])
    poisoned_group = torch.tensor([0, 1, 2, 2, 0, 1])
    sums = []
    for x, ids in ((good, group), (poisoned, poisoned_group)):
        module = net().float()
        step = make(module, policy_of(), SILENT)
        add(step, x, ids)
        sums.append(released(step))
    assert torch.all(sums[1].isfinite())
    assert torch.equal(sums[0], sums[1]) or torch.allclose(sums[0], sums[1], rtol=1e-5, atol=1e-7)


@every_instance
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_example_contributes_nothing(make_policy: Any, bad: float) -> None:
    law_bad_contributes_nothing(make_policy, bad)


def test_mutant_minimum_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flat, "weights", lambda self, norms, group: (self.threshold / norms).clamp(max=1))
    monkeypatch.setattr("dplit.training.step.bounded", lambda weights, *rest: weights)
    monkeypatch.setattr("dplit.grads.per_example._nonzero", lambda weights: None)
    with pytest.raises(AssertionError):
        law_bad_contributes_nothing(Flat, math.nan)


# -- neighbours --------------------------------------------------------------------------------------------------

rows = st.lists(st.tuples(st.floats(-1e3, 1e3), st.sampled_from([0.0, 1e-20, 1e-3, 1.0, 1e4])), min_size=1, max_size=6)


def law_neighbours(policy_of: Any, scales: list[tuple[float, float]], group_of_added: int) -> None:
    generator = torch.Generator().manual_seed(len(scales))
    x = torch.stack([(a + torch.randn(4, generator=generator).double()) * b for a, b in scales])
    group = torch.arange(len(x)) % len(GROUPS)
    group[-1] = group_of_added
    policy = policy_of()
    bound, cap = policy.bound, (policy.caps or {}).get(GROUPS[group_of_added], 1.0)
    moved = summed(x, group, policy_of()) - summed(x[:-1], group[:-1], policy_of())
    assert float(moved.norm()) <= bound * cap * (1 + 1e-5) + 1e-9


@every_instance
@settings(max_examples=25, deadline=None, derandomize=True)
@given(scales=rows, group=st.integers(0, len(GROUPS) - 1))
def test_neighbours_differ_by_at_most_the_bound(make_policy: Any, scales: Any, group: int) -> None:
    law_neighbours(make_policy, scales, group)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(scales=rows)
def test_the_step_holds_the_bound_against_any_policy(scales: Any) -> None:
    class Liar(Flat):
        def weights(self, norms: Tensor, group: Tensor) -> Tensor:
            return torch.full_like(norms, 7.0)

    law_neighbours(lambda: Liar(0.5), scales, 0)


def test_mutant_weights_outside_the_bound_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flat, "weights", lambda self, norms, group: torch.ones_like(norms))
    monkeypatch.setattr("dplit.training.step.bounded", lambda weights, *rest: weights)
    with pytest.raises(AssertionError):
        law_neighbours(Flat, [(1.0, 1.0), (100.0, 1.0)], 0)


# -- physical batches, one query -----------------------------------------------------------------------------------


def law_physical_batches_change_nothing(chunk: int) -> None:
    torch.manual_seed(2)
    x, group = torch.randn(13, 4).double(), torch.arange(13) % 3
    whole, parts = summed(x, group), summed(x, group, chunk=chunk)
    assert torch.allclose(whole, parts, rtol=1e-9, atol=1e-10)
    policy = GroupQuantile.example(GROUPS)
    policy_whole = GroupQuantile.example(GROUPS)
    asked = []
    for one, size in ((policy, chunk), (policy_whole, 100)):
        step = make(net(), one, SILENT)
        for i in range(0, 13, size):
            add(step, x[i : i + size], group[i : i + size])
        asked.append(step._statistic.clone())
        step.release()
        assert step.ledger.steps == 1
    assert torch.equal(*asked)


@pytest.mark.parametrize("chunk", [1, 2, 7, 13])
def test_physical_batches_change_nothing(chunk: int) -> None:
    law_physical_batches_change_nothing(chunk)


def test_mutant_record_per_chunk_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = PrivateStep.accumulate

    def charging(self: PrivateStep, gradients: Any, group: Any = None) -> None:
        self.ledger.record(self.event)
        honest(self, gradients, group)

    monkeypatch.setattr(PrivateStep, "accumulate", charging)
    with pytest.raises(AssertionError):
        law_physical_batches_change_nothing(2)


# -- the divisor -------------------------------------------------------------------------------------------------


def law_public_divisor() -> None:
    """Neighbours that share a record's gradient get the same share of it."""
    module, x = net(), torch.randn(1, 4).double()
    grads = []
    for repeats in (1, 4):
        step = make(module, Flat(1e3), SILENT)
        for _ in range(repeats):
            add(step, x)
        step.release()
        grads.append(torch.cat([p.grad.flatten() for p in module.parameters()]))
    assert torch.allclose(4 * grads[0], grads[1], rtol=1e-6, atol=1e-9)


def test_the_divisor_is_a_constant() -> None:
    law_public_divisor()


def test_mutant_realised_batch_size_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = PrivateStep.accumulate

    def counting(self: PrivateStep, gradients: Any, group: Any = None) -> None:
        self._seen = getattr(self, "_seen", 0) + gradients.examples
        self.expected_batch_size = self._seen
        honest(self, gradients, group)

    monkeypatch.setattr(PrivateStep, "accumulate", counting)
    with pytest.raises(AssertionError):
        law_public_divisor()


def test_the_policy_hears_noise_only(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []
    policy = GroupQuantile.example(GROUPS)
    monkeypatch.setattr(policy, "tell", heard.append)
    step = make(net(), policy)
    add(step, torch.randn(6, 4).double(), torch.arange(6) % 3)
    step.release()
    assert heard[0].shape == (3, 2)
    assert torch.all(heard[0] != heard[0].round())


@pytest.mark.parametrize(
    "options", [{"noise_multiplier": 0.0}, {"expected_batch_size": 0.0}, {"noise_multiplier": math.nan}]
)
def test_no_noise_is_refused(options: dict[str, float]) -> None:
    given = {"noise_multiplier": 1.0, "rate": 0.1, "expected_batch_size": 1.0, **options}
    with pytest.raises(ConfigurationError):
        PrivateStep(net(), Flat(), ledger=Ledger(), **given)


# -- what a policy says of itself is held to ---------------------------------------------------------------------


class Forgetful(ClippingPolicy):
    """States caps, and forgets to say that it reads groups."""

    bound = 1.0

    def __init__(self, ratios: dict[str, float] | None = None) -> None:
        self.ratios = dict(zip(GROUPS, (1.0, 0.1, 0.5), strict=False)) if ratios is None else ratios

    @property
    def caps(self) -> dict[str, float]:
        return self.ratios

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        return torch.full_like(norms, 1e6)


def law_caps_hold(group: int, scale: float) -> None:
    policy = Forgetful()
    cap = list(policy.ratios.values())[group]
    x = torch.full((1, 4), scale, dtype=torch.float64)
    moved = summed(x, torch.tensor([group]), policy)
    assert float(moved.norm()) <= cap * (1 + 1e-5)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(group=st.integers(0, len(GROUPS) - 1), scale=st.floats(1e-3, 1e3))
def test_a_cap_is_held_whatever_the_policy_forgot(group: int, scale: float) -> None:
    law_caps_hold(group, scale)


def test_mutant_that_reads_groups_only_when_the_policy_says_so_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrivateStep, "reads_groups", property(lambda step: step.policy.needs_groups))
    monkeypatch.setattr(
        PrivateStep,
        "_checked_ids",
        lambda step, group, n: group if step.reads_groups else torch.zeros(n, dtype=torch.int64),
    )
    with pytest.raises(AssertionError):
        law_caps_hold(1, 10.0)


def test_caps_without_group_ids_are_refused() -> None:
    step = make(net(), Forgetful(), SILENT)
    with Tape(step.module, 2) as tape:
        losses = step.module(torch.randn(2, 4).double()).sum(1)
    with pytest.raises(ConfigurationError, match="treats groups differently, but no group ids were given"):
        step.accumulate(tape.backward(losses))


@pytest.mark.parametrize("group", [-1, len(GROUPS)])
def test_a_group_that_is_not_declared_is_refused(group: int) -> None:
    with pytest.raises(ConfigurationError, match="outside the 3 declared groups"):
        summed(torch.randn(2, 4).double(), torch.tensor([0, group]), Forgetful())


class Peeking(Flat):
    """Moves its bound to the largest norm it sees, without a query."""

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        self.threshold = float(norms.max())
        return super().weights(norms, group)


class Swaying(Quantile):
    """States a sensitivity that depends on the examples."""

    def ask(self, norms: Tensor, group: Tensor) -> Query:
        return Query(norms.double().sum(), sensitivity=float(norms.sum()) + 1)


class SwayingByGroup(Quantile):
    """States a smaller sensitivity where a group is absent."""

    def ask(self, norms: Tensor, group: Tensor) -> Query:
        return Query(norms.double().sum(), sensitivity=2.0 if bool((group == 1).any()) else 1.0)


@pytest.mark.parametrize(
    ("policy", "named"),
    [(Peeking(1.0), "changed its bound"), (Swaying(), "sensitivity"), (SwayingByGroup(), "sensitivity of 2")],
    ids=lambda value: type(value).__name__,
)
def test_what_a_policy_says_of_itself_may_not_depend_on_the_examples(policy: ClippingPolicy, named: str) -> None:
    with pytest.raises(PrivacyError, match=named):
        summed(torch.randn(3, 4).double(), torch.tensor([0, 1, 2]), policy)
