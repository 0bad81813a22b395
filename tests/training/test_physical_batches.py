"""A draw goes through the model in physical batches: nothing is lost, nothing is counted twice, whatever the cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor, nn
from torch.utils.data import default_collate

from dplit.clipping import ClippingPolicy, Flat, GroupThresholds
from dplit.protocols import UnitSamples
from dplit.sampling.draws import Draw, PhysicalCollate
from dplit.training.physical_batches import PhysicalBatches, StepArguments
from tests.lightning import Data, Linear
from tests.training.test_step import EXPECTED, SILENT, make

CPU = torch.device("cpu")
GIVEN = StepArguments()
GROUPS = ["a", "b", "c"]


class Watched(Linear):
    """Keeps the sizes of what it sees, and counts transfers."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.transfers = 0

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        self.sizes.append(len(batch["x"]))
        return super().losses(batch)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.transfers += 1
        return batch


def draw_of(samples: list[Any], most: int) -> Draw:
    return PhysicalCollate(default_collate, most, 0.25, 64)(samples)


def taken(
    module: Linear, samples: list[Any], most: int, policy: ClippingPolicy | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    """Mean loss and sum of clipped gradients of a draw."""
    step = make(module, policy or Flat(), SILENT)
    step.begin()
    batches = PhysicalBatches(module, Precision(), CPU, **options)
    loss = batches.add(draw_of(samples, most), step, GIVEN)
    step.release()
    return loss, torch.cat([p.grad.flatten() for p in module.parameters()])


def linear(cls: type[Linear] = Linear) -> Linear:
    torch.manual_seed(5)
    return cls()


SAMPLES = [Data()[i] for i in range(13)]


THRESHOLDS = {"a": 1.0, "b": 0.1, "c": 0.01}


def by_group() -> GroupThresholds:
    policy = GroupThresholds(THRESHOLDS)
    policy.declare(GROUPS)
    return policy


def clipped_one_by_one(thresholds: list[float]) -> tuple[Tensor, Tensor]:
    """Mean loss and sum of clipped gradients by ordinary autograd."""
    module, total, losses = linear(), torch.zeros(21), []
    for sample, threshold in zip(SAMPLES, thresholds, strict=True):
        (loss,) = module.losses(default_collate([sample]))
        flat = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))])
        total += flat * min(1.0, threshold / float(flat.norm()))
        losses.append(loss.detach())
    return torch.stack(losses).mean(), total


def law_the_cut_changes_nothing(most: int, backend: str, make_policy: Callable[[], ClippingPolicy]) -> None:
    policy = make_policy()
    loss, gradient = taken(linear(), SAMPLES, most, policy, grads=backend, group="group", groups=GROUPS)
    of_group = list(THRESHOLDS.values()) if policy.needs_groups else [1.0] * 3
    expected_loss, expected = clipped_one_by_one([of_group[int(sample["group"])] for sample in SAMPLES])
    assert torch.allclose(loss, expected_loss, atol=1e-6)
    assert torch.allclose(gradient * EXPECTED, expected, atol=1e-6)


@pytest.mark.parametrize("make_policy", [Flat, by_group])
@pytest.mark.parametrize(("most", "backend"), [(1, "tape"), (4, "tape"), (13, "tape"), (4, "vmap"), (1, "loop")])
def test_the_cut_changes_nothing(most: int, backend: str, make_policy: Callable[[], ClippingPolicy]) -> None:
    law_the_cut_changes_nothing(most, backend, make_policy)


def test_runs_of_a_physical_batch_get_their_own_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.func builds gradients, so that a physical batch may go through it in several runs."""
    monkeypatch.setattr("dplit.grads.factors.base.MAX_INSTANTIATED", 2 * 21)
    law_the_cut_changes_nothing(13, "vmap", by_group)


def test_mutant_that_gives_all_examples_one_group_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = PhysicalBatches.group_ids
    monkeypatch.setattr(PhysicalBatches, "group_ids", lambda self, batch: torch.zeros_like(honest(self, batch)))
    with pytest.raises(AssertionError):
        law_the_cut_changes_nothing(4, "tape", by_group)


def test_each_physical_batch_is_moved_once_and_no_larger_than_asked() -> None:
    module = linear(Watched)
    taken(module, SAMPLES, 4)
    assert module.sizes == [4, 4, 4, 4, 1], "a path that is not known runs a second time, with every operation followed"
    assert module.transfers == 4


class Rewriting(Linear):
    """Scales its batch in place of its entry."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        batch["x"] = batch["x"] * 10
        return self.losses(batch)


def law_each_run_of_a_step_sees_the_batch_as_it_was() -> None:
    """The first step runs again with every operation followed."""
    _, gradient = taken(linear(Rewriting), SAMPLES, 13)
    scaled = [{**sample, "x": sample["x"] * 10} for sample in SAMPLES]
    _, expected = taken(linear(), scaled, 13)
    assert torch.allclose(gradient, expected, atol=1e-6)


def test_each_run_of_a_step_sees_the_batch_as_it_was() -> None:
    law_each_run_of_a_step_sees_the_batch_as_it_was()


def test_mutant_that_passes_on_what_a_step_wrote_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dplit.training.physical_batches.in_own_collections", lambda batch: batch)
    with pytest.raises(AssertionError):
        law_each_run_of_a_step_sees_the_batch_as_it_was()


def test_an_empty_draw_has_no_loss_and_no_gradient() -> None:
    loss, gradient = taken(linear(), [], 4)
    assert loss == 0
    assert float(gradient.abs().max()) < 1e-6


@pytest.mark.parametrize("most", [2, 3, 100])
def test_units_weigh_as_one_and_a_large_one_goes_in_pieces(most: int) -> None:
    """A unit's gradient is the mean of its rows', clipped once, also where it has more rows than go through at one time."""
    sizes = [1, 5, 2]
    rows = iter(SAMPLES)
    units = [UnitSamples([next(rows) for _ in range(size)]) for size in sizes]
    loss, gradient = taken(linear(), units, most, Flat(0.1))
    module, expected, losses = linear(), torch.zeros(21), []
    for unit in units:
        values = module.losses(default_collate(list(unit)))
        losses.append(values.mean())
        grads = torch.autograd.grad(values.mean(), list(module.parameters()))
        flat = torch.cat([g.flatten() for g in grads])
        expected += flat * min(1.0, 0.1 / float(flat.norm()))
    assert torch.allclose(loss, torch.stack(losses).mean(), atol=1e-6)
    assert torch.allclose(gradient * EXPECTED, expected, atol=1e-6)


def test_a_copy_is_run_in_place_of_the_module() -> None:
    module, copied = linear(Watched), linear(Watched)
    batches = PhysicalBatches(module, Precision(), CPU).on(copied)
    (part,) = draw_of(SAMPLES, 100).parts
    list(batches.gradients(part.batch, part.rows, GIVEN))
    assert module.sizes == []
    assert copied.sizes == [13]


def test_arguments_reach_training_step() -> None:
    class Asks(Linear):
        def training_step(self, batch: Any, batch_idx: int, extra: int = 0) -> Tensor:
            self.seen = batch_idx, extra
            return self.losses(batch)

    module = Asks()
    (part,) = draw_of(SAMPLES, 100).parts
    batches = PhysicalBatches(module, Precision(), CPU)
    list(batches.gradients(part.batch, part.rows, StepArguments((7,), {"extra": 3})))
    assert module.seen == (7, 3)
    assert isinstance(module.net, nn.Linear)


class Forgetful(GroupThresholds):
    """Has caps, and forgets to say that it reads groups."""

    needs_groups = False


@pytest.mark.parametrize("backend", ["tape", "vmap"])
def test_groups_are_read_where_caps_are_stated(backend: str) -> None:
    policies = [make_policy(THRESHOLDS) for make_policy in (GroupThresholds, Forgetful)]
    for policy in policies:
        policy.declare(GROUPS)
    said, forgot = (taken(linear(), SAMPLES, 4, p, grads=backend, group="group", groups=GROUPS)[1] for p in policies)
    assert torch.allclose(said, forgot, atol=1e-7)
