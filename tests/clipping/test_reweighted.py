"""Declared weights of groups, inside and outside the clip."""

from __future__ import annotations

import torch

from dplit.clipping import Reweighted
from tests.clipping.laws import GROUPS, declared, ids


def test_reweighted_inside_and_outside() -> None:
    weights = dict(zip(GROUPS, [1.0, 2.0, 4.0], strict=True))
    norms, group = torch.tensor([0.5, 0.5, 10.0]), ids(0, 1, 2)
    inside, outside = (declared(Reweighted(weights, bound=2.0, where=w)) for w in ("inside", "outside"))
    assert torch.allclose(inside.weights(norms, group), torch.tensor([1.0, 2.0, 0.2]))
    assert torch.allclose(outside.weights(norms, group), torch.tensor([1.0, 2.0, 0.8]))
    assert (inside.bound, outside.bound) == (2.0, 8.0)
    assert outside.caps == dict(zip(GROUPS, [0.25, 0.5, 1.0], strict=True))
