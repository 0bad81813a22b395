"""Every reduction adds all parts up and puts noise into every number once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from dplit.noise import GaussianNoise, ReleaseNoise
from dplit.training import reduce
from dplit.training.reduce import OneDevice, Reduction

HERE: dict[str, type[Reduction]] = {
    name: value
    for name, value in vars(reduce).items()
    if isinstance(value, type) and issubclass(value, Reduction) and value is not Reduction
}
"""Those that work in one process."""
every_reduction = pytest.mark.parametrize("make", HERE.values(), ids=list(HERE))
STD, DIVISOR = 3.0, 4.0


def parameters() -> dict[str, nn.Parameter]:
    return {
        "wide": nn.Parameter(torch.zeros(300, 200)),
        "double": nn.Parameter(torch.zeros(7, dtype=torch.float64)),
        "narrow": nn.Parameter(torch.zeros(50, dtype=torch.bfloat16)),
        "untouched": nn.Parameter(torch.zeros(40_000)),
        "empty": nn.Parameter(torch.zeros(0)),
    }


def parts(count: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"wide": (300, 200), "double": (7,), "narrow": (50,)}
    return [
        {k: torch.randn(s, generator=generator, dtype=torch.float64) for k, s in shapes.items()} for _ in range(count)
    ]


def mean_of(reduction: Reduction, given: list[dict[str, Tensor]], std: float) -> dict[str, Tensor]:
    for part in given:
        reduction.add({name: value.clone() for name, value in part.items()})
    return reduction.noisy_mean(parameters(), GaussianNoise().release(0), std, DIVISOR)


def law_parts_are_added_up(make: Callable[[], Reduction]) -> None:
    means = mean_of(make(), parts(5), 1e-12)
    for name in ("wide", "double", "narrow"):
        assert torch.allclose(means[name].double(), sum(part[name] for part in parts(5)) / DIVISOR, atol=1e-5)
    assert {name: value.dtype for name, value in means.items()} == {
        "wide": torch.float32,
        "double": torch.float64,
        "narrow": torch.float32,
        "untouched": torch.float32,
        "empty": torch.float32,
    }


def law_noise_is_in_every_number_once(make: Callable[[], Reduction]) -> None:
    """Also in a parameter that no example touched, and of a draw without examples."""
    for given in (parts(3), []):
        exact, noisy = mean_of(make(), given, 1e-12), mean_of(make(), given, STD)
        noise = {name: (noisy[name].double() - exact[name].double()) * DIVISOR for name in exact}
        for name in ("wide", "untouched"):
            assert abs(float(noise[name].std()) / STD - 1) < 0.02
            assert float((noise[name] == 0).double().mean()) == 0
        assert all(noise[name].shape == parameter.shape for name, parameter in parameters().items())


@every_reduction
def test_parts_are_added_up(make: type[Reduction]) -> None:
    law_parts_are_added_up(make)


@every_reduction
def test_noise_is_in_every_number_once(make: type[Reduction]) -> None:
    law_noise_is_in_every_number_once(make)


@every_reduction
def test_a_new_draw_starts_from_nothing(make: type[Reduction]) -> None:
    reduction = make()
    mean_of(reduction, parts(2), 1e-12)
    assert float(mean_of(reduction, [], 1e-12)["wide"].abs().max()) < 1e-9
    reduction.add(parts(1)[0])
    reduction.reset()
    assert float(mean_of(reduction, [], 1e-12)["wide"].abs().max()) < 1e-9


@every_reduction
def test_the_statistic_is_the_total(make: type[Reduction]) -> None:
    statistic = torch.arange(6, dtype=torch.float64).view(3, 2)
    assert torch.equal(make().total(statistic), statistic)


class _LastOnly(OneDevice):
    def add(self, sums: Mapping[str, Tensor]) -> None:
        self._sums.update(sums)


class _Twice(OneDevice):
    def noisy_mean(
        self, parameters: Mapping[str, nn.Parameter], noise: ReleaseNoise, std: float, by: float
    ) -> dict[str, Tensor]:
        totals = {name: self._take(name, parameter) for name, parameter in parameters.items()}
        noise.add(list(totals.values()), std, 1.0)
        noise.add(list(totals.values()), std, by)
        return totals


class _TouchedOnly(OneDevice):
    def noisy_mean(
        self, parameters: Mapping[str, nn.Parameter], noise: ReleaseNoise, std: float, by: float
    ) -> dict[str, Tensor]:
        silent = {name: torch.zeros_like(p) for name, p in parameters.items() if name not in self._sums}
        return {
            **super().noisy_mean({k: p for k, p in parameters.items() if k not in silent}, noise, std, by),
            **silent,
        }


@pytest.mark.parametrize(
    ("law", "mutant"),
    [
        (law_parts_are_added_up, _LastOnly),
        (law_noise_is_in_every_number_once, _Twice),
        (law_noise_is_in_every_number_once, _TouchedOnly),
    ],
)
def test_mutants_are_caught(law: Callable[[Callable[[], Reduction]], None], mutant: type[Reduction]) -> None:
    with pytest.raises((AssertionError, ZeroDivisionError)):
        law(mutant)


def law_noise_in_both_parts(make: Callable[[], Reduction]) -> None:
    """A complex number is two numbers: each part of it has the whole standard deviation."""
    parameter = {"w": nn.Parameter(torch.zeros(20_000, dtype=torch.complex64))}
    reduction = make()
    reduction.add({"w": torch.full((20_000,), 4 + 8j, dtype=torch.complex64)})
    mean = reduction.noisy_mean(parameter, GaussianNoise(seed=1).release(0), STD, DIVISOR)["w"]
    assert mean.dtype == torch.complex64
    for part, expected in ((mean.real, 1.0), (mean.imag, 2.0)):
        assert float(part.mean()) == pytest.approx(expected, abs=0.03)
        assert float(part.std()) == pytest.approx(STD / DIVISOR, rel=0.03)
    assert abs(float((mean.real * mean.imag).mean()) - 2.0) < 0.05
    untouched = make().noisy_mean(parameter, GaussianNoise(seed=1).release(0), STD, DIVISOR)["w"]
    assert float(untouched.imag.std()) == pytest.approx(STD / DIVISOR, rel=0.03)


@every_reduction
def test_noise_in_both_parts_of_complex_numbers(make: Callable[[], Reduction]) -> None:
    law_noise_in_both_parts(make)


def test_mutant_noise_in_the_real_part_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "view_as_real", lambda x: x.real.contiguous())
    with pytest.raises(AssertionError):
        law_noise_in_both_parts(OneDevice)
