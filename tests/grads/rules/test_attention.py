"""Scaled dot-product attention with learned biases in its mask, and with learned queries, keys and values."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.grads.rules import attention
from tests.grads.laws import Body, D, T, every_dtype, every_size, law_body, law_refused

HEADS = 2


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(HEADS, T, T))
        self.queries = nn.Parameter(torch.randn(1, 3, D))
        self.values = nn.Parameter(torch.randn(T, D))


def relative_bias(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    """One bias for each pair of positions and each head, shared by the examples."""
    heads = x.unflatten(-1, (HEADS, -1)).transpose(1, 2)
    return F.scaled_dot_product_attention(heads, heads.tanh(), heads, m.bias).transpose(1, 2)


def learned_queries(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(m.queries, x, x.sin())


def learned_values(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    shared = F.scaled_dot_product_attention(x, x, m.values, is_causal=True)
    return shared + F.scaled_dot_product_attention(query=x, key=m.values.expand(len(x), -1, -1), value=x, scale=0.3)


BODIES = [relative_bias, learned_queries, learned_values]


@every_dtype
@every_size
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_exact(body: Body, n: int, dtype: torch.dtype) -> None:
    law_body(Net(), body, n, dtype)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (lambda m, x, ids: F.scaled_dot_product_attention(m.queries, m.queries, m.values, x), "no query, key or value"),
        (lambda m, x, ids: F.scaled_dot_product_attention(m.queries.expand(2, -1, -1), x, x), "give it one row"),
        (lambda m, x, ids: F.scaled_dot_product_attention(m.queries, x[:3], x[:3]), "first dimension"),
    ],
)
def test_refused(body: Body, named: str) -> None:
    law_refused(Net(), body, named)


def test_mutant_that_credits_rows_to_the_wrong_examples_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention.broadcast_grad
    monkeypatch.setattr(attention, "broadcast_grad", lambda grad, shape, n: right(grad.flip(0), shape, n))
    with pytest.raises(AssertionError):
        law_body(Net(), relative_bias)
