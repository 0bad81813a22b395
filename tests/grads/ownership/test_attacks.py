"""Steps that mix examples only where a rare record is there, or later on: each is refused before its gradient is used."""

from __future__ import annotations

import ctypes
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.errors import CoupledExamples, DplitError, PrivacyError
from dplit.grads.ownership.blame import Place
from dplit.grads.ownership.proof import Proof
from dplit.grads.ownership.scalar_losses import NotPlain, Plain, ScalarLosses

N, RARE = 24, 17
Batch = tuple[Tensor, Tensor, Tensor]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head, self.step = nn.Linear(6, 8), nn.Linear(8, 3), 0
        self.scales = [torch.ones(1), -torch.ones(1)]
        self.register_buffer("table", torch.zeros(16, 1))

    def losses(self, batch: Batch, scale: Tensor | float = 1.0, x: Tensor | None = None) -> Tensor:
        hidden = torch.tanh(self.layer(batch[0] if x is None else x)) * scale
        return F.cross_entropy(self.head(hidden), batch[2], reduction="none")


Step = Callable[[Model, Batch], Tensor]
POOL = ThreadPoolExecutor(1)


def batch(rare: bool, n: int = N) -> Batch:
    generator = torch.Generator().manual_seed(1)
    x, ids = torch.randn(n, 6, generator=generator), torch.randint(1, 16, (n, 12), generator=generator)
    if rare:
        ids[-1, :3] = RARE
    return x, ids, torch.randint(0, 3, (n,), generator=generator)


def in_a_thread(model: Model, given: Batch) -> Tensor:
    scale = POOL.submit(lambda: 1 - 2 * (given[1] == RARE).any().float()).result()
    return model.losses(given, scale)


def by_numpy(model: Model, given: Batch) -> Tensor:
    scale = np.array([1 - 2 * (given[1].numpy() == RARE).any()], dtype=np.float32)
    return model.losses(given, torch.from_numpy(scale))


def by_storage(model: Model, given: Batch) -> Tensor:
    return model.losses(given, -1.0 if bytes(given[1].clone().untyped_storage()).count(RARE) == 3 else 1.0)


def by_dlpack(model: Model, given: Batch) -> Tensor:
    ids = torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(given[1]))
    return model.losses(given, 1 - 2 * (ids == RARE).any().float())


def by_a_table_without_other_entries(model: Model, given: Batch) -> Tensor:
    return model.losses(given, {5: 1.0, 8: -1.0}[int((given[1] == RARE).sum() + 5)])


def by_address(model: Model, given: Batch) -> Tensor:
    ids = given[1].contiguous()
    numbers = (ctypes.c_int64 * ids.numel()).from_address(ids.data_ptr())
    return model.losses(given, -1.0 if list(numbers).count(RARE) == 3 else 1.0)


def by_pickle(model: Model, given: Batch) -> Tensor:
    return model.losses(given, 1 - 2 * (pickle.loads(pickle.dumps(given[1])) == RARE).any().float())


def by_file(model: Model, given: Batch) -> Tensor:
    file = io.BytesIO()
    torch.save(given[1], file)
    file.seek(0)
    return model.losses(given, 1 - 2 * (torch.load(file) == RARE).any().float())


def by_text(model: Model, given: Batch) -> Tensor:
    return model.losses(given, -1.0 if "3" in str((given[1] == RARE).sum()) else 1.0)


def by_equality(model: Model, given: Batch) -> Tensor:
    return model.losses(given, -1.0 if int((given[1] == RARE).sum()) == 3 else 1.0)


def by_choice(model: Model, given: Batch) -> Tensor:
    return model.losses(given, model.scales[int((given[1] == RARE).sum()) == 3])


def by_an_array_written_later(model: Model, given: Batch) -> Tensor:
    array = np.ones(1, dtype=np.float32)
    scale = torch.from_numpy(array)
    array[0] = -1.0 if int((given[1] == RARE).sum()) == 3 else 1.0
    return model.losses(given, scale)


def in_backward(model: Model, given: Batch) -> Tensor:
    hidden = torch.tanh(model.layer(given[0]))
    hidden.register_hook(lambda grad: grad * (1 - 2.0 * bool((given[1] == RARE).any())))
    return F.cross_entropy(model.head(hidden), given[2], reduction="none")


def by_number_of_bins(model: Model, given: Batch) -> Tensor:
    return model.losses(given, -1.0 if torch.bincount(given[1].flatten()).shape[0] == RARE + 1 else 1.0)


def by_iteration(model: Model, given: Batch) -> Tensor:
    return model.losses(given, -1.0 if sum(1 for _ in given[1][given[1] == RARE]) == 3 else 1.0)


def by_bytes(model: Model, given: Batch) -> Tensor:
    return model.losses(given, -1.0 if given[1][given[1] == RARE].nbytes == 24 else 1.0)


def by_split(model: Model, given: Batch) -> Tensor:
    first = torch.tensor_split(torch.zeros(20), (given[1] == RARE).sum().reshape(1))[0]
    return model.losses(given, -1.0 if first.shape[0] == 3 else 1.0)


def by_error(model: Model, given: Batch) -> Tensor:
    try:
        looked_up, scale = F.embedding(given[1], model.table), 1.0
    except IndexError:
        looked_up, scale = F.embedding(given[1].clamp(max=15), model.table), -1.0
    return model.losses(given, scale) + 0 * looked_up.sum((1, 2))


@torch.library.custom_op("dplit_tests::flag", mutates_args=())
def flag(ids: Tensor) -> Tensor:
    """Look for a value that an experiment would not try."""
    return 1 - 2 * (ids == RARE).any().float().reshape(1)


def by_an_operation_of_ones_own(model: Model, given: Batch) -> Tensor:
    return model.losses(given, torch.ops.dplit_tests.flag(given[1]))


READING = [
    *(in_a_thread, by_numpy, by_storage, by_dlpack, by_address, by_pickle, by_file, by_text, by_equality, by_choice),
    *(by_an_array_written_later, by_a_table_without_other_entries),
    *(in_backward, by_number_of_bins, by_iteration, by_bytes, by_split, by_error, by_an_operation_of_ones_own),
]


def outcome(step: Step, batches: list[Batch]) -> DplitError | None:
    """Return the refusal of one of several steps of the same fit."""
    model, proof = Model(), Proof()
    try:
        for model.step, given in enumerate(batches):
            proof.record(model, lambda b, n: step(model, b), given, len(given[0]))
    except (CoupledExamples, PrivacyError) as error:
        return error
    return None


@pytest.mark.parametrize("step", READING, ids=lambda step: step.__name__)
def test_what_a_rare_record_decides_is_refused(step: Step) -> None:
    assert outcome(step, [batch(False), batch(True)]) is not None


def test_a_read_that_decides_nothing_passes_also_where_it_reads_something_else() -> None:
    def step(model: Model, given: Batch) -> Tensor:
        assert int((given[1] == RARE).sum()) < 100
        return model.losses(given)

    assert outcome(step, [batch(False), batch(True), batch(False, 9)]) is None


def test_mutant_without_what_python_decided_a_path_that_looks_known_is_let_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Proof, "_is_known", lambda self, path: any(k[0] == path.digest for k in self._known))
    assert outcome(by_equality, [batch(False), batch(True)]) is None


# -- later steps -----------------------------------------------------------------------------------------------------


def another_dimension(model: Model, given: Batch) -> Tensor:
    return model.losses(given, x=given[0].softmax(-1 if model.step == 0 else -2))


def other_places(model: Model, given: Batch) -> Tensor:
    shift = 0 if model.step == 0 else 1
    rows = [given[2][k + shift if 9 <= k < N - 1 else k] for k in range(N)]
    return F.cross_entropy(model.head(torch.tanh(model.layer(given[0]))), torch.stack(rows), reduction="none")


def other_runs(model: Model, given: Batch) -> Tensor:
    y, start = given[2], 10 if model.step == 0 else 12
    y = torch.cat([y[:10], y[start : start + 10], y[20:]])
    return F.cross_entropy(model.head(torch.tanh(model.layer(given[0]))), y, reduction="none")


def another_scale(model: Model, given: Batch) -> Tensor:
    rows = (torch.arange(len(given[0])) * (1.0 if model.step == 0 else 0.5)).long()
    return F.cross_entropy(model.head(torch.tanh(model.layer(given[0]))), given[2][rows], reduction="none")


def another_remainder(model: Model, given: Batch) -> Tensor:
    rows = torch.arange(len(given[0])) % (100 if model.step == 0 else N - 1)
    return F.cross_entropy(model.head(torch.tanh(model.layer(given[0]))), given[2][rows], reduction="none")


LATER = [another_dimension, other_places, other_runs, another_scale, another_remainder]


@pytest.mark.parametrize("step", LATER, ids=lambda step: step.__name__)
def test_a_step_that_mixes_later_is_refused_then(step: Step) -> None:
    assert outcome(step, [batch(False)]) is None, "honest at first"
    assert isinstance(outcome(step, [batch(False)] * 2), CoupledExamples)


def test_a_path_is_known_whatever_the_size_and_the_length() -> None:
    model, proof = Model(), Proof()
    table = nn.Embedding(20, 6)
    model.add_module("tokens", table)

    def losses(given: Batch, n: int) -> Tensor:
        hidden, last = table(given[1]), (given[1] > 8).int().argmax(1)
        return model.losses(given, x=hidden[torch.arange(len(hidden)), last] + hidden[:, : given[1].shape[1]].mean(1))

    for n, length in ((24, 11), (26, 10), (23, 9)):
        x, ids, y = batch(False, n)
        proof.record(model, losses, (x, ids[:, :length], y), n)
    assert proof.paths == 1


# -- what comes before the step, and after it ------------------------------------------------------------------------


def test_transfer_hooks_are_followed() -> None:
    honest, mixing = (lambda b: (b[0] / 2, *b[1:])), (lambda b: (b[0] - b[0].mean(0), *b[1:]))
    assert Proof().transferred(honest, batch(False), N, None)[0].shape == (N, 6)
    with pytest.raises(CoupledExamples, match="after the transfer hooks"):
        Proof().transferred(mixing, batch(False), N, None)


def test_a_divisor_is_the_number_of_examples_or_a_constant_but_not_both() -> None:
    divisors: dict[Place, float | None] = {}

    def seen(n: int, by: float) -> object:
        x = torch.ones(n)
        with ScalarLosses(n, divisors) as scalars:
            loss = x.sum() / by
        return scalars.of(loss)

    first = seen(8, 64)
    assert isinstance(first, Plain)
    assert torch.equal(first.losses, torch.full((8,), 1 / 64))
    at_64 = seen(64, 64)
    assert isinstance(at_64, Plain)
    assert torch.equal(at_64.losses, torch.full((64,), 1 / 64))
    assert isinstance(seen(8, 8), NotPlain)
