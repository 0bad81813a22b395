"""What policies share that move a threshold for each group: the histogram, and where checkpoints and answers may lead."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dplit.clipping import GroupAdaptive, GroupQuantile
from dplit.clipping import adaptive_by_group as module
from dplit.clipping.adaptive_by_group import histogram
from dplit.errors import ConfigurationError
from tests.clipping.laws import GROUPS, declared


def law_histogram() -> None:
    """Counts of norms up to and over the threshold of their group, with an absent group and NaN, against numpy."""
    torch.manual_seed(0)
    norms, group = 4 * torch.rand(40), torch.randint(2, (40,))
    norms[3], norms[4] = torch.nan, 1.0
    thresholds = torch.tensor([1.0, 2.0, 3.0]).double()
    counts = histogram(norms, group, thresholds)
    for k, threshold in enumerate(thresholds.tolist()):
        of_group = norms[group == k].numpy()
        under = np.count_nonzero(of_group <= threshold)
        assert counts[k].tolist() == [under, len(of_group) - under]


def test_histogram() -> None:
    law_histogram()


def test_mutant_groups_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "of_examples", lambda values, group, norms: values.to(norms.dtype)[group.flip(0)])
    with pytest.raises(AssertionError):
        law_histogram()


@pytest.mark.parametrize("cls", [GroupQuantile, GroupAdaptive])
def test_thresholds_by_name_survive_another_order_of_groups(cls) -> None:
    policy, other = declared(cls()), declared(cls(), GROUPS[::-1])
    policy.tell(torch.tensor([[90.0, 10.0], [10.0, 90.0], [50.0, 50.0]], dtype=torch.float64))
    other.load_state_dict({**policy.state_dict(), "counts": None})
    assert other.bounds == pytest.approx(policy.bounds)
    assert len(set(policy.bounds.values())) == 3


@pytest.mark.parametrize("state", [{}, {"bounds": {"west": 1.0}}, {"bounds": dict.fromkeys(GROUPS, -1.0)}])
def test_a_checkpoint_of_others_is_refused_in_one_line(state) -> None:
    with pytest.raises(ConfigurationError, match=r"^the checkpoint") as caught:
        declared(GroupQuantile()).load_state_dict(state)
    assert "\n" not in str(caught.value)
