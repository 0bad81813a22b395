"""Table look-ups by ids of each example, and by constant ids that all examples share."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.grads.factors.row_sparse import RowSparseGrad
from dplit.grads.factors.vjp import VjpGrad
from tests.grads.laws import Body, D, T, V, every_dtype, every_size, law_body, law_refused


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(V, D), nn.Embedding(V, D, padding_idx=1)
        self.places = nn.Embedding(T + 5, D, padding_idx=2)


def few_rows(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    """A table shorter than what is looked up in it, such as token types and relative distances."""
    y = F.embedding(ids.repeat(1, 5), m.words.weight).unflatten(1, (T, 5)).prod(2) + F.embedding(ids, m.kinds.weight)
    near = (torch.arange(T)[:, None] - torch.arange(T)) % V
    return y + F.embedding(near, m.words.weight).prod(0) * x + F.embedding(ids.repeat(1, 3), m.kinds.weight)[:, -T:]


def positions(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    """Constant ids: for all examples, repeated for each, and of padding."""
    where = torch.arange(T)
    return x * m.places(where) + m.places(where.expand(len(x), -1)) + m.places(where[None] + 1) * m.kinds(ids)


def time_major(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    return (m.words(ids.T) * x.transpose(0, 1)).transpose(0, 1)


BODIES = [few_rows, positions, time_major]


@every_dtype
@every_size
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_exact(body: Body, n: int, dtype: torch.dtype) -> None:
    law_body(Net(), body, n, dtype)


def test_exact_in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("factors.base", "factors.row_sparse"):
        monkeypatch.setattr(f"dplit.grads.{module}.MAX_INSTANTIATED", 40)
    for body in BODIES:
        law_body(Net(), body)


def test_position_tables_cost_no_backward_of_their_own() -> None:
    gradients = law_body(Net(), positions)
    kinds = {type(grad) for grad in gradients.factors["places.weight"]}
    assert RowSparseGrad in kinds
    assert VjpGrad not in kinds


@pytest.mark.parametrize("option", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}])
def test_options_that_couple_examples_are_refused(option: dict[str, float]) -> None:
    law_refused(Net(), lambda m, x, ids: F.embedding(ids, m.words.weight, **option), next(iter(option)))


def test_mutant_that_gives_padding_a_gradient_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "masked_fill", lambda x, mask, value: x)
    with pytest.raises(AssertionError):
        law_body(Net(), positions)
