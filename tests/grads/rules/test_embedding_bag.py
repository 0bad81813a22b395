"""Bags of embeddings: sums, means and maxima of table rows, with padding and weights of the ids."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.grads.rules import embedding_bag
from tests.grads.laws import Body, D, N, T, V, every_dtype, every_size, law_body, law_refused


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sum, self.mean, self.max = (
            nn.EmbeddingBag(V, D, mode=mode, padding_idx=padding)
            for mode, padding in (("sum", None), ("mean", 0), ("max", -1))
        )
        self.weights = nn.Parameter(torch.rand(T))


def bags(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    y = m.sum(ids) * m.mean(ids) + m.max(ids) + m.sum(ids[:, :2], per_sample_weights=x[:, :2, 0])
    many = m.mean(ids.repeat_interleave(3, 0)).unflatten(0, (-1, 3)).sin()
    padded = m.mean(ids * 0) + m.max(ids * 0 + V - 1) + m.sum.weight[0]
    constant = F.embedding_bag(
        torch.arange(T).expand(len(x), -1), m.sum.weight, per_sample_weights=x[..., 1], mode="sum"
    )
    return y + many.sum(1) + padded + constant + F.embedding_bag(torch.arange(4).view(1, 4), m.mean.weight)


@every_dtype
@every_size
def test_exact(n: int, dtype: torch.dtype) -> None:
    law_body(Net(), bags, n, dtype)


def test_exact_in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("factors.base", "factors.row_sparse"):
        monkeypatch.setattr(f"dplit.grads.{module}.MAX_INSTANTIATED", 40)
    law_body(Net(), bags)


def test_exact_with_a_frozen_table() -> None:
    net = Net()
    net.mean.weight.requires_grad_(False)
    law_body(net, bags)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (lambda m, x, ids: m.sum(ids.flatten(), torch.arange(0, N * T, T)), "embedding_bag on sum.weight .*offsets"),
        (lambda m, x, ids: F.embedding_bag(ids, m.sum.weight, scale_grad_by_freq=True), "scale_grad_by_freq"),
        (lambda m, x, ids: F.embedding_bag(ids, m.sum.weight, max_norm=1.0), "max_norm"),
        (lambda m, x, ids: m.sum(ids, per_sample_weights=m.weights.expand(N, -1)), "per_sample_weights"),
        (lambda m, x, ids: F.embedding_bag(ids, m.mean.weight, per_sample_weights=x[..., 0]), "mode='mean'"),
        (lambda m, x, ids: m.sum(ids[:3]), "first dimension"),
    ],
)
def test_refused(body: Body, named: str) -> None:
    law_refused(Net(), body, named)


def test_mutant_that_counts_padding_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(embedding_bag.POOLS, "mean", lambda rows, counts: rows.mean(1))
    with pytest.raises(AssertionError):
        law_body(Net(), bags)
