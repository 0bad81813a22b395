"""Encoded texts in a batch: padding changes nothing but padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dplit.data.texts.records import Records
from dplit.data.texts.token_rows import TokenRows
from dplit.sampling.loader import poisson_loader


def rows_of(ids, side="right", multiple_of=1, unit=None, pad=0):
    zeros = np.zeros(len(ids), np.int64)
    return TokenRows(ids, Records([""] * len(ids), zeros, zeros, unit), pad, side, multiple_of)


def law_padding_changes_nothing_but_padding(side, multiple_of, chosen):
    ids = [[7], [1, 2, 3], [4, 5], [9, 9, 9, 9, 9]]
    rows = rows_of(ids, side, multiple_of, pad=0)
    batch = rows.collate(chosen)
    width = batch["input_ids"].shape[1]
    assert width % multiple_of == 0
    assert width < max(len(ids[i]) for i in chosen) + multiple_of
    for i, row, mask in zip(chosen, batch["input_ids"], batch["attention_mask"], strict=True):
        assert row[mask.bool()].tolist() == ids[i]
        assert row[~mask.bool()].eq(0).all()
        steps = mask.diff()
        assert (steps >= 0).all() if side == "left" else (steps <= 0).all()
        assert mask[-1 if side == "left" else 0] == 1


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("multiple_of", [1, 4])
@pytest.mark.parametrize("chosen", [[0], [1, 2], [3, 0, 0], [0, 1, 2, 3]])
def test_padding_changes_nothing_but_padding(side, multiple_of, chosen):
    law_padding_changes_nothing_but_padding(side, multiple_of, chosen)


def test_mutant_the_mask_is_read_off_the_ids(monkeypatch):
    original = TokenRows.collate

    def collate(self, samples):
        batch = original(self, samples)
        return {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}

    monkeypatch.setattr(TokenRows, "collate", collate)
    with pytest.raises(AssertionError):
        law_padding_changes_nothing_but_padding("right", 1, [0, 1])


def test_mutant_the_other_side(monkeypatch):
    original = TokenRows.__init__

    def init(self, *arguments):
        original(self, *arguments)
        self.side = "right"

    monkeypatch.setattr(TokenRows, "__init__", init)
    with pytest.raises(AssertionError):
        law_padding_changes_nothing_but_padding("left", 1, [0, 1])


def test_a_draw_is_padded_little():
    rng = np.random.default_rng(0)
    rows = rows_of([[5] * n for n in rng.integers(1, 60, 512)])
    (draw,) = poisson_loader(DataLoader(rows, batch_size=512, shuffle=True, collate_fn=rows.collate), 32)
    sizes = [(part.batch["attention_mask"].numel(), int(part.batch["attention_mask"].sum())) for part in draw.parts]
    taken, used = map(sum, zip(*sizes, strict=True))
    assert used == int(rows.lengths.sum())
    assert taken < 1.1 * used


def test_no_samples_are_an_empty_batch():
    batch = rows_of([[1], [2, 3]], multiple_of=8, unit=np.arange(2)).collate([])
    assert {key: tuple(value.shape) for key, value in batch.items()} == {
        **{"input_ids": (0, 1), "attention_mask": (0, 1)},
        **{"y": (0,), "group": (0,), "unit": (0,)},
    }
    assert all(value.dtype == torch.int64 for value in batch.values())
