"""Global clipping, against its published rule."""

from __future__ import annotations

import pytest
import torch

from dplit.clipping import Global
from dplit.clipping.global_cutoff import at_least_bound
from dplit.errors import ConfigurationError

NONE = torch.zeros(0, dtype=torch.int64)


def test_global_scales_all_alike_and_leaves_out_the_large() -> None:
    norms = torch.tensor([0.0, 1.0, 9.9, 10.1])
    assert torch.allclose(Global(2.0, 10.0).weights(norms, NONE), torch.tensor([0.2, 0.2, 0.2, 0.0]))


def test_a_cutoff_below_the_bound_is_refused() -> None:
    at_least_bound(2.0, 2.0)
    with pytest.raises(ConfigurationError, match=r"cutoff=1\.9 is below bound=2"):
        at_least_bound(1.9, 2.0)
