"""A threshold for each parameter."""

from __future__ import annotations

import math

import torch

from dplit.clipping import PerLayer
from tests.clipping.laws import ids, ones, ready, tensors


def test_per_layer_clips_each_parameter_alone() -> None:
    policy = ready(PerLayer(bound=3.0))
    norms = torch.tensor([[10.0, 0.1], [0.1, 10.0], [math.sqrt(3), math.sqrt(3)]])
    each = 3 / math.sqrt(3)
    assert torch.allclose(policy.weights(norms, ids(0, 0)), (each / norms).clamp(max=1))


def test_a_row_of_norms_for_each_parameter() -> None:
    policy = ready(PerLayer())
    assert policy.weights(*tensors(policy, [ones(1.0, 0)])).shape == (3, 1)
