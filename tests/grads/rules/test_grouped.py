"""Grouped products, as mixtures of experts use them: each row meets its expert's matrix, whoever it belongs to."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.grads.rules import grouped
from tests.grads.laws import Body, D, every_size, law_body, law_refused

EXPERTS, WIDTH = 3, 8


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(D, WIDTH)
        self.experts = nn.Parameter(torch.randn(EXPERTS, WIDTH, WIDTH) / 2)


def routed(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    """Rows sorted by expert, multiplied, and sorted back."""
    rows = m.enter(x).flatten(0, 1)
    expert, order = torch.sort(ids.flatten() % EXPERTS)
    offs = torch.bincount(expert, minlength=EXPERTS).cumsum(0).to(torch.int32)
    out = F.grouped_mm(F.grouped_mm(rows[order], m.experts, offs=offs).tanh(), m.experts, offs=offs)
    return out[order.argsort()].view(*x.shape[:2], WIDTH)


@every_size
def test_exact(n: int) -> None:
    law_body(Net(), routed, n, torch.float32)


def test_exact_where_one_expert_gets_all_rows() -> None:
    law_body(Net(), lambda m, x, ids: routed(m, x, 0 * ids + 1), dtype=torch.float32)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (lambda m, x, ids: F.grouped_mm(m.enter(x), m.experts), "has a rule for rows"),
        (
            lambda m, x, ids: F.grouped_mm(
                m.enter(x).sum(0), m.experts, offs=torch.tensor([1, 2, 4], dtype=torch.int32)
            ),
            "cannot assign to examples",
        ),
    ],
)
def test_refused(body: Body, named: str) -> None:
    law_refused(Net(), body, named)


def test_mutant_that_takes_rows_in_order_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = grouped.RowOwners
    sort = lambda owner, examples: owners(owner.sort()[0], examples)  # noqa: E731
    monkeypatch.setattr(grouped, "RowOwners", sort)
    with pytest.raises(AssertionError):
        law_body(Net(), routed, dtype=torch.float32)
