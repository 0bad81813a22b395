"""A collate function that moves values between samples is refused by the part of the batch; what keeps to samples never is."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence, pad_sequence
from torch.utils.data import DataLoader, default_collate

import dplit
from dplit.data.units import Copies
from dplit.errors import CoupledExamples
from dplit.training.checks import collate as checks
from dplit.training.checks.collate import check_collate
from tests.lightning import Data, fit

Sample = dict[str, Any]


def texts(n: int, seed: int = 0) -> list[Sample]:
    """Samples of ids of several lengths, a vector, a label and a name."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (n,), generator=draw).tolist()
    return [
        {
            "ids": torch.randint(1, 50, (length,), generator=draw),
            "x": torch.randn(5, generator=draw),
            "y": i % 3,
            "name": f"record {i} of {n}",
        }
        for i, length in enumerate(lengths)
    ]


def padded(rows: list[Sample], left: bool = False) -> dict[str, Tensor]:
    ids = pad_sequence([row["ids"] for row in rows], batch_first=True, padding_side="left" if left else "right")
    return {"ids": ids, "mask": ids != 0, "y": torch.tensor([row["y"] for row in rows])}


def stacked(rows: list[Sample]) -> dict[str, Tensor]:
    return {"x": torch.stack([row["x"] for row in rows]), "y": torch.tensor([row["y"] for row in rows])}


@dataclass
class Batch:
    x: Tensor
    names: list[str]


def by_length(rows: list[Sample]) -> dict[str, Tensor]:
    return padded(sorted(rows, key=lambda row: -len(row["ids"])))


def masked(rows: list[Sample]) -> dict[str, Tensor]:
    """As for masked language models: one matrix of random numbers for the whole batch."""
    batch = padded(rows)
    chosen = torch.bernoulli(torch.full(batch["ids"].shape, 0.3)).bool()
    return {**batch, "labels": batch["ids"].masked_fill(~chosen, -100), "ids": batch["ids"].masked_fill(chosen, 49)}


def cropped(rows: list[Sample]) -> list[Tensor]:
    """As many random numbers as a sample needs, sample by sample."""
    kept = [
        row["ids"][torch.from_numpy(np.sort(np.random.permutation(len(row["ids"]))[: 1 + random.randrange(3)]))]
        for row in rows
    ]
    return [pad_sequence(kept, batch_first=True), torch.tensor([row["y"] for row in rows])]


def own_noise(rows: list[Sample]) -> dict[str, Tensor]:
    """Random numbers of a generator that no seed reaches."""
    batch = stacked(rows)
    return {**batch, "x": batch["x"] + torch.from_numpy(np.random.default_rng().normal(size=batch["x"].shape)).float()}


def shuffled(rows: list[Sample]) -> dict[str, Tensor]:
    return stacked([rows[i] for i in torch.randperm(len(rows))])


def with_length(rows: list[Sample]) -> dict[str, Any]:
    batch = padded(rows)
    width = batch["ids"].shape[1]
    return {**batch, "width": width, "positions": torch.arange(width), "causal": torch.ones(width, width).tril()}


HONEST: dict[str, Callable[[list[Sample]], Any]] = {
    "stacked": stacked,
    "default": lambda rows: default_collate([{"x": row["x"], "y": row["y"], "name": row["name"]} for row in rows]),
    "padded": padded,
    "padded on the left": lambda rows: padded(rows, left=True),
    "padded to a multiple": lambda rows: torch.nn.functional.pad(padded(rows)["ids"], (0, -len(rows) % 4)),
    "time first": lambda rows: (padded(rows)["ids"].T, torch.tensor([row["y"] for row in rows])),
    "with the width": with_length,
    "negatives for all": lambda rows: {**stacked(rows), "negatives": torch.arange(12.0).view(6, 2)},
    "ragged lists": lambda rows: ([row["ids"] for row in rows], [row["name"] for row in rows]),
    "lists of mappings": lambda rows: (
        stacked(rows)["x"],
        [{"boxes": row["ids"][:, None], "y": row["y"]} for row in rows],
    ),
    "lists of numbers": lambda rows: {"ids": [row["ids"].tolist() for row in rows], "y": [row["y"] for row in rows]},
    "a dataclass": lambda rows: Batch(stacked(rows)["x"], [row["name"] for row in rows]),
    "arrays": lambda rows: {"x": np.stack([row["x"].numpy() for row in rows])},
    "packed": lambda rows: (
        pack_sequence([row["ids"].float() for row in rows], enforce_sorted=False),
        stacked(rows)["y"],
    ),
    "normalised by itself": lambda rows: torch.stack([(row["x"] - row["x"].mean()) / row["x"].std() for row in rows]),
    "not numbers": lambda rows: stacked(rows)["x"].log(),
    "masked": masked,
    "cropped": cropped,
    "noise": lambda rows: stacked(rows)["x"] + torch.randn(len(rows), 5),
    "noise of its own": own_noise,
    "nothing to see": lambda rows: object(),
    "writes to its samples": lambda rows: stacked([row | {"x": row["x"].mul_(2)} for row in rows]),
    "six fields": lambda rows: tuple(stacked(rows)["x"] for _ in range(6)),
}


def rolled(rows: list[Sample]) -> dict[str, Tensor]:
    batch = stacked(rows)
    return {**batch, "x": batch["x"] + 1e-6 * batch["x"].roll(1, 0)}


def mixup(generator: Callable[[], Any]) -> Callable[[list[Sample]], dict[str, Tensor]]:
    def mixed(rows: list[Sample]) -> dict[str, Tensor]:
        batch, draw = stacked(rows), generator()
        order, share = torch.from_numpy(draw.permutation(len(rows))), float(draw.uniform(0.2, 0.8))
        return {**batch, "x": share * batch["x"] + (1 - share) * batch["x"][order]}

    return mixed


def cutmix(rows: list[Sample]) -> dict[str, Tensor]:
    batch, start = stacked(rows), random.randrange(4)
    batch["x"][:, start : start + 2] = batch["x"][torch.randperm(len(rows)), start : start + 2]
    return batch


def padded_by_the_longest(rows: list[Sample]) -> Tensor:
    """What is missing is filled from the longest sample."""
    longest = max((row["ids"] for row in rows), key=len)
    return torch.stack([torch.cat([row["ids"], longest[len(row["ids"]) :]]) for row in rows])


MIXING: dict[str, Callable[[list[Sample]], Any]] = {
    "centred": lambda rows: {"x": stacked(rows)["x"] - stacked(rows)["x"].mean(0)},
    "scaled by the largest": lambda rows: stacked(rows)["x"] / stacked(rows)["x"].abs().max(),
    "class shares": lambda rows: {**stacked(rows), "prior": stacked(rows)["y"].bincount(minlength=3) / len(rows)},
    "number of tokens": lambda rows: {**padded(rows), "tokens": sum(len(row["ids"]) for row in rows)},
    "rolled": rolled,
    "by length": by_length,
    "shuffled": shuffled,
    "reversed": lambda rows: stacked(rows[::-1]),
    "labels apart": lambda rows: {"x": by_length(rows)["ids"], "y": stacked(rows)["y"]},
    "ranks": lambda rows: {**stacked(rows), "rank": stacked(rows)["x"][:, 0].argsort().argsort()},
    "neighbours as negatives": lambda rows: {**stacked(rows), "negative": stacked(rows)["x"].flip(0)},
    "lists": lambda rows: [row["name"] + rows[0]["name"][-1] + str(len(rows[-1]["ids"])) for row in rows],
    "mixup": mixup(lambda: np.random),
    "mixup of its own": mixup(np.random.default_rng),
    "cutmix": cutmix,
    "longest label": lambda rows: stacked(rows)["y"] + max(rows, key=lambda row: len(row["ids"]))["y"],
    "filled from the longest": padded_by_the_longest,
}


@pytest.mark.parametrize("name", HONEST)
def test_what_keeps_to_its_samples_passes(name: str) -> None:
    for seed in range(4):
        check_collate(HONEST[name], texts(2 + 3 * seed, seed))


@pytest.mark.parametrize("name", MIXING)
def test_what_moves_values_between_samples_is_refused(name: str) -> None:
    for seed in range(4):
        with pytest.raises(CoupledExamples, match="the collate function moves values") as refused:
            check_collate(MIXING[name], texts(18, seed))
        assert "\n" not in str(refused.value)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(2, 12), st.integers(0, 99), st.floats(1e-7, 0.9))
def test_a_share_of_the_neighbour_is_found_however_small(n: int, seed: int, share: float) -> None:
    mixed = lambda rows: stacked(rows)["x"] * (1 - share) + share * stacked(rows)["x"].roll(1, 0)  # noqa: E731
    with pytest.raises(CoupledExamples, match="batch"):
        check_collate(mixed, texts(n, seed))


def test_the_part_of_the_batch_is_named() -> None:
    with pytest.raises(CoupledExamples, match=r"batch\['prior'\] changes for others"):
        check_collate(MIXING["class shares"], texts(12))


@pytest.mark.parametrize("n", [0, 1])
def test_one_record_has_no_other(n: int) -> None:
    check_collate(stacked, texts(n))


def test_generators_and_samples_are_left_as_they_were() -> None:
    samples, states = texts(9), (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    check_collate(HONEST["writes to its samples"], samples)
    check_collate(cropped, samples)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert all(torch.equal(a["x"], b["x"]) for a, b in zip(samples, texts(9), strict=True))


@pytest.mark.parametrize(
    ("name", "mutant", "missed"),
    [
        ("_replacements", lambda sample, samples, place: [sample], "centred"),
        ("_moved", lambda before, after, layout, place: [], "rolled"),
        ("_others_stayed", lambda before, after, place: len({*before} - {*after}) <= 1, "by length"),
        ("_heard", lambda loud, usual, layout: None, "mixup of its own"),
        ("_certain", lambda *given: False, "mixup"),
    ],
)
def test_mutants_miss_what_is_refused(name: str, mutant: Any, missed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, name, mutant)
    monkeypatch.setattr(checks, "LOUD", 1.0)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_what_moves_values_between_samples_is_refused(missed)


def test_mutant_that_asks_too_much_of_random_numbers_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_certain", lambda *given: True)
    with pytest.raises(CoupledExamples):
        test_what_keeps_to_its_samples_passes("cropped")


# -- in a fit --------------------------------------------------------------------------------------------------------------


def centred(rows: list[Any]) -> Any:
    batch = default_collate(rows)
    return {**batch, "x": batch["x"] - batch["x"].mean(0)}


def flipped(rows: list[Any]) -> Any:
    return {key: value.flip(0) for key, value in default_collate(rows).items()}


def test_a_fit_refuses_before_a_step(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    strategy = dplit.DPStrategy()
    with pytest.raises(CoupledExamples, match=r"batch\['x'\] changes for others"):
        fit(strategy=strategy, train=DataLoader(Data(), batch_size=16, collate_fn=centred))
    assert strategy.ledger.steps == 0
    with pytest.raises(CoupledExamples, match="the rows in the order of the samples"):
        fit(train=DataLoader(Copies(Data(), lambda sample: [sample]), batch_size=16, collate_fn=flipped))
