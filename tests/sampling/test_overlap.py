"""Two data sets hold a common record, hold none, or it cannot be seen: never "none" where there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from dplit.data.units import Copies
from dplit.sampling import overlap
from dplit.sampling.overlap import share_records

BASE = TensorDataset(torch.arange(20.0)[:, None])
OTHER = [torch.tensor([float(i)]) for i in range(20)]
chosen = st.lists(st.integers(0, 19), min_size=1, max_size=8)

WRAPPED: dict[str, Callable[[Any, list[int]], Any]] = {
    "Subset": Subset,
    "Subset of Subset": lambda data, indices: Subset(Subset(data, range(19, -1, -1)), [19 - i for i in indices]),
    "negative": lambda data, indices: Subset(data, [i - 20 for i in indices]),
    "Copies": lambda data, indices: Copies(Subset(data, indices), lambda sample: [sample]),
    "ConcatDataset": lambda data, indices: ConcatDataset([Subset(data, [i]) for i in indices]),
    "of a whole": lambda data, indices: Subset(ConcatDataset([OTHER, data]), [20 + i for i in indices]),
}


def law_seen_as_it_is(one: list[int], other: list[int], how: tuple[str, str]) -> None:
    a, b = (WRAPPED[name](BASE, indices) for name, indices in zip(how, (one, other), strict=True))
    assert share_records(a, b) is bool(set(one) & set(other))


@given(chosen, chosen, st.tuples(st.sampled_from(list(WRAPPED)), st.sampled_from(list(WRAPPED))))
def test_parts_of_one_data_set_are_seen(one: list[int], other: list[int], how: tuple[str, str]) -> None:
    law_seen_as_it_is(one, other, how)


def test_mutant_that_looks_at_the_outermost_indices_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "_parts", lambda data, indices=None: iter([(BASE, overlap.np.asarray(data.indices))]))
    with pytest.raises(AssertionError):
        law_seen_as_it_is([0, 1], [19], ("Subset", "Subset of Subset"))


@given(chosen, chosen)
def test_the_same_memory_or_the_same_objects_are_the_same_records(one: list[int], other: list[int]) -> None:
    common = bool(set(one) & set(other))
    whole = BASE.tensors[0]
    for a, b in [
        (Subset(TensorDataset(whole), one), Subset(TensorDataset(whole), other)),
        ([OTHER[i] for i in one], tuple(OTHER[i] for i in other)),
    ]:
        assert share_records(a, b) is (True if common else None)


def test_slices_of_one_tensor_are_seen() -> None:
    whole = torch.randn(10, 3)
    assert share_records(TensorDataset(whole[:6]), TensorDataset(whole[5:])) is True
    assert share_records(TensorDataset(whole[:5]), TensorDataset(whole[5:])) is None


def test_what_cannot_be_seen_is_not_said() -> None:
    class Endless(Dataset):
        pass

    assert share_records(TensorDataset(torch.zeros(3)), TensorDataset(torch.zeros(3))) is None
    assert share_records([1, 2, "a", None], [1, 2, "a", None]) is None
    assert share_records(Endless(), BASE) is None
    assert share_records(TensorDataset(torch.zeros(3, 1)), OTHER) is None
    assert share_records(Subset(BASE, []), Subset(BASE, [1])) is False
