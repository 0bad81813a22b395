"""The ten ways to be silently non-private: for each, code broken on purpose and the law that notices.

`WAYS` names the mutants that live beside their laws; those without a room of their own are here.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import dplit
from dplit.clipping import Flat, GroupQuantile, GroupThresholds, Quantile
from dplit.errors import DplitError, PrivacyError
from dplit.grads import Tape
from dplit.grads.factors.base import DenseGrad
from dplit.grads.ownership.proof import Proof
from dplit.grads.per_example import PerExample
from dplit.noise.gaussian import GaussianReleaseNoise
from dplit.training.outlets.figures import Figures
from dplit.training.reduce import OneDevice
from dplit.training.step import PrivateStep
from tests.clipping.laws import (
    GROUPS,
    instances,
    law_bound_ignores_the_batch,
    law_hostile_answers,
    ones,
    ready,
    tensors,
)
from tests.lightning import SIZE, Data, Linear, fit
from tests.training.test_step import SILENT, add, law_empty, make, net, released

WAYS = {
    1: ["tests.test_ten_ways.test_mutant_bound_of_the_groups_present", "tests.test_ten_ways.test_mutant_mean_bound"],
    2: ["tests.test_ten_ways.test_mutant_raw_answer", "tests.test_ten_ways.test_mutant_threshold_moved_by_asking"],
    3: [
        "tests.clipping.test_charges.test_mutant_separate_charges_are_caught",
        "tests.clipping.test_policy.test_mutant_query_left_out_of_the_charge_is_caught",
    ],
    4: [
        "tests.training.test_step.test_mutant_realised_batch_size_is_caught",
        "tests.test_ten_ways.test_mutant_without_the_probe",
    ],
    5: [
        "tests.clipping.test_policy.test_mutant_scaling_after_the_clip_without_its_bound_is_caught",
        "tests.test_ten_ways.test_mutant_clipped_mean_of_a_physical_batch",
    ],
    6: [
        "tests.sampling.test_poisson.test_mutant_shuffled_batches_are_caught",
        "tests.sampling.test_poisson.test_mutant_fixed_sizes_are_caught",
        "tests.sampling.test_poisson.test_mutant_one_rate_for_all_is_caught",
        "tests.training.checks.test_trainer.test_mutant_without_the_check_at_fit_start_is_caught",
        "tests.test_ten_ways.test_mutant_a_draw_fewer",
    ],
    7: [
        "tests.training.test_step.test_mutant_skipped_empty_draw_is_caught",
        "tests.training.test_step.test_mutant_record_per_chunk_is_caught",
        "tests.test_ten_ways.test_mutant_draw_without_a_group_skipped",
    ],
    8: [
        "tests.data.test_adult.test_mutant_standardised_on_the_rows",
        "tests.data.test_adult.test_mutant_categories_taken_from_the_rows",
    ],
    9: [
        "tests.test_ten_ways.test_mutant_unlisted_figure",
        "tests.fairness.monitor.test_release.test_mutant_exact_counts_published",
        "tests.fairness.monitor.test_monitor.test_mutant_watchers_unseen",
    ],
    10: [
        "tests.training.test_step.test_mutant_skipped_parameter_is_caught",
        "tests.training.strategies.test_single_device.test_mutant_default_generator_is_caught",
        "tests.training.strategies.test_single_device.test_mutant_ledger_left_out_is_caught",
        "tests.privacy.accountants.test_prv.test_mutant_estimate_instead_of_upper",
        "tests.test_ten_ways.test_mutant_noise_in_half_precision",
    ],
}


@pytest.mark.parametrize("way", range(1, 11))
def test_every_way_has_a_mutant(way: int) -> None:
    for path in WAYS[way]:
        module, _, name = path.rpartition(".")
        assert callable(getattr(import_module(module), name))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# -- 1: the noise base ----------------------------------------------------------------------------------------------


def law_noise_covers_any_group(policy_of: Any) -> None:
    """The released noise is the same whichever groups a draw has."""
    stds = []
    for present in range(3):
        step = make(net(), policy_of())
        spread: list[float] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(GaussianReleaseNoise, "add", lambda self, sums, std, divisor, into=spread: into.append(std))
            add(step, torch.randn(4, 4).double(), torch.full((4,), present))
            step.release()
        stds += spread
    assert len(set(stds)) == 1
    assert stds[0] >= policy_of().bound


@pytest.mark.parametrize("make_policy", instances(prepared=False))
def test_the_noise_covers_any_group(make_policy: Any) -> None:
    law_noise_covers_any_group(make_policy)


def test_mutant_bound_of_the_groups_present(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = GroupThresholds.weights

    def weights(self: GroupThresholds, norms: Tensor, group: Tensor) -> Tensor:
        self._present = [self.groups[k] for k in group.unique()]
        return honest(self, norms, group)

    present = property(lambda self: max(self.thresholds[g] for g in getattr(self, "_present", self.groups)))
    monkeypatch.setattr(GroupThresholds, "weights", weights)
    monkeypatch.setattr(GroupThresholds, "bound", present)
    with pytest.raises(AssertionError):
        law_bound_ignores_the_batch(GroupThresholds.example(GROUPS))


def test_mutant_mean_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    mean = property(lambda self: sum(self.thresholds.values()) / len(self.thresholds))
    monkeypatch.setattr(GroupThresholds, "bound", mean)
    with pytest.raises(AssertionError):
        law_bound_ignores_the_batch(GroupThresholds.example(GROUPS))


@pytest.mark.parametrize("values", [[float("nan")], [-1e30]])
def test_mutant_bound_that_turns_negative_or_nan(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    def tell(self: Quantile, answer: Tensor) -> None:
        self._bound = self._bound * (1 - self.learning_rate * (self.quantile - float(answer)))

    monkeypatch.setattr(Quantile, "tell", tell)
    with pytest.raises((AssertionError, DplitError)):
        law_hostile_answers(ready(Quantile()), values)


# -- 2: statistics that were not noised -----------------------------------------------------------------------------


def law_hears_noise_only(make_policy: Any) -> None:
    heard: list[Tensor] = []
    policy = make_policy()
    step = make(net(), policy)
    if policy.queries:
        policy.tell = heard.append
        x, group = torch.randn(6, 4).double(), torch.arange(6) % 3
        add(step, x, group)
        exact = step._statistic.clone()
        step.release()
        assert heard[0].shape == exact.shape
        assert torch.all(heard[0] != exact)


@pytest.mark.parametrize("make_policy", instances(prepared=False))
def test_policies_hear_noisy_answers_only(make_policy: Any) -> None:
    law_hears_noise_only(make_policy)


def test_mutant_raw_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GaussianReleaseNoise, "like", lambda self, tensor, std: torch.zeros_like(tensor))
    with pytest.raises(AssertionError):
        law_hears_noise_only(lambda: GroupQuantile.example(GROUPS))


def law_asking_moves_nothing(policy: Any) -> None:
    before = policy.bound
    for size in (1e-3, 1e9):
        policy.ask(*tensors(policy, [ones(size, 0)] * 20))
        policy.weights(*tensors(policy, [ones(size, 0)] * 20))
    assert policy.bound == before


def test_mutant_threshold_moved_by_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Quantile.ask

    def ask(self: Quantile, norms: Tensor, group: Tensor) -> Any:
        self._bound = float(norms.median()) if len(norms) else self._bound
        return honest(self, norms, group)

    monkeypatch.setattr(Quantile, "ask", ask)
    with pytest.raises(AssertionError):
        law_asking_moves_nothing(ready(Quantile()))


# -- 4: coupling through the batch ------------------------------------------------------------------------------------


class GroupMeans(Linear):
    """Each example's loss over its group's mean loss in the batch."""

    def losses(self, batch: Any) -> Tensor:
        plain = super().losses(batch)
        means = torch.stack(
            [plain[batch["group"] == k].mean() if (batch["group"] == k).any() else plain.sum() for k in range(3)]
        )
        return plain * means[batch["group"]]


def law_coupling_is_refused() -> None:
    strategy = dplit.DPStrategy()
    try:
        fit(GroupMeans(), strategy)
    except PrivacyError:
        assert strategy.ledger.steps <= 1
        return
    raise AssertionError("examples that depend on one another were trained on")


def test_group_mean_losses_are_refused() -> None:
    law_coupling_is_refused()


def test_mutant_without_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    for look in ("examine", "examine_in_company"):
        monkeypatch.setattr(f"dplit.training.probing.{look}", lambda *a, **k: True)
    monkeypatch.setattr("dplit.training.private_fit.certify", lambda *a, **k: None)
    monkeypatch.setattr(Proof, "_is_known", lambda self, path: True)
    with pytest.raises(AssertionError):
        law_coupling_is_refused()


# -- 5: what is clipped -----------------------------------------------------------------------------------------------


def law_opposite_records_are_bounded_one_by_one() -> None:
    """Gradients −3 and 100, bound 1: the second record may move the sum by 1, not from −1 to 1."""
    sums = []
    for x in (torch.tensor([[-3.0]]), torch.tensor([[-3.0], [100.0]])):
        step = make(torch.nn.Linear(1, 1, bias=False), Flat(1.0), SILENT)
        with Tape(step.module, len(x)) as tape:
            losses = step.module(x)[:, 0]
        step.accumulate(tape.backward(losses))
        sums.append(released(step))
    assert float((sums[1] - sums[0]).norm()) <= 1 + 1e-5


def test_opposite_records_are_bounded_one_by_one() -> None:
    law_opposite_records_are_bounded_one_by_one()


def test_mutant_clipped_mean_of_a_physical_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = PrivateStep.accumulate

    def as_one(self: PrivateStep, gradients: PerExample, group: Any = None) -> None:
        whole = gradients.weighted_sum(torch.ones(gradients.examples))
        honest(self, PerExample(gradients.parameters, {k: [DenseGrad(g[None])] for k, g in whole.items()}, 1))

    monkeypatch.setattr(PrivateStep, "accumulate", as_one)
    with pytest.raises(AssertionError):
        law_opposite_records_are_bounded_one_by_one()


# -- 6: draws -----------------------------------------------------------------------------------------------------------


def law_draws_as_planned(size: int, batch: int) -> None:
    strategy = dplit.DPStrategy()
    run = fit(Linear(), strategy, DataLoader(Data(size), batch_size=batch), max_epochs=2)
    assert run.global_step == strategy.ledger.steps == 2 * -(-size // batch)
    (event,) = strategy.ledger.entries["train"]
    assert event.rate == batch / size


@pytest.mark.parametrize(("size", "batch"), [(93, 1), (186, 2), (SIZE, 16), (SIZE, 15)])
def test_draws_as_planned(size: int, batch: int) -> None:
    law_draws_as_planned(size, batch)


def test_mutant_a_draw_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """`int(1/(1/n))`: 1/(1/93) is a little under 93."""
    from dplit.sampling.poisson import PoissonBatches

    honest = PoissonBatches.__init__

    def shorter(self: Any, size: int, rate: float, draws: int, *rest: Any, **named: Any) -> None:
        honest(self, size, rate, int(1 / rate), *rest, **named)

    monkeypatch.setattr(PoissonBatches, "__init__", shorter)
    with pytest.raises(AssertionError):
        law_draws_as_planned(93, 1)


# -- 7: draws without a group -------------------------------------------------------------------------------------------


def test_mutant_draw_without_a_group_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = PrivateStep.release

    def complete(self: PrivateStep) -> None:
        if self._statistic is not None and bool((self._statistic.sum(1) > 0).all()):
            honest(self)

    monkeypatch.setattr(PrivateStep, "release", complete)
    with pytest.raises(AssertionError):
        law_empty(GroupQuantile.example(GROUPS))


# -- 9: what leaves -------------------------------------------------------------------------------------------------------


class Logging(Linear):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        losses = self.losses(batch)
        self.log("private/loss", losses.detach().mean(), on_epoch=True, batch_size=len(losses))
        return losses


def law_everything_logged_is_listed() -> None:
    fit(Logging(), dplit.DPStrategy())
    listed = " ".join(json.loads(Path("privacy.json").read_text())["released_without_charge"])
    assert "private/loss" in listed


def test_everything_logged_is_listed() -> None:
    law_everything_logged_is_listed()


def test_mutant_unlisted_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figures, "released", lambda self, trainer: set())
    with pytest.raises(AssertionError):
        law_everything_logged_is_listed()


# -- 10: noise in a narrow type -------------------------------------------------------------------------------------------


def law_noise_is_drawn_wide() -> None:
    """bfloat16 has 256 values in an octave: noise drawn in it repeats itself, noise drawn wide and rounded once does not."""
    seen: list[torch.dtype] = []
    honest = GaussianReleaseNoise.add

    def watching(self: GaussianReleaseNoise, sums: Any, std: float, divisor: float) -> None:
        seen.extend(one.dtype for one in sums)
        honest(self, sums, std, divisor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GaussianReleaseNoise, "add", watching)
        step = make(net().bfloat16(), Flat())
        step.release()
    assert set(seen) == {torch.float32}


def test_noise_is_drawn_in_float32_for_narrow_parameters() -> None:
    law_noise_is_drawn_wide()


def test_mutant_noise_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OneDevice, "_take", lambda self, name, p: torch.zeros(p.shape, dtype=p.dtype))
    monkeypatch.setattr(GaussianReleaseNoise, "_serve", lambda self, queue, std, divisor: list(queue))
    with pytest.raises(AssertionError):
        law_noise_is_drawn_wide()
