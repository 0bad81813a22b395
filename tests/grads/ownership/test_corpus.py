"""The corpus says the truth of its steps: numbers alone decide, in float64, whatever engine reads it later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from tests.grads.ownership.corpus import Step, corpus, table
from tests.grads.ownership.corpus.base import CLASSES, Batch, each
from tests.grads.ownership.oracle import EXACT, SEEN, apart, fields, gaps, outcome, seeded

COUPLINGS = [s for s in corpus() if s.mixes]
HONEST = [s for s in corpus() if not s.mixes]
BY_NAME = {s.name: s for s in corpus()}


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def drawn(step: Step, n: int, seed: int = 0) -> Batch:
    return step.batch(n, torch.Generator().manual_seed(seed))


def witnessed(step: Step) -> Iterator[float]:
    """Yield by how much another example changes a loss, for the step's own witness or for batches drawn."""
    if step.witness is not None:
        before, after = step.witness()
        (j,) = differing(before, after)
        yield apart(outcome(step, before), outcome(step, after), j, gradients=False)
        return
    for seed in range(8):
        for n in (4, 3, 8, 2):
            yield from gaps(step, drawn(step, n, seed), seed, tuple(range(n)) if seed else (0, -1))


def most(step: Step, batch: Batch) -> float:
    return max(gaps(step, batch))


def differing(before: Batch, after: Batch) -> list[int]:
    rows = [
        (a != b).flatten(1).any(1) if a.dim() > 1 else a != b
        for a, b in zip(fields(before), fields(after), strict=True)
    ]
    return torch.stack(rows).any(0).nonzero().flatten().tolist()


@pytest.mark.slow
@pytest.mark.parametrize("step", HONEST, ids=lambda s: s.name)
def test_no_other_example_changes_an_honest_loss(step: Step) -> None:
    assert most(step, drawn(step, 3)) <= step.tolerance


@pytest.mark.slow
@pytest.mark.parametrize("step", HONEST, ids=lambda s: s.name)
def test_no_other_example_changes_an_honest_loss_in_larger_batches(step: Step) -> None:
    assert max(most(step, drawn(step, n, seed)) for n in (2, 6, 8) for seed in (1, 2)) <= step.tolerance


@pytest.mark.parametrize("step", COUPLINGS, ids=lambda s: s.name)
def test_some_other_example_changes_a_coupled_loss(step: Step) -> None:
    assert any(found > SEEN for found in witnessed(step)), "no witness among the batches drawn"


class Names(TorchFunctionMode):
    """Note the name of each torch function called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: set[str] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.called.add(resolve_name(func) or str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("step", [s for s in COUPLINGS if s.by], ids=lambda s: s.name)
def test_the_operation_said_to_mix_is_called(step: Step) -> None:
    seeded(0)
    module, batch = step.make(), drawn(step, 4) if step.witness is None else step.witness()[0]
    with Names() as names:
        step.losses(module, batch, len(fields(batch)[0]))
    assert any(step.named(name) for name in names.called), sorted(names.called)


@pytest.mark.parametrize("step", corpus(), ids=lambda s: s.name)
def test_a_step_runs_and_trains_in_both_precisions_whatever_the_number_of_examples(step: Step) -> None:
    for n, dtype in ((2, torch.float64), (5, torch.float32), (9, torch.float32)):
        torch.set_default_dtype(dtype)
        seeded(0)
        module = step.make()
        losses = step.losses(module, drawn(step, n), n)
        assert isinstance(losses, Tensor)
        assert losses.requires_grad


def test_there_are_forty_of_each_and_every_file_is_found() -> None:
    assert min(len(COUPLINGS), len(HONEST)) >= 40
    assert len({s.kind for s in COUPLINGS}) >= 8
    assert f"{len(COUPLINGS):4d}" in table()


def test_mutant_a_coupling_called_honest_is_caught() -> None:
    assert most(BY_NAME["normalisation: mean alone"], drawn(BY_NAME["multi-layer perceptron"], 3)) > EXACT


def test_mutant_an_honest_step_called_a_coupling_is_caught() -> None:
    assert most(BY_NAME["multi-layer perceptron"], drawn(BY_NAME["multi-layer perceptron"], 8)) < SEEN


def test_mutant_one_part_in_a_million_is_caught() -> None:
    def losses(m, b, n):
        own = each(m(b["x"]), b["y"])
        return own + 1e-6 * own.roll(1)

    assert (
        most(replace(BY_NAME["multi-layer perceptron"], losses=losses), drawn(BY_NAME["multi-layer perceptron"], 3))
        > EXACT
    )


def test_mutant_a_gradient_mixed_behind_equal_losses_is_caught() -> None:
    def losses(m, b, n):
        own = each(m(b["x"]), b["y"])
        return own + (own.roll(1) - own.roll(1).detach())

    assert (
        most(replace(BY_NAME["multi-layer perceptron"], losses=losses), drawn(BY_NAME["multi-layer perceptron"], 3))
        > EXACT
    )


def test_mutant_a_weighted_mean_called_a_mean_is_caught() -> None:
    def losses(m, b, n):
        return torch.nn.functional.cross_entropy(m(b["x"]), b["y"], weight=torch.arange(1.0, CLASSES + 1))

    step = replace(BY_NAME["multi-layer perceptron"], losses=losses, reduction="mean")
    assert most(step, drawn(step, 6)) > EXACT
