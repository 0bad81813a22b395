"""The layout of a batch: rows follow the number of samples whatever else has the same size, and nothing else does."""

from __future__ import annotations

import random
from collections import OrderedDict, UserDict
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence, pad_sequence

from dplit.errors import ConfigurationError
from dplit.grads import batch_layout as module
from dplit.grads.batch_layout import BatchLayout, Role, batch_layout, parts, shared_leaves, with_parts


class Pair(NamedTuple):
    x: object
    y: object


@dataclass(frozen=True)
class Frozen:
    x: object
    y: object


Kind = Callable[[list[Tensor], int], object]

ROWS: dict[str, Kind] = {
    "rows": lambda rows, k: torch.stack([row.sum() for row in rows]),
    "padded": lambda rows, k: pad_sequence(rows, batch_first=True),
    "arrays": lambda rows, k: np.stack([float(row.sum()) for row in rows]),
}
SHARED: dict[str, Kind] = {
    "constant": lambda rows, k: torch.ones(k),
    "matrix": lambda rows, k: torch.ones(k, k),
    "number": lambda rows, k: 0.5,
    "name": lambda rows, k: "train",
    "nothing": lambda rows, k: None,
    "scalar": lambda rows, k: torch.tensor(2.0),
    "positions": lambda rows, k: torch.arange(max(map(len, rows))),
}
OTHER: dict[str, Kind] = {
    "list": lambda rows, k: list(rows),
    "names": lambda rows, k: [str(len(row)) for row in rows],
    "count": lambda rows, k: len(rows),
    "packed rows": lambda rows, k: torch.cat(rows),
    "time first": lambda rows, k: pad_sequence(rows),
    "pairs": lambda rows, k: torch.zeros(k, len(rows)),
    "twice": lambda rows, k: torch.cat([torch.stack([row.sum() for row in rows])] * 2),
    "keys": lambda rows, k: dict(enumerate(rows)),
}
KINDS = {**ROWS, **SHARED, **OTHER}


def role_of(kind: str) -> Role:
    return Role.ROWS if kind in ROWS else Role.SHARED if kind in SHARED else Role.OTHER


@given(
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=9).filter(any),
    k=st.integers(1, 10),
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=6, unique=True),
)
@settings(max_examples=150, deadline=None)
def test_the_role_is_found_whatever_sizes_coincide(lengths: list[int], k: int, kinds: list[str]) -> None:
    lengths = lengths if set(lengths) != {1} else [2, *lengths]  # rows of one each are rows, packed or not
    samples = [torch.ones(length) for length in lengths]
    layout = batch_layout(lambda rows: {kind: KINDS[kind](rows, k) for kind in kinds}, samples)
    expected = {f"batch[{kind!r}]": role_of(kind) for kind in kinds}
    looked_at = lengths[: module.LOOKED_AT]
    if set(looked_at) == {1}:
        expected.pop("batch['packed rows']", None)
    assert {path: role for path, role in layout.roles.items() if path in expected} == expected


def prior(rows: list[Tensor]) -> dict[str, Tensor]:
    return {"x": torch.stack(rows), "prior": torch.ones(3)}


def test_a_tensor_for_all_examples_is_shared() -> None:
    assert shared_leaves(prior, [torch.ones(2)] * 3) == {"batch['prior']"}


def test_mutant_a_layout_of_one_batch_takes_the_prior_for_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_collated", lambda collate, samples: collate(list(samples)[:3]))
    monkeypatch.setattr(module, "_role", lambda values, counts: Role.ROWS if len(values[0]) == 3 else Role.SHARED)
    assert shared_leaves(prior, [torch.ones(2)] * 3) == set()


def test_edges_as_many_as_graphs_are_no_rows() -> None:
    """Three graphs of 0, 1 and 2 edges: a copy of the first adds none, one of the last two."""
    graphs = [torch.ones(edges, 4) for edges in (0, 1, 2)]
    assert batch_layout(torch.cat, graphs).roles == {"batch": Role.OTHER}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x, y: {"x": x, "y": y},
        lambda x, y: OrderedDict(x=x, y=y),
        lambda x, y: UserDict(x=x, y=y),
        lambda x, y: MappingProxyType({"x": x, "y": y}),
        lambda x, y: [x, y],
        lambda x, y: (x, y),
        Pair,
        Frozen,
        lambda x, y: {"deep": [Pair(x, 1), Frozen(y, "z")]},
    ],
    ids=["dict", "ordered", "user", "proxy", "list", "tuple", "named", "frozen", "nested"],
)
def test_every_collection_is_looked_into_and_rebuilt(wrap: Callable[[Any, Any], object]) -> None:
    rows, other = torch.ones(4, 2), torch.ones(4)
    batch = wrap(rows, other)
    paths = {path: part for path, part in parts(batch) if isinstance(part, Tensor)}
    assert sorted(p.dim() for p in paths.values()) == [1, 2]
    layout = batch_layout(lambda samples: wrap(torch.stack(samples), other), list(rows))
    assert {path: layout.roles[path] for path in paths} == {
        path: Role.ROWS if part is rows else Role.SHARED for path, part in paths.items()
    }
    new = with_parts(batch, {path: part + 1 for path, part in paths.items()})
    assert type(new) is type(batch)
    assert all(torch.equal(dict(parts(new))[path], part + 1) for path, part in paths.items())  # type: ignore[arg-type]
    assert all(part is paths[path] for path, part in parts(batch) if path in paths)


def test_a_path_reads_like_python() -> None:
    batch = {"x": [Pair(1, 2), Frozen(3, 4)]}
    assert [path for path, _ in parts(batch)] == [
        "batch['x'][0].x",
        "batch['x'][0].y",
        "batch['x'][1].x",
        "batch['x'][1].y",
    ]
    assert all(eval(path, {"batch": batch}) == value for path, value in parts(batch))


def test_packed_sequences_are_no_rows() -> None:
    layout = batch_layout(lambda rows: pack_sequence(rows, enforce_sorted=False), [torch.ones(2), torch.ones(1)])
    assert layout.roles["batch.data"] is Role.OTHER


def test_samples_stay_as_they_were() -> None:
    """Some collate functions take entries out of the samples."""
    samples = [{"x": torch.ones(2), "label": i} for i in range(3)]

    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        labels = torch.tensor([row.pop("label") for row in rows])
        return {"x": torch.stack([row["x"] for row in rows]), "label": labels}

    assert batch_layout(collate, samples).paths(Role.ROWS) == {"batch['x']", "batch['label']"}
    assert [sample["label"] for sample in samples] == [0, 1, 2]


def test_values_that_cannot_be_compared_are_not_shared() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise ValueError

        __hash__ = None  # type: ignore[assignment]

    assert batch_layout(lambda rows: Odd(), [torch.ones(1)]).roles == {"batch": Role.OTHER}
    constant = Odd()
    assert batch_layout(lambda rows: constant, [torch.ones(1)]).roles == {"batch": Role.SHARED}


def test_a_collate_function_of_one_size_is_refused() -> None:
    def collate(rows: list[Tensor]) -> Tensor:
        if len(rows) > 2:
            raise ValueError("too many")
        return torch.stack(rows)

    with pytest.raises(ConfigurationError, match=r"no batch of 3 samples \(ValueError: too many\)"):
        batch_layout(collate, [torch.ones(1)] * 2)


def test_few_samples_are_looked_at() -> None:
    sizes: list[int] = []
    batch_layout(lambda rows: sizes.append(len(rows)), [random.Random(i).random() for i in range(100)])
    assert sizes == [8, *[9] * 8]


def test_no_part_of_another_role() -> None:
    assert BatchLayout({"batch": Role.ROWS}).paths(Role.SHARED) == frozenset()
