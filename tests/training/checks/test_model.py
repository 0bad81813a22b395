"""Modules and optimizers that a private step does not serve are refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dplit.errors import ConfigurationError, PrivacyError
from dplit.training.checks.model import check_norms, check_optimizers


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm1d(3), nn.SyncBatchNorm(3), nn.BatchNorm2d(3).eval(), nn.InstanceNorm1d(3, track_running_stats=True)],
)
def test_batch_statistics_are_refused_by_name(layer: nn.Module) -> None:
    with pytest.raises(PrivacyError, match=r"body\.1"):
        check_norms(nn.ModuleDict({"body": nn.Sequential(nn.Linear(3, 3), layer)}))


@pytest.mark.parametrize(
    "layer", [nn.GroupNorm(1, 3), nn.LayerNorm(3), nn.InstanceNorm1d(3), nn.BatchNorm1d(3, affine=False).eval()]
)
def test_what_keeps_to_one_example_passes(layer: nn.Module) -> None:
    check_norms(nn.Sequential(layer))


def test_one_optimizer_over_the_modules_own_parameters_passes() -> None:
    module = nn.Linear(3, 2)
    check_optimizers([torch.optim.SGD(module.parameters(), lr=0.1)], module)


def test_what_the_private_step_does_not_reach_is_refused() -> None:
    module, other = nn.Linear(3, 2), nn.Linear(3, 2)
    own = torch.optim.SGD(module.parameters(), lr=0.1)
    with pytest.raises(PrivacyError, match="2 optimizers"):
        check_optimizers([own, torch.optim.SGD(module.parameters(), lr=0.1)], module)
    with pytest.raises(PrivacyError, match="0 optimizers"):
        check_optimizers([], module)
    with pytest.raises(PrivacyError, match="outside the LightningModule"):
        check_optimizers([torch.optim.SGD([*module.parameters(), *other.parameters()], lr=0.1)], module)
    with pytest.raises(ConfigurationError, match="every parameter is frozen"):
        check_optimizers([own], nn.Linear(3, 2).requires_grad_(False))


@pytest.mark.parametrize("hook", ["register_hook", "register_post_accumulate_grad_hook"])
def test_gradient_hooks_are_refused_by_name(hook: str) -> None:
    module = nn.Sequential(nn.Linear(3, 2))
    getattr(module[0].weight, hook)(lambda *_: None)
    with pytest.raises(PrivacyError, match=r"0\.weight has a gradient hook"):
        check_optimizers([torch.optim.SGD(module.parameters(), lr=0.1)], module)
