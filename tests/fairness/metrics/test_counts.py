"""Counts add up over batches, and one record moves one of them by one."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dplit.errors import ConfigurationError
from dplit.fairness.metrics import counts as counting
from dplit.fairness.metrics.counts import MAX_CELLS, SUMS, Counts
from tests.fairness.metrics.cases import LAW, NAMES, counted, examples, packed


def law_batches_add_up():
    @LAW
    @given(examples(), st.integers(0, 40))
    def law(drawn, cut):
        c, *rest = drawn
        loss = torch.linspace(0, 1, len(rest[0]))
        whole = counted(c, *rest, loss)
        halves = [counted(c, *(part[piece] for part in rest), loss[piece]) for piece in (slice(cut), slice(cut, None))]
        added = halves[0] + halves[1]
        assert torch.equal(added.table, whole.table)
        assert torch.allclose(added.loss_sum, whole.loss_sum)
        assert torch.equal(added.loss_count, whole.loss_count)

    law()


def law_one_record_moves_one_count_by_one():
    @LAW
    @given(examples(smallest=1))
    def law(drawn):
        c, *rest = drawn
        moved = counted(c, *rest).table - counted(c, *(part[:-1] for part in rest)).table
        assert int(moved.abs().sum()) == 1
        assert int(moved[tuple(int(part[-1]) for part in rest)]) == 1

    law()


@pytest.mark.parametrize("law", [law_batches_add_up, law_one_record_moves_one_count_by_one])
def test_law(law):
    law()


@pytest.mark.parametrize("law", [law_batches_add_up, law_one_record_moves_one_count_by_one])
def test_mutant_groups_renumbered_by_presence(monkeypatch, law):
    monkeypatch.setattr(counting, "_cell_index", packed)
    with pytest.raises(AssertionError):
        law()


def test_noise_of_sums_adds_up_in_squares():
    """Standard deviations of independent noises: √(3² + 4²), and over K merged groups √K times as much."""
    exact = Counts.none(NAMES)
    noisy = exact.with_noisy_cells(torch.zeros(4, 2, 2), 3.0) + exact.with_noisy_cells(torch.zeros(4, 2, 2), 4.0)
    assert noisy.noise_std == pytest.approx(5.0)
    assert noisy.merged().noise_std == pytest.approx(10.0)


def test_every_sum_has_a_row_for_each_group():
    counts = Counts.none(NAMES, 3)
    assert {len(getattr(counts, name)) for name in SUMS} == {len(NAMES)}
    assert {len(getattr(counts.merged(), name)) for name in SUMS} == {1}


def test_wider_batches_widen_the_table():
    narrow = counted(2, torch.tensor([0]), torch.tensor([1]), torch.tensor([1]))
    wide = counted(5, torch.tensor([1]), torch.tensor([4]), torch.tensor([0]))
    assert (narrow + wide).classes == (wide + narrow).classes == 5
    assert int((narrow + wide).cells.sum()) == 2
    assert int((narrow + wide).cells[0, 1, 1]) == 1


@pytest.mark.parametrize(
    ("group", "label", "pred", "loss", "says"),
    [
        ([4], [0], [0], None, "group id 4 lies outside 0..3"),
        ([0], [2], [0], None, "target id 2 lies outside 0..1"),
        ([0], [-100], [0], None, "target id -100"),
        ([0], [0], [7], None, "prediction id 7"),
        ([0, 1], [0], [0], None, "the batch has 2 examples"),
        ([0], [0], [0], [1.0, 2.0], "one loss per example"),
    ],
)
def test_refusals_are_one_line(group, label, pred, loss, says):
    with pytest.raises(ConfigurationError, match=says) as caught:
        counted(2, *map(torch.tensor, (group, label, pred)), None if loss is None else torch.tensor(loss))
    assert "\n" not in str(caught.value)


def test_a_vocabulary_is_not_a_set_of_classes():
    with pytest.raises(ConfigurationError, match=f"1 to {MAX_CELLS} counts"):
        Counts.none(NAMES, 50257)


def test_counting_is_fast():
    n = 100_000
    group, label, pred = (torch.randint(size, (n,)) for size in (4, 10, 10))
    spans = []
    for _ in range(5):
        start = time.perf_counter()
        counted(10, group, label, pred, torch.rand(n))
        spans.append(time.perf_counter() - start)
    assert min(spans) < 0.050
