"""Noisy counts: large groups keep their figures, and what is lost in the noise is suppressed."""

from __future__ import annotations

import math

import pytest
import torch

from dplit.fairness.metrics import rates
from dplit.fairness.metrics.catalogue import PER_GROUP as ALL_PER_GROUP
from dplit.fairness.metrics.counts import Counts
from tests.fairness.metrics.cases import NAMES, SIGMA, figures, large_and_absent, noisy, total

PER_GROUP = tuple(metric for metric in ALL_PER_GROUP if "perplexity" not in metric)


def law_noise_hides_absent_groups_and_spares_large_ones():
    for c in (2, 10):
        exact = large_and_absent(c)
        for seed in range(20):
            got, truth = figures(noisy(exact, seed)), figures(exact)
            for name in ("a", "b"):
                assert got["accuracy", name] == pytest.approx(truth["accuracy", name], abs=0.05)
            for name in ("c", "d"):
                assert all(math.isnan(got[metric, name]) for metric in PER_GROUP)
            assert got["accuracy_gap", ""] == pytest.approx(truth["accuracy_gap", ""], abs=0.07)


def test_noise_hides_absent_groups_and_spares_large_ones():
    law_noise_hides_absent_groups_and_spares_large_ones()


def test_mutant_nothing_suppressed(monkeypatch):
    monkeypatch.setattr(rates, "is_known", lambda total, counts, cells: total > 0)
    with pytest.raises(AssertionError):
        law_noise_hides_absent_groups_and_spares_large_ones()


def test_mutant_cells_clamped_before_they_are_summed(monkeypatch):
    release = Counts.with_noisy_cells
    monkeypatch.setattr(Counts, "with_noisy_cells", lambda self, x, std: release(self, x.clamp_min(0), std))
    with pytest.raises(AssertionError):
        law_noise_hides_absent_groups_and_spares_large_ones()


def test_noisy_counts_carry_no_loss_and_rates_stay_in_range():
    counts = noisy(large_and_absent(2), 0)
    got = figures(counts)
    assert all(math.isnan(got["loss", name]) for name in NAMES)
    assert math.isnan(total(counts, "overall_loss"))
    extreme = counts.with_noisy_cells(torch.tensor([[[900.0, -80.0], [-90.0, 950.0]]] * 4), SIGMA)
    shares = [figures(extreme)[metric, "a"] for metric in ("accuracy", "tpr", "fpr", "selection_rate")]
    assert shares[:3] == [1.0, 1.0, 0.0]
    assert 0.0 <= shares[3] <= 1.0
