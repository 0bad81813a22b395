"""Trials get the same numbers; what follows a draw does not depend on it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from dplit.grads.coupling import generators
from dplit.grads.coupling.generators import independent_of_what_is_drawn, numbers_drawn, seeded


def made() -> list[Any]:
    return [torch.Generator().manual_seed(1), random.Random(1), np.random.default_rng(1), np.random.RandomState(1)]


def numbers(kept: list[Any]) -> list[float]:
    chance, python, fresh, old = kept
    from_kept = [float(torch.rand((), generator=chance)), python.random(), float(fresh.random()), float(old.rand())]
    return [float(torch.rand(())), random.random(), float(np.random.rand()), *from_kept]


def law_what_follows_does_not_depend_on_what_is_drawn() -> None:
    """Neither on how many numbers were used nor on a seed taken from the records."""
    followed = []
    for use in (0, 1, 7, "seed"):
        kept = made()
        torch.manual_seed(5), random.seed(5), np.random.seed(5)
        with independent_of_what_is_drawn(kept):
            if use == "seed":
                torch.manual_seed(99), random.seed(99), np.random.seed(99)
                kept[0].manual_seed(99)
            for _ in range(0 if use == "seed" else use):
                numbers(kept)
        followed.append(numbers(kept))
    assert all(row == followed[0] for row in followed)
    assert len(set(followed[0])) == len(followed[0])


def test_what_follows_does_not_depend_on_what_is_drawn() -> None:
    law_what_follows_does_not_depend_on_what_is_drawn()


@pytest.mark.parametrize("mutant", ["numpy", "kept"])
def test_mutant_generators_that_go_on_are_caught(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mutant == "numpy":
        seed = np.random.seed
        monkeypatch.setattr(np.random, "seed", lambda value: seed(value) if value in (5, 99) else None)
    else:
        monkeypatch.setattr(generators, "_seed", lambda generator, seed: None)
    with pytest.raises(AssertionError):
        law_what_follows_does_not_depend_on_what_is_drawn()


def test_a_trial_has_its_seed_and_leaves_no_trace() -> None:
    kept = made()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), numbers_drawn(kept)
    rows = []
    for _ in range(2):
        with seeded(3, kept):
            rows.append([*numbers(kept), float(np.random.default_rng().random())])
    assert rows[0] == rows[1]
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), numbers_drawn(kept)
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert np.random.default_rng().random() != np.random.default_rng().random()


@pytest.mark.parametrize("use", [random.random, np.random.rand])
def test_numbers_that_were_drawn_show(use: Any) -> None:
    before = numbers_drawn()
    torch.rand(3)
    assert numbers_drawn() == before
    use()
    assert numbers_drawn() != before
