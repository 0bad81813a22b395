"""Promises 3 to 5: noise is fresh, its own, and has the stated law."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from dplit import noise as noise_module
from dplit.noise import Noise, gaussian

DRAWS = 1_000_000
STD = 2.5
ALARM = 1e-7
"""Chance of a false alarm of each check; the draws are fresh."""


def draw(dtype: torch.dtype, noise: Noise | None = None, release: int = 0) -> Tensor:
    generator = (noise or Noise()).generator(release)
    return noise_module.gaussian(torch.empty(DRAWS, dtype=dtype), STD, generator)


def law_normal(values: Tensor, std: float = STD) -> None:
    """Kolmogorov-Smirnov, mean and variance of n values that should be N(0, std²)."""
    z = values.double().numpy() / std
    n = len(z)
    limit = stats.norm.isf(ALARM / 2)
    assert abs(z.mean()) * np.sqrt(n) < limit
    assert abs(z.var() - 1) / np.sqrt(2 / n) < limit
    assert stats.kstest(z[:: max(1, n // 200_000)], "norm").pvalue > ALARM


def law_uncorrelated(a: Tensor, b: Tensor) -> None:
    a, b = a.double().flatten(), b.double().flatten()
    assert abs(float(torch.dot(a, b) / (a.norm() * b.norm()))) < 5.5 / np.sqrt(len(a))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_law(dtype: torch.dtype) -> None:
    values = draw(dtype)
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    law_normal(values)


def test_tensors_of_one_release_are_independent() -> None:
    generator = Noise().generator(0)
    like = torch.empty(200_000)
    law_uncorrelated(gaussian(like, 1.0, generator), gaussian(like, 1.0, generator))


def test_releases_processes_and_users_seeds_share_nothing() -> None:
    torch.manual_seed(0)
    first = draw(torch.float32)
    torch.manual_seed(0)
    law_uncorrelated(first, draw(torch.float32))
    law_uncorrelated(draw(torch.float32, Noise(7), 0), draw(torch.float32, Noise(7), 1))


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draw(torch.float32)
    assert torch.equal(before, torch.get_rng_state())


def test_a_fixed_seed_repeats_a_release() -> None:
    assert torch.equal(draw(torch.float32, Noise(7), 3), draw(torch.float32, Noise(7), 3))


def test_the_whole_state_is_keyed() -> None:
    """torch's `manual_seed` reads 32 bits of its argument; ours must tell 10,000 of 2^32 apart and use every word."""
    states = torch.stack([Noise().generator(0).get_state()[24 : 24 + 8 * 624] for _ in range(3)])
    words = states.view(3, 624, 8)
    assert (words[0, :, :4] != words[1, :, :4]).any(1).float().mean() > 0.99
    assert (words[:, :, 4:] == 0).all()


@pytest.mark.parametrize("wrong", [0.99, 1.01])
def test_mutant_std_is_caught(monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    honest = gaussian
    monkeypatch.setattr(noise_module, "gaussian", lambda like, std, g: honest(like, wrong * std, g))
    with pytest.raises(AssertionError):
        law_normal(draw(torch.float32))


def test_mutant_shared_key_is_caught() -> None:
    like = torch.empty(200_000)
    with pytest.raises(AssertionError):
        law_uncorrelated(gaussian(like, 1.0, Noise(1).generator(0)), gaussian(like, 1.0, Noise(1).generator(0)))


def test_mutant_default_generator_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Noise, "generator", lambda self, release, device="cpu": torch.default_generator)
    with pytest.raises(AssertionError):
        test_releases_processes_and_users_seeds_share_nothing()
