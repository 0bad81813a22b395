"""A new noise source is one new file in a checkout: the contract tests and `find` take it as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkout import copied, passed, run

NEW = '''"""Gaussian noise from numpy."""

import numpy as np
import torch
from torch import Tensor

from dplit.noise.base import NoiseSource, ReleaseNoise


class NumpyNoise(NoiseSource):
    """N(0, std²) from numpy's generators, drawn in float64."""

    name = "numpy"

    @property
    def description(self) -> str:
        return f"Gaussian from numpy, seed {self.seed}"

    def release(self, number: int) -> ReleaseNoise:
        key = None if self.seed is None else [self.seed, number, self.rank, *self.stream.encode()]
        return NumpyRelease(np.random.default_rng(key))


class NumpyRelease(ReleaseNoise):
    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def add(self, sums, std, divisor) -> None:
        for tensor in sums:
            tensor.add_(self.like(tensor, std)).div_(divisor)

    def like(self, tensor: Tensor, std: float) -> Tensor:
        dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        return torch.as_tensor(self._generator.normal(0.0, std, tuple(tensor.shape))).to(tensor.device, dtype)
'''


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with one file more."""
    return copied(tmp_path_factory.mktemp("checkout"), {"dplit/noise/numpy_noise.py": NEW})


@pytest.mark.slow
def test_the_contract_tests_take_it(checkout: Path) -> None:
    assert passed(checkout, "tests/noise/test_noise.py", "-k", "numpy") >= 10


@pytest.mark.slow
def test_it_is_found_and_a_private_step_takes_it(checkout: Path) -> None:
    code = (
        "import torch; from dplit import noise; from dplit.clipping import Flat; from dplit.privacy import Ledger\n"
        "from dplit.training.step import PrivateStep\n"
        "assert noise.names() == ('gaussian', 'numpy')\n"
        "layer = torch.nn.Linear(3, 2)\n"
        "step = PrivateStep(layer, Flat(), noise_multiplier=1.0, rate=0.1, expected_batch_size=4, ledger=Ledger(),"
        " noise=noise.find('numpy')(seed=5))\n"
        "step.release()\n"
        "expected = noise.find('numpy')(seed=5).release(1).like(layer.weight, 1.0) / 4\n"
        "assert torch.allclose(layer.weight.grad, expected)"
    )
    run(checkout, "-c", code)
