"""The corpus against the engine: couplings that a step's operations or reads show are refused, honest steps pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from dplit.errors import CoupledExamples, DplitError, UnsupportedOperation
from dplit.grads.ownership.harmless import Harmless
from dplit.grads.ownership.ownership import Ownership
from dplit.grads.ownership.proof import Proof
from dplit.grads.tape.path import Path
from dplit.grads.types import Batch
from dplit.training.losses import StepLosses
from dplit.training.memory.device_memory import Allocations
from tests.grads.ownership.corpus import Step, corpus
from tests.grads.ownership.corpus.base import Net, each, vectors
from tests.grads.ownership.oracle import seeded

OUTSIDE = "number of examples"
"""Of this kind, only Python's own arithmetic mixes: no operation has another example's number among its arguments."""

COUPLINGS = [s for s in corpus() if s.mixes and not s.later and s.kind != OUTSIDE]
HONEST = [s for s in corpus() if not s.mixes]

REFUSED = {
    "experts by boolean index": "rows are written to places of which those of a second index are not followed",
    "experts by a stable sort and back": "rows are written back to places in an order that all decide, after a read of counts",
    "packed rows, sorted and put back": "the order of packed rows is decided by all lengths, and the packing has no rule",
    "packed rows, sorted by hand": "the order of packed rows is decided by all lengths, and the packing has no rule",
    "packed tokens with a mask between examples": "attention among all tokens is cut apart by a mask, whose values no rule reads",
    "mean by einsum": "a scalar that no mean or sum made",
    "CTC with lengths, mean": "a scalar that no mean or sum made",
    "Gaussian likelihood, mean": "a function of torch reads whether all variances are positive",
    "Switch transformer, whose capacity is each row's own": "rows are written to places that several examples decide",
    "Longformer classifier": "rows are written to places of tokens with global attention, padded to the most of any example",
    "ViT masked autoencoder's own loss": "a mean over masked patches, whose number is the same for all, which no rule knows",
    "divergence by vmap of jacrev": "tensors within a vmap have no memory to follow",
    "mean and a penalty of the weights": "a penalty of weights that have n rows is taken for a sum over examples without a tape",
    "sum and a penalty of the weights": "a term that belongs to no example would be in each of the losses",
    "vmap": "tensors within a vmap have no memory to follow",
}
"""Honest steps that do not pass, and why."""


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_default_dtype(torch.float32)


def losses_of(step: Step, module: torch.nn.Module) -> Callable[[Batch, int], Tensor]:
    taken = StepLosses()

    def losses(batch: Batch, n: int) -> Tensor:
        with taken.following(n) as scalars:
            value = step.losses(module, batch, n)
        return taken.of(value, n, scalars)

    return losses


def verdict(step: Step, n: int, seed: int, way: str) -> Exception | None:
    """What a proof says of a step on a batch: how it refuses, or None."""
    seeded(0)
    module = step.make()
    batch = step.batch(n, torch.Generator().manual_seed(seed))
    seeded(1)
    try:
        getattr(Proof(), way)(module, losses_of(step, module), batch, n)
    except (DplitError, NotImplementedError) as error:
        return error
    return None


BATCHES = ((4, 0), (3, 1), (8, 2))


def first_refusal(step: Step, way: str) -> Exception | None:
    return next((e for n, seed in BATCHES if (e := verdict(step, n, seed, way)) is not None), None)


@pytest.mark.parametrize(
    "step", [pytest.param(s, marks=[pytest.mark.slow] * (s.kind == "transformers"), id=s.name) for s in COUPLINGS]
)
def test_a_coupling_is_refused_by_a_message_that_names_a_line(step: Step) -> None:
    refusal = first_refusal(step, "record")
    assert isinstance(refusal, DplitError), "not seen on any batch"
    named = ".py:" in str(refusal) or "scalar" in str(refusal) or "rows were moved" in str(refusal)
    assert isinstance(refusal, UnsupportedOperation) or named


@pytest.mark.parametrize(
    "step", [pytest.param(s, marks=[pytest.mark.slow] * (s.kind == "transformers"), id=s.name) for s in HONEST]
)
def test_an_honest_step_passes_or_is_on_the_list(step: Step) -> None:
    refusals = [verdict(step, n, seed, "check_losses") for n, seed in BATCHES[:2]]
    if step.name not in REFUSED:
        assert refusals == [None, None]


def test_the_list_of_honest_steps_that_do_not_pass_is_short() -> None:
    assert len(REFUSED) <= 15
    assert set(REFUSED) <= {s.name for s in HONEST}


# -- paths -----------------------------------------------------------------------------------------------------------------


def recorded(proof: Proof, losses: Callable[[Net, Batch, int], Tensor], n: int = 4, seed: int = 0) -> None:
    seeded(0)
    module = Net()
    batch = vectors(n, torch.Generator().manual_seed(seed))
    proof.record(module, lambda b, k: losses(module, b, k), batch, n)


def honest(m: Net, b: Batch, n: int) -> Tensor:
    return each(m(b["x"]), b["y"])


def centred(m: Net, b: Batch, n: int) -> Tensor:
    return each(m(b["x"] - b["x"].mean(0)), b["y"])


def test_a_path_is_certified_once() -> None:
    proof = Proof()
    for seed in range(3):
        recorded(proof, honest, seed=seed)
    assert proof.paths == 1


def law_a_mode_around_a_step_changes_no_path() -> None:
    """What counts memory, say, works on what backward calls, too, and looks at tensors."""
    proof = Proof()
    recorded(proof, honest)
    with Allocations(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "certify", lambda *step: pytest.fail("the path is taken for a new one"))
        recorded(proof, honest)


def test_a_mode_around_a_step_changes_no_path() -> None:
    law_a_mode_around_a_step_changes_no_path()


def test_mutant_a_tape_that_takes_the_calls_of_a_mode_for_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)
    with pytest.raises(pytest.fail.Exception):
        law_a_mode_around_a_step_changes_no_path()


def test_another_path_is_certified_anew() -> None:
    proof = Proof()
    recorded(proof, honest)
    with pytest.raises(CoupledExamples, match="mean at"):
        recorded(proof, centred)


def test_mutant_a_path_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "digest", property(lambda self: 0, lambda self, value: None), raising=False)
    proof = Proof()
    recorded(proof, honest)
    with pytest.raises(pytest.fail.Exception), pytest.raises(CoupledExamples):
        recorded(proof, centred)


def test_one_example_alone_needs_no_proof() -> None:
    proof = Proof()
    recorded(proof, centred, n=1)
    assert proof.paths == 0


# -- reads -----------------------------------------------------------------------------------------------------------------


def guarded(m: Net, b: Batch, n: int) -> Tensor:
    if b["x"].isnan().any():
        raise ValueError("not a number")
    return honest(m, b, n)


def halved(m: Net, b: Batch, n: int) -> Tensor:
    h = m.layer(b["x"])
    while h.norm() > 20:
        h = h / 2
    return each(m.head(h), b["y"])


def reseeded(m: Net, b: Batch, n: int) -> Tensor:
    torch.manual_seed(int(b["x"].sum().abs() * 1000))
    return honest(m, b, n) * torch.rand(n)


def test_a_check_that_only_raises_passes() -> None:
    proof = Proof(harmless=Harmless())
    recorded(proof, guarded)
    assert proof.harmless.met


@pytest.mark.parametrize("losses", [halved, reseeded])
def test_a_read_from_which_losses_follow_is_refused(losses: Callable[[Net, Batch, int], Tensor]) -> None:
    """Also where a loop never ends with another answer, and where only what is drawn later follows."""
    with pytest.raises(DplitError, match=r"test_proof\.py:\d+"):
        recorded(Proof(), losses)


def test_a_step_that_runs_on_with_another_answer_is_stopped() -> None:
    with Ownership(2) as followed:
        torch.ones(2) + 1
    assert followed.most_in_trials == 2 * followed.operations + 100
