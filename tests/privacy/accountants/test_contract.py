"""What every accountant keeps: found by itself in its file, held against another library, and against broken copies."""

from __future__ import annotations

import math

import pytest

from dplit.errors import ConfigurationError, PrivacyError
from dplit.privacy import Bound, Gaussian, Ledger, Sampled, Target, calibrate, epsilon, steps_within
from dplit.privacy.accountants import Accountant, available, find, names
from dplit.privacy.accountants.prv import PRV
from tests.privacy.oracle import pld_delta, pld_epsilon

EVERY = pytest.mark.parametrize("accountant", [cls() for cls in available()], ids=lambda accountant: accountant.name)
GRID = 1e-5
"""The oracle's ε is up to this share above the truth."""


def draw(rate: float, *noises: float) -> Sampled:
    return Sampled(rate, [Gaussian(noise) for noise in noises])


CASES = [  # composition, delta, the oracle's grid: homogeneous and mixed, sampled or not
    ([(draw(0.045, 1.788), 3091)], 7.7e-4, 1e-4),
    ([(draw(0.00475, 0.717), 37), (draw(0.00203, 0.488), 26), (draw(0.00066, 3.86), 11)], 1.1e-5, 2.7e-4),
    ([(draw(0.11, 0.561), 24), (draw(0.0142, 14.17), 479), (Gaussian(0.656), 1)], 2.6e-9, 1e-3),
    ([(draw(0.154, 3.717), 2)], 2.2e-7, 3.5e-5),
    ([(Gaussian(1.3), 2)], 1e-6, 1e-3),
]
EACH_CASE = pytest.mark.parametrize("case", CASES, ids=["long", "rare", "mixed", "short", "unsampled"])


def law_never_below_another_library(accountant: Accountant, case: tuple) -> None:
    composition, delta, grid = case
    true = pld_epsilon(composition, delta, grid)
    bound = accountant.epsilon(composition, delta)
    assert bound.lower <= true * (1 + GRID)
    assert true * (1 - GRID) <= bound.upper < math.inf
    assert bound.lower <= bound.estimate <= bound.upper
    assert accountant.quick_epsilon(composition, delta) >= true * (1 - GRID)
    assert bound.upper >= PRV().epsilon(composition, delta).lower


def law_monotone(accountant: Accountant) -> None:
    """More steps cost more, and a smaller δ costs more."""
    by_steps = [accountant.epsilon([(draw(0.02, 1.3), steps)], 1e-6).upper for steps in (0, 1, 10, 100, 1000)]
    by_delta = [accountant.epsilon([(draw(0.02, 1.3), 300)], delta).upper for delta in (1e-2, 1e-4, 1e-6, 1e-9)]
    assert by_steps == sorted(set(by_steps))
    assert by_delta == sorted(set(by_delta))


def law_delta_is_the_inverse_on_the_safe_side(accountant: Accountant, case: tuple) -> None:
    composition, delta, grid = case
    eps = accountant.epsilon(composition, delta).upper
    back = accountant.delta(composition, eps)
    assert back <= delta * 1.005
    assert accountant.epsilon(composition, back).upper <= eps
    assert back >= pld_delta(composition, eps, grid) * (1 - 1e-3)


def law_calibrate_never_overshoots(accountant: Accountant, target: Target, rate: float, steps: int) -> None:
    queries, spent = [8.0], [(Gaussian(12.0), 1)]
    noise = accountant.calibrate(target, rate=rate, steps=steps, queries=queries, spent=spent)
    plan = [(draw(rate, noise, *queries), steps), *spent]
    assert accountant.epsilon(plan, target.delta).upper <= target.epsilon
    assert pld_epsilon(plan, target.delta) <= target.epsilon * (1 + GRID)
    less = [(draw(rate, noise * 0.998, *queries), steps), *spent]
    assert accountant.epsilon(less, target.delta).upper > target.epsilon


def law_nothing_costs_nothing(accountant: Accountant) -> None:
    for nothing in ({}, [(draw(0.1, 1), 0)], [(draw(0.1, math.inf), 1000)], [(Gaussian(math.inf), 3)]):
        assert accountant.epsilon(nothing, 1e-5) == Bound(0, 0, 0)
        assert accountant.quick_epsilon(nothing, 1e-5) == 0
        assert accountant.delta(nothing, 0.0) <= 1e-99


@EVERY
@EACH_CASE
def test_never_below_another_library(accountant: Accountant, case: tuple) -> None:
    law_never_below_another_library(accountant, case)


@EVERY
def test_monotone_in_steps_and_delta(accountant: Accountant) -> None:
    law_monotone(accountant)


@EVERY
@EACH_CASE
def test_delta_is_the_inverse_on_the_safe_side(accountant: Accountant, case: tuple) -> None:
    law_delta_is_the_inverse_on_the_safe_side(accountant, case)


@EVERY
@pytest.mark.parametrize(("target", "rate", "steps"), [(Target(5, 1e-5), 0.1, 30), (Target(3, 1e-6), 1.0, 5)])
def test_calibrate_never_overshoots(accountant: Accountant, target: Target, rate: float, steps: int) -> None:
    law_calibrate_never_overshoots(accountant, target, rate, steps)


@EVERY
def test_nothing_costs_nothing(accountant: Accountant) -> None:
    law_nothing_costs_nothing(accountant)


@EVERY
def test_a_record_that_is_hardly_ever_drawn_costs_nothing(accountant: Accountant) -> None:
    """With probability 1 - 1e-6 no draw holds the record, so at a larger δ nothing is revealed, whatever the noise."""
    assert accountant.epsilon([(draw(1e-7, 0.5), 10)], 1.1e-6).upper == 0


@EVERY
def test_order_and_grouping_do_not_matter(accountant: Accountant) -> None:
    event, other = draw(0.01, 1), draw(0.02, 2)
    pairs = accountant.epsilon([(event, 3), (other, 4), (event, 7)], 1e-5)
    assert pairs == accountant.epsilon({other: 4, event: 10}, 1e-5)
    assert pairs == accountant.epsilon(iter([(other, 4), (event, 10)]), 1e-5)


@EVERY
def test_what_cannot_be_answered_is_refused_in_one_line(accountant: Accountant) -> None:
    for delta in (0, 1, math.nan, None, "1e-5"):
        with pytest.raises(ConfigurationError, match=r"^delta=[^\n]*$"):
            accountant.epsilon([(draw(0.01, 1), 10)], delta)
    for eps in (-1, math.inf, math.nan, None):
        with pytest.raises(ConfigurationError, match=r"^epsilon=[^\n]*$"):
            accountant.delta([(draw(0.01, 1), 10)], eps)
    with pytest.raises(ConfigurationError, match=r"^[^\n]* is no event[^\n]*$"):
        accountant.epsilon([(1.0, 3)], 1e-5)
    with pytest.raises(PrivacyError, match=r"^no finite epsilon[^\n]*$"):
        accountant.epsilon([(Gaussian(1e-200), 1)], 1e-5)
    assert accountant.delta([(Gaussian(1e-200), 1)], 1.0) == 1.0


@EVERY
def test_a_ledger_and_the_functions_take_it_by_name_class_or_instance(accountant: Accountant) -> None:
    event = draw(0.02, 1.3)
    wanted = accountant.epsilon([(event, 50)], 1e-5)
    target = Target(1.5 * wanted.upper, 1e-5)
    for given in (accountant.name, type(accountant), accountant):
        ledger = Ledger(accountant=given)
        assert ledger.accountant.name == accountant.name
        ledger.record(event, times=50)
        assert ledger.epsilon(1e-5) == wanted == epsilon([(event, 50)], 1e-5, given)
        assert Ledger.resume(ledger.state_dict(), None, given).epsilon(1e-5) == wanted
        steps = steps_within(target, event, ledger)
        assert accountant.epsilon([(event, 50 + steps)], 1e-5).upper <= target.epsilon
        assert accountant.epsilon([(event, 51 + steps)], 1e-5).upper > target.epsilon
        noise = calibrate(target, rate=0.02, steps=50, accountant=given)
        assert target.allows([(draw(0.02, noise), 50)], given)


@EVERY
def test_its_description_is_one_line(accountant: Accountant) -> None:
    assert accountant.description
    assert "\n" not in accountant.description
    assert names().count(accountant.name) == 1


def test_known_by_name() -> None:
    assert {"prv", "rdp"} <= set(names())
    assert type(find()) is type(find("prv")) is PRV
    with pytest.raises(ConfigurationError, match=r"^accountant='rpd' is not known; did you mean 'rdp'\?$"):
        find("rpd")
    with pytest.raises(ConfigurationError, match=r"^accountant=3 is no accountant; give one of prv, rdp"):
        find(3)  # type: ignore[arg-type]


# -- broken accountants, which the laws must see -----------------------------------------------------------------------


class Optimistic(PRV):
    def epsilon(self, composition, delta):
        bound = super().epsilon(composition, delta)
        return bound._replace(upper=bound.estimate * (1 - 2e-5), estimate=bound.lower)


class HastyQuick(PRV):
    def quick_epsilon(self, composition, delta):
        return super().epsilon(composition, delta).lower * 0.999


class IgnoresDelta(PRV):
    def epsilon(self, composition, delta):
        return super().epsilon(composition, max(1e-5, delta))


class Forgetful(PRV):
    """Charges no more than a hundred steps."""

    def epsilon(self, composition, delta):
        return super().epsilon([(event, min(times, 100)) for event, times in composition], delta)


class SmallDelta(PRV):
    def delta(self, composition, epsilon):
        return super().delta(composition, epsilon) * 0.99


class LargeDelta(PRV):
    def delta(self, composition, epsilon):
        return super().delta(composition, epsilon) * 1.02


class LittleNoise(PRV):
    def calibrate(self, *arguments, **options):
        return super().calibrate(*arguments, **options) * 0.999


class MuchNoise(PRV):
    def calibrate(self, *arguments, **options):
        return super().calibrate(*arguments, **options) * 1.01


class NoQueries(PRV):
    def calibrate(self, *arguments, queries, **options):
        return super().calibrate(*arguments, **options)


class StartsAtOne(PRV):
    def epsilon(self, composition, delta):
        return Bound(*(max(value, 1e-3) for value in super().epsilon(composition, delta)))


MUTANTS = [
    (Optimistic, lambda a: law_never_below_another_library(a, CASES[0])),
    (HastyQuick, lambda a: law_never_below_another_library(a, CASES[0])),
    (IgnoresDelta, law_monotone),
    (IgnoresDelta, lambda a: law_never_below_another_library(a, CASES[3])),
    (Forgetful, law_monotone),
    (SmallDelta, lambda a: law_delta_is_the_inverse_on_the_safe_side(a, CASES[1])),
    (LargeDelta, lambda a: law_delta_is_the_inverse_on_the_safe_side(a, CASES[1])),
    (LittleNoise, lambda a: law_calibrate_never_overshoots(a, Target(5, 1e-5), 0.1, 30)),
    (MuchNoise, lambda a: law_calibrate_never_overshoots(a, Target(5, 1e-5), 0.1, 30)),
    (NoQueries, lambda a: law_calibrate_never_overshoots(a, Target(5, 1e-5), 0.1, 30)),
    (StartsAtOne, law_nothing_costs_nothing),
]


@pytest.mark.parametrize(("mutant", "law"), MUTANTS, ids=[mutant.__name__ for mutant, _ in MUTANTS])
def test_mutants_are_caught(mutant: type[Accountant], law) -> None:
    with pytest.raises(AssertionError):
        law(mutant())
