"""Modules and optimizers that a private step does not serve are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dplit.errors import ConfigurationError, PrivacyError
from dplit.training.checks.model import FixedNorms, check_norms, check_optimizers, has_fixed_statistics


def sealed(layer: nn.Module) -> nn.Module:
    """Frozen as Lightning's finetuning callbacks do it."""
    layer.track_running_stats = False
    return layer.requires_grad_(False)


BY_THE_BATCH = [
    nn.BatchNorm1d(3),
    nn.BatchNorm1d(3).requires_grad_(False),
    nn.BatchNorm1d(3, affine=False),
    nn.BatchNorm3d(3, momentum=0.0),
    nn.SyncBatchNorm(3),
    nn.LazyBatchNorm2d(),
    sealed(nn.BatchNorm2d(3)),
    nn.BatchNorm2d(3, track_running_stats=False),
    nn.BatchNorm2d(3, track_running_stats=False).eval(),
    nn.InstanceNorm1d(3, track_running_stats=True),
]
BY_ITSELF = [
    nn.GroupNorm(1, 3),
    nn.LayerNorm(3),
    nn.InstanceNorm1d(3),
    nn.InstanceNorm1d(3).eval(),
    nn.InstanceNorm2d(3, affine=True, track_running_stats=True).eval(),
    nn.BatchNorm1d(3, affine=False).eval(),
    nn.BatchNorm2d(3).eval(),
    nn.BatchNorm2d(3).eval().requires_grad_(False),
    nn.SyncBatchNorm(3).eval(),
    sealed(nn.BatchNorm2d(3)).eval(),
]


@pytest.mark.parametrize("layer", BY_THE_BATCH, ids=str)
def test_batch_statistics_are_refused_by_name(layer: nn.Module) -> None:
    with pytest.raises(PrivacyError, match=r"body\.1") as refused:
        check_norms(nn.ModuleDict({"body": nn.Sequential(nn.Linear(3, 3), layer)}))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("layer", BY_ITSELF, ids=str)
def test_what_keeps_to_one_example_passes(layer: nn.Module) -> None:
    check_norms(nn.Sequential(layer))


def law_verdicts_are_those_of_an_experiment(layer: nn.Module) -> None:
    """A layer passes where a row alone is normalised as in company, and nothing is written."""
    rows = torch.randn(
        4, 3, *[5] * (2 if "2d" in type(layer).__name__ else 1 if "Instance" in type(layer).__name__ else 0)
    )
    before = {name: value.clone() for name, value in layer.named_buffers()}
    together, alone = layer(rows), torch.cat([layer(rows[i : i + 1]) for i in range(4)])
    same = torch.allclose(together, alone, atol=1e-6)
    kept = all(torch.equal(value, before[name]) for name, value in layer.named_buffers())
    assert has_fixed_statistics(layer) == (same and kept)


SIMPLE = [
    layer.train(mode)
    for mode in (True, False)
    for layer in (
        nn.BatchNorm1d(3),
        nn.BatchNorm2d(3),
        nn.BatchNorm2d(3, affine=False),
        sealed(nn.BatchNorm2d(3)),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.InstanceNorm2d(3, track_running_stats=True),
    )
]


@pytest.mark.parametrize("layer", SIMPLE, ids=lambda layer: f"{layer} {'train' if layer.training else 'eval'}")
def test_verdicts_are_those_of_an_experiment(layer: nn.Module) -> None:
    torch.manual_seed(0)
    if layer.training and isinstance(layer, nn.BatchNorm1d):
        layer(torch.randn(8, 3))
        assert not has_fixed_statistics(layer)
        return
    law_verdicts_are_those_of_an_experiment(layer)


@pytest.mark.parametrize(
    ("layer", "mutant"),
    [
        (nn.BatchNorm2d(3, track_running_stats=False).eval(), lambda layer: not layer.training),
        (sealed(nn.BatchNorm2d(3)).train(), lambda layer: not layer.track_running_stats),
        (nn.InstanceNorm2d(3, track_running_stats=True).train(), lambda layer: layer.running_mean is not None),
    ],
    ids=["eval is enough", "not tracking is enough", "having statistics is enough"],
)
def test_mutant_verdicts_are_caught(layer: nn.Module, mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    law_verdicts_are_those_of_an_experiment(layer)
    monkeypatch.setitem(globals(), "has_fixed_statistics", mutant)
    with pytest.raises(AssertionError):
        law_verdicts_are_those_of_an_experiment(layer)


def test_fixed_norms_are_held_and_no_other() -> None:
    fixed, free = nn.BatchNorm1d(3).eval(), nn.BatchNorm1d(3)
    module = nn.Sequential(fixed, free, nn.Dropout())
    held = FixedNorms(module)
    module.train()
    held.hold()
    assert [layer.training for layer in module] == [False, True, True]


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
