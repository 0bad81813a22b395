"""What outlives a step is found wherever it is kept, and put back."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection, SumMetric

from dplit.grads.coupling import lasting_state
from dplit.grads.coupling.lasting_state import LastingState, picture, same_picture


class Slotted:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Plain:
    def __init__(self) -> None:
        self.value: Any = [0]


class Holder(nn.Module):
    shared: ClassVar[list[float]] = []

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(2, 2))
        self.register_buffer("buffer", torch.zeros(3), persistent=False)
        self.number, self.text = 1.0, "a"
        self.entries, self.queue, self.names = [1], deque([1], maxlen=3), {"a"}
        self.table: dict[str, Any] = {"inner": {"deep": [torch.zeros(2)]}}
        self.array = np.zeros(5)
        self.slotted, self.plain = Slotted(), Plain()
        count = [0]
        self.closure: Callable[[], int] = lambda: count.append(1) or count[0]
        self.bound = self.plain.value.append
        self.partial = partial(max, key=self.plain)


def replace_parameter(m: Holder) -> None:
    m.layer[0].weight = nn.Parameter(torch.ones(2, 2))


def replace_layer(m: Holder) -> None:
    m.layer[0] = nn.Linear(2, 2)


CHANGES: dict[str, Callable[[Holder], Any]] = {
    "number": lambda m: setattr(m, "number", m.number + 1),
    "text": lambda m: setattr(m, "text", "b"),
    "new attribute": lambda m: setattr(m, "fresh", torch.ones(2)),
    "attribute removed": lambda m: delattr(m, "number"),
    "attribute of a layer": lambda m: setattr(m.layer[0], "seen", 3),
    "buffer replaced": lambda m: setattr(m, "buffer", torch.ones(3)),
    "buffer registered": lambda m: m.layer.register_buffer("cache", torch.ones(3)),
    "parameter replaced": replace_parameter,
    "layer replaced": replace_layer,
    "list": lambda m: m.entries.append(2),
    "list of one length": lambda m: m.entries.__setitem__(0, 7),
    "deque": lambda m: m.queue.append(2),
    "set": lambda m: m.names.add("b"),
    "dictionary": lambda m: m.table.update(b=1),
    "inner dictionary": lambda m: m.table["inner"].update(b=1),
    "inner list of tensors": lambda m: m.table["inner"]["deep"].append(torch.ones(2)),
    "tensor in a list": lambda m: m.table["inner"]["deep"].__setitem__(0, torch.zeros(2)),
    "array": lambda m: m.array.__setitem__(0, 1),
    "slot": lambda m: setattr(m.slotted, "value", 1),
    "object": lambda m: setattr(m.plain, "value", 1),
    "list of an object": lambda m: m.plain.value.append(1),
    "closure": lambda m: m.closure(),
    "class": lambda m: setattr(type(m), "fresh_of_class", 1),
    "list of a class": lambda m: type(m).shared.append(1.0),
    "attribute of a parameter": lambda m: setattr(m.layer[0].weight, "seen", 1),
}


def law_all_changes_are_seen() -> None:
    for name in CHANGES:
        law_a_change_is_seen_and_put_back(name)


def law_a_change_is_seen_and_put_back(name: str) -> None:
    module = Holder()
    module.layer[0].weight.mark = 0  # type: ignore[attr-defined]
    state, before = LastingState(module), picture(module)
    assert state.changes() == []
    CHANGES[name](module)
    changes = state.changes()
    try:
        assert changes
        assert all(change.name for change in changes)
    finally:
        state.put_back()
    assert state.changes() == []
    assert same_picture(picture(module), before)
    state.note()
    assert state.changes() == state.written() == []


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen_and_put_back(name: str) -> None:
    law_a_change_is_seen_and_put_back(name)


@pytest.mark.parametrize("kind", ["KeptDict", "KeptSequence", "KeptSet", "KeptArray", "KeptSlots", "KeptClass"])
def test_mutant_blind_to_a_kind_is_caught(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getattr(lasting_state, kind), "same", lambda self: True)
    Holder.shared.clear()
    with pytest.raises(AssertionError):
        law_all_changes_are_seen()
    Holder.shared.clear()
    if hasattr(Holder, "fresh_of_class"):
        del Holder.fresh_of_class


WRITES: dict[str, Callable[[Holder], Any]] = {
    "parameter": lambda m: m.layer[0].weight.detach().add_(1),
    "buffer": lambda m: m.buffer.add_(1),
    "view": lambda m: m.buffer[1:].mul_(2),
    "tensor in a list": lambda m: m.table["inner"]["deep"][0].fill_(1),
    "storage": lambda m: setattr(m.layer[0].weight, "data", torch.ones(2, 2)),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_in_place_is_seen(name: str) -> None:
    module = Holder()
    state = LastingState(module)
    WRITES[name](module)
    assert len(state.written()) == 1
    state.note()
    assert state.written() == []


def test_names_are_those_of_the_module() -> None:
    state = LastingState(Holder())
    assert {"layer.0.weight", "layer.0.bias", "buffer", "table['inner']['deep'][0]"} <= state.tensors.keys()


def test_generators_and_metrics_are_found_and_metrics_not_looked_into() -> None:
    module = Holder()
    module.chance, module.python = torch.Generator(), random.Random(0)
    module.numbers, module.old = np.random.default_rng(0), np.random.RandomState(0)
    module.metric, module.metrics = SumMetric(), MetricCollection({"a": SumMetric()})
    state = LastingState(module)
    assert state.generators.keys() == {"chance", "python", "numbers", "old"}
    assert state.metrics.keys() == {"metric", "metrics"}
    module.metric.update(1.0)
    assert state.changes() == []
    assert state.updated_metrics() == {"metric": module.metric}
    module.metrics.update(torch.ones(()))
    assert state.updated_metrics().keys() == {"metric", "metrics"}


def test_a_large_list_is_compared_by_its_length() -> None:
    module = nn.Module()
    module.many = list(range(2 * lasting_state.LARGE))
    state = LastingState(module)
    module.many.append(0)
    assert [change.name for change in state.changes()] == ["many"]
    state.put_back()
    assert module.many == list(range(2 * lasting_state.LARGE))


def test_what_changes_between_steps_is_taken_for_what_is_to_stay() -> None:
    module = Holder()
    state = LastingState(module)
    module.later = [1]
    state.note()
    module.later.append(2)
    assert [change.name for change in state.changes()] == ["later"]
    state.put_back()
    assert module.later == [1]


@pytest.mark.parametrize("value", [torch.tensor([1.0, float("nan")]), [np.ones(2), {"a": 1}], {"b": (1, "c")}])
def test_pictures_are_equal_to_themselves_and_to_nothing_else(value: Any) -> None:
    other: Tensor = torch.zeros(2)
    assert same_picture(picture(value), picture(value))
    assert not same_picture(picture(value), picture(other))
