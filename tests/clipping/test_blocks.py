"""Parameters that share a threshold."""

from __future__ import annotations

import math

import pytest
import torch

from dplit.clipping import PerLayer
from dplit.clipping.blocks import Blocks
from tests.clipping.laws import ids, ready


def test_blocks_share_a_threshold() -> None:
    policy = ready(PerLayer(bounds={"0": 5.0, "": 1.0}))
    weights = policy.weights(torch.tensor([[6.0], [8.0], [4.0]]), ids(0))
    assert torch.allclose(weights[:, 0], torch.tensor([0.5, 0.5, 0.25]))
    assert policy.bound == pytest.approx(math.sqrt(26))


def law_norms_of_blocks() -> None:
    """The norm of a block is that of its parameters' gradients laid side by side, under the longest prefix that fits."""
    torch.manual_seed(0)
    gradients = {
        name: torch.randn(5, size).double() for name, size in {"0.weight": 6, "0.bias": 2, "01": 3, "2": 1}.items()
    }
    blocks = Blocks(["0", "0.", ""])
    blocks.prepare(list(gradients))
    norms = blocks.norms(torch.stack([gradient.norm(dim=1) for gradient in gradients.values()]))
    members = {"0": ["01"], "0.": ["0.weight", "0.bias"], "": ["2"]}
    for row, block in zip(norms, blocks.names, strict=True):
        together = torch.cat([gradients[name] for name in members[block]], 1)
        assert torch.allclose(row, together.norm(dim=1))


def test_norms_of_blocks() -> None:
    law_norms_of_blocks()


def test_mutant_first_prefix_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(self: Blocks, name: str) -> str:
        return next(prefix for prefix in self.prefixes if name.startswith(prefix))

    monkeypatch.setattr(Blocks, "_block", first)
    with pytest.raises(Exception, match="no trainable parameter"):
        law_norms_of_blocks()


def test_mutant_norms_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def added(self: Blocks, norms: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(self.names), norms.shape[1]).double().index_add_(0, self._block_of_parameter, norms)

    monkeypatch.setattr(Blocks, "norms", added)
    with pytest.raises(AssertionError):
        law_norms_of_blocks()


def test_a_norm_that_is_not_finite_leaves_the_whole_example_out() -> None:
    blocks = Blocks(None)
    blocks.prepare(["a", "b"])
    norms = torch.tensor([[1.0, math.inf, 1.0], [1.0, 1.0, math.nan]])
    assert blocks.spread(torch.ones(2, 3).double(), norms).tolist() == [[1.0, 0.0, 0.0]] * 2
