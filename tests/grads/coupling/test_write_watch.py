"""A write to what stays is refused before it happens, by whatever function, and reading is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.errors import CoupledExamples, PrivacyError
from dplit.grads.coupling import write_watch
from dplit.grads.coupling.lasting_state import LastingState
from dplit.grads.coupling.write_watch import WriteWatch


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4))
        self.frozen = nn.Parameter(torch.ones(3, 4), requires_grad=False)
        self.register_buffer("buffer", torch.ones(3, 4))
        self.plain = torch.ones(3, 4)
        self.inside = [torch.ones(3, 4)]


WRITES: dict[str, Callable[[Tensor], Any]] = {
    "add_": lambda t: t.detach().add_(1),
    "data lerp_": lambda t: t.data.lerp_(torch.zeros(3, 4), 0.5),
    "data of a view": lambda t: t.detach()[1].data.fill_(0),
    "data item": lambda t: t.data.__setitem__(0, 0.0),
    "assigned data": lambda t: setattr(t, "data", torch.zeros(3, 4)),
    "item": lambda t: t.detach().__setitem__((0, 0), 5.0),
    "out": lambda t: torch.add(torch.ones(3, 4), 1, out=t.detach()),
    "inplace=True": lambda t: F.threshold(t.detach(), 2.0, 0.0, inplace=True),
    "index_put_": lambda t: t.detach().index_put_((torch.tensor([0]),), torch.tensor(3.0)),
    "copy_": lambda t: t.detach().copy_(torch.zeros(3, 4)),
    "foreach": lambda t: torch._foreach_add_([t.detach()], 1.0),
    "init": lambda t: nn.init.zeros_(t),
    "nothing is added": lambda t: t.detach().add_(0),
    "view as": lambda t: t.detach().view(-1)[:2].mul_(3),
}
WHERE: dict[str, Callable[[Net], Tensor]] = {
    "weight": lambda m: m.weight,
    "frozen": lambda m: m.frozen,
    "buffer": lambda m: m.buffer,
    "plain": lambda m: m.plain,
    "inside[0]": lambda m: m.inside[0],
}


def law_a_write_is_refused(write: str, where: str) -> None:
    module = Net()
    state = LastingState(module)
    with pytest.raises(PrivacyError, match="training_step writes to") as caught, WriteWatch(state):
        WRITES[write](WHERE[where](module))
    assert where in str(caught.value)
    assert "test_write_watch.py" in str(caught.value)
    assert bool((WHERE[where](module) == 1).all())


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("write", WRITES)
def test_a_write_is_refused_before_it_happens(write: str, where: str) -> None:
    law_a_write_is_refused(write, where)


def test_mutant_that_trusts_data_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """`.data` has a version of its own: nothing else would show the write."""
    monkeypatch.setattr(WriteWatch, "_export", lambda self, func, args, kwargs: func(*args, **kwargs))
    monkeypatch.setattr(WriteWatch, "_check", lambda *given: None)
    module = Net()
    state = LastingState(module)
    with WriteWatch(state):
        module.weight.data.add_(1)
    assert state.written() == []
    with pytest.raises(pytest.fail.Exception):
        law_a_write_is_refused("data lerp_", "weight")


READS: dict[str, Callable[[Net], Any]] = {
    "values": lambda m: (m.weight * m.buffer + m.plain).sum(),
    "in place on a result": lambda m: (m.weight * 2).detach().add_(1),
    "data": lambda m: m.weight.data.norm(),
    "numpy": lambda m: m.buffer.numpy().sum(),
    "a copy": lambda m: m.weight.detach().clone().zero_(),
    "flags": lambda m: m.frozen.requires_grad_(False),
    "out of place": lambda m: F.normalize(m.weight.detach(), out=torch.empty(3, 4)),
    "gradient": lambda m: (m.weight * m.buffer).sum().backward(),
}


@pytest.mark.parametrize("name", READS)
def test_reading_is_no_write(name: str) -> None:
    module = Net()
    state, watch = LastingState(module), WriteWatch(LastingState(module))
    with watch:
        READS[name](module)
    assert state.written() == watch.exported_and_written() == []


@pytest.mark.parametrize("export", [lambda t: t.numpy(), lambda t: np.asarray(t), lambda t: t.detach().numpy()])
def test_memory_that_was_handed_out_is_compared_and_gets_its_values_back(export: Callable[[Tensor], Any]) -> None:
    module = Net()
    watch = WriteWatch(LastingState(module))
    with watch:
        export(module.buffer)[0] = 7
    assert watch.exported_and_written() == ["buffer"]
    assert bool((module.buffer == 1).all())


def test_what_is_allowed_may_be_written() -> None:
    module = Net()
    with WriteWatch(LastingState(module), {"buffer"}):
        module.buffer.add_(1)
    assert bool((module.buffer == 2).all())


def test_batch_normalisation_is_called_by_its_name() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(CoupledExamples, match="0 is a BatchNorm1d in training mode"), WriteWatch(LastingState(module)):
        module(torch.ones(2, 3))


def test_the_line_is_the_models() -> None:
    assert write_watch.place().startswith("test_write_watch.py:")


def test_numpy_must_not_write_to_the_memory_of_a_tensor() -> None:
    x, array = torch.ones(3), np.ones(3)
    with WriteWatch(LastingState(Net())):
        assert x.numpy().copy().sum() == 3
        assert torch.as_tensor(array).sum() == 3
    with pytest.raises(PrivacyError, match="NumPy"), WriteWatch(LastingState(Net())):
        np.negative(x.numpy(), out=x.numpy())
    with pytest.raises(PrivacyError, match="NumPy"), WriteWatch(LastingState(Net())):
        array[0] = float(torch.as_tensor(array)[1]) - 2
