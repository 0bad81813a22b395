"""Whatever a policy answers, no example contributes more than its group's share of the bound."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dplit.training import sensitivity
from dplit.training.sensitivity import bounded

RATIOS = [1.0, 0.5, 0.25]
BOUND = 2.0
numbers = st.sampled_from([0.0, 1e-30, 1e-18, 1e-3, 1.0, 1e4, 1e30, math.inf])
weights_of = st.sampled_from([-1.0, 0.0, 1e-6, 0.5, 1.0, 7.0, 1e30, math.inf, math.nan])
examples = st.lists(st.tuples(weights_of, numbers, st.integers(0, 2)), min_size=1, max_size=8)


def law_within_the_bound(rows: list[tuple[float, float, int]], parameters: int) -> None:
    """`parameters` = 0: one norm for each example; else one for each parameter and example."""
    weights, norms = (torch.tensor([row[k] for row in rows]) for k in (0, 1))
    ids = torch.tensor([row[2] for row in rows])
    if parameters:
        weights, norms = weights.expand(parameters, -1).clone(), norms.expand(parameters, -1).clone()
    held = bounded(weights, norms, ids, BOUND, RATIOS)
    assert held.shape == norms.shape
    assert held.isfinite().all()
    assert (held >= 0).all()
    usable = norms.isfinite() if not parameters else norms.isfinite().all(0).expand_as(norms)
    assert (held[~usable] == 0).all()
    moved = torch.where(held > 0, held.double() * norms.double(), 0.0)
    total = moved if not parameters else torch.linalg.vector_norm(moved, dim=0)
    assert (total <= BOUND * torch.tensor(RATIOS)[ids] * (1 + 1e-5)).all()


@pytest.mark.parametrize("parameters", [0, 1, 3])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=examples)
def test_no_contribution_passes_its_groups_share(parameters: int, rows: list[tuple[float, float, int]]) -> None:
    law_within_the_bound(rows, parameters)


@pytest.mark.parametrize("parameters", [0, 3])
def test_weights_that_keep_the_bound_are_left_alone(parameters: int) -> None:
    weights, norms = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([1.0, 0.5, 0.1])
    if parameters:
        weights, norms = weights.expand(parameters, -1), norms.expand(parameters, -1)
    assert torch.equal(bounded(weights, norms, torch.zeros(3, dtype=torch.int64), BOUND, RATIOS), weights)


def test_mutant_that_forgets_the_ratios_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(norms: Tensor, ids: Tensor, bound: float, ratios: object) -> Tensor:
        return torch.tensor(bound)

    monkeypatch.setattr(sensitivity, "_largest", whole)
    with pytest.raises(AssertionError):
        law_within_the_bound([(7.0, 1.0, 2)], 0)


def test_mutant_that_bounds_each_parameter_by_itself_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def apart(weights: Tensor, norms: Tensor, ids: Tensor, bound: float, ratios: object) -> Tensor:
        return torch.minimum(weights, bound / norms)

    monkeypatch.setattr(sensitivity, "_bounded_by_parameter", apart)
    with pytest.raises(AssertionError):
        law_within_the_bound([(7.0, 1.0, 0)], 3)
