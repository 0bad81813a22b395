"""DP-AdamBC: Adam without the variance of the noise."""

from __future__ import annotations

import pytest
import torch

import dplit
from dplit.models.mlp import MLP
from dplit.models.optim.adam_bc import AdamBC
from dplit.noise.gaussian import GaussianReleaseNoise
from tests.models.toy import Toy, trainer


def mean_step(optimizer_of, std, steps=3000):
    """Return the mean step of coordinates with signal 0.1 under noise of a standard deviation, over the signal's sign."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(200, dtype=torch.float64))
    optimizer = optimizer_of([weight])
    before = weight.detach().clone()
    for step in range(steps):
        if step == steps // 2:
            before = weight.detach().clone()
        weight.grad = 0.1 + std * torch.randn(200, generator=draw, dtype=torch.float64)
        optimizer.step()
    return float((before - weight.detach()).mean()) / (steps - steps // 2)


def law_steps_are_as_large_as_without_noise(optimizer_of):
    found = mean_step(optimizer_of, 0.2)
    assert found == pytest.approx(1e-3, rel=0.25), found


def test_steps_are_as_large_as_without_noise():
    law_steps_are_as_large_as_without_noise(lambda params: AdamBC(params, lambda: 0.2, floor=1e-3))


def test_mutant_the_noise_is_not_taken_out():
    with pytest.raises(AssertionError):
        law_steps_are_as_large_as_without_noise(lambda params: AdamBC(params, lambda: 0.0, floor=1e-3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_without_noise_it_is_adamw(dtype):
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64).to(dtype)) for _ in range(2))
    one = AdamBC([ours], lambda: 0.0, lr=0.01, floor=1e-30, weight_decay=0.1)
    other = torch.optim.AdamW([theirs], lr=0.01, eps=0, weight_decay=0.1)
    for step in range(5):
        phase = 1 if dtype.is_floating_point else 1 + 2j
        ours.grad = theirs.grad = phase * torch.cos(torch.arange(5.0, dtype=torch.float64) + step).to(dtype)
        one.step()
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def law_each_step_counts_with_its_own_noise(optimizer_of):
    """The closure moves the bound, as a release does; the moment is of the noise in the gradient that came out of it."""
    weight, noise = torch.nn.Parameter(torch.zeros(1)), [0.5]
    optimizer = optimizer_of([weight], lambda: noise[0])

    def closure():
        weight.grad = torch.ones(1)
        noise[0] *= 2

    for _ in range(2):
        optimizer.step(closure)
    assert optimizer.param_groups[0]["noise_moment"] == pytest.approx(0.001 * (0.999 * 0.25 + 1.0))


def test_each_step_counts_with_its_own_noise():
    law_each_step_counts_with_its_own_noise(AdamBC)


class Late(AdamBC):
    def step(self, closure=None):
        if closure is not None:
            with torch.enable_grad():
                closure()
        return super().step()


def test_mutant_the_noise_is_read_after_the_release():
    with pytest.raises(AssertionError):
        law_each_step_counts_with_its_own_noise(Late)


def test_the_module_learns_the_noise_that_was_released(tmp_path, monkeypatch):
    asked, released = [], []
    strategy = dplit.DPStrategy(dplit.clipping.Quantile(), noise=2.0, noise_seed=1)
    add = GaussianReleaseNoise.add

    def watch(self, totals, std, divisor):
        released.append(std / divisor)
        return add(self, totals, std, divisor)

    class Watched(MLP):
        def noise_std(self):
            asked.append(super().noise_std())
            return asked[-1]

    monkeypatch.setattr(GaussianReleaseNoise, "add", watch)
    trainer(tmp_path, strategy=strategy).fit(Watched([4], optimizer="adam_bc", learning_rate=0.01), datamodule=Toy())
    assert len(set(released)) == len(released) == 4
    assert asked == pytest.approx(released)
    assert Watched([4], 5, 2).noise_std() == 0.0


def test_a_run_goes_on_with_the_moment_it_had(tmp_path):
    first = trainer(tmp_path, strategy=dplit.DPStrategy(noise=2.0, noise_seed=1))
    first.fit(MLP([4], optimizer="adam_bc"), datamodule=Toy())
    first.save_checkpoint(tmp_path / "last.ckpt")
    second = trainer(tmp_path, max_epochs=2, strategy=dplit.DPStrategy(noise=2.0, noise_seed=1))
    second.fit(MLP([4], optimizer="adam_bc"), datamodule=Toy(), ckpt_path=tmp_path / "last.ckpt")
    assert second.optimizers[0].param_groups[0]["taken"] == 8
