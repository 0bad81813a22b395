"""Where the sums of one draw come together: over physical batches, over devices, and with the noise that is added once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dplit.noise import ReleaseNoise


class Reduction(ABC):
    """Adds up the clipped gradients of one draw and returns their noisy mean.

    What one device computes is a part of the sum; `noisy_mean` returns the mean of the whole sum, with noise in every
    number exactly once, placed as the parameters are. A complex number is two numbers, its real and its imaginary part.
    """

    @abstractmethod
    def reset(self) -> None:
        """Start a draw; sums of an earlier one are dropped."""

    @abstractmethod
    def add(self, sums: Mapping[str, Tensor]) -> None:
        """Add `{parameter name: Σᵢ wᵢ gᵢ}` of one physical batch, in float32 or wider; the tensors may be kept and written to."""

    @abstractmethod
    def noisy_mean(
        self, parameters: Mapping[str, nn.Parameter], noise: ReleaseNoise, std: float, divisor: float
    ) -> dict[str, Tensor]:
        """Return `{name: (sum + N(0, std²)) / divisor}` for every parameter, also for one that no example touched.

        The sums are taken out, so that a release that fails leaves no half-noised one behind.

        Args:
            parameters: by name, all that are trained.
            noise: of this release.
            std: standard deviation of the noise, in the unit of the sums.
            divisor: what the noisy sums are divided by, above 0.
        """

    @abstractmethod
    def total(self, statistic: Tensor) -> Tensor:
        """Return the sum over devices of a policy's statistic, float64 on the CPU."""


class OneDevice(Reduction):
    """All examples are computed here, so each sum is whole already."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def reset(self) -> None:
        """Start a draw."""
        self._sums = {}

    def add(self, sums: Mapping[str, Tensor]) -> None:
        """Add the sums of one physical batch."""
        for name, part in sums.items():
            self._sums[name] = part if name not in self._sums else self._sums[name].add_(part)

    def noisy_mean(
        self, parameters: Mapping[str, nn.Parameter], noise: ReleaseNoise, std: float, divisor: float
    ) -> dict[str, Tensor]:
        """Return the noisy mean of each parameter's sum, in float32 or, for a float64 parameter, float64; or complex likewise."""
        totals = {name: self._take(name, parameter) for name, parameter in parameters.items()}
        noise.add([torch.view_as_real(t) if t.is_complex() else t for t in totals.values()], std, divisor)
        return totals

    def total(self, statistic: Tensor) -> Tensor:
        """Return the statistic: it is of all examples."""
        return statistic

    def _take(self, name: str, parameter: Tensor) -> Tensor:
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        if name not in self._sums:
            return torch.zeros(parameter.shape, dtype=dtype, device=parameter.device)
        return self._sums.pop(name).detach().to(dtype).resolve_conj().contiguous()
