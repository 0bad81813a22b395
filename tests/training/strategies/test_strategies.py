"""Strategies are found by their files, and a new one is one new file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.strategies import SingleDeviceStrategy, StrategyRegistry

import dplit
from dplit.errors import ConfigurationError
from dplit.privacy import Ledger
from dplit.training import strategies
from dplit.training.strategies import names, strategy_class
from dplit.training.strategies.private import PrivateHooks
from tests.checkout import ROOT, copied, passed, run

NEW = '''"""Private training on one device that counts its steps."""

from typing import Any

from torch import Tensor

from dplit.training.strategies.private import PrivateHooks
from dplit.training.strategies.single_device import OneDevice


class CountingStrategy(PrivateHooks, OneDevice):
    """Trains as DPStrategy does, and counts."""

    strategy_name = "dp_counting"
    taken = 0

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        self.taken += 1
        return super().training_step(*args, **kwargs)
'''

USE = """
import sys
from dplit.training import strategies
from tests.lightning import fit
assert "counting" in strategies.names().values()
strategy = fit(strategy="dp_counting").strategy
assert type(strategy).__name__ == "CountingStrategy", strategy
print(strategy.taken, strategy.ledger.steps, strategy.spent().epsilon > 0)
"""


@pytest.mark.parametrize("name", names())
def test_every_strategy_is_registered_and_puts_the_hooks_first(name: str) -> None:
    cls = strategy_class(name)
    assert name in StrategyRegistry.available_strategies()
    assert cls.strategy_name == name
    order = cls.__mro__
    assert order.index(PrivateHooks) < min(
        order.index(base) for base in order if base.__module__.startswith("lightning.")
    )


def test_names_are_those_of_the_files() -> None:
    assert names()["dp"] == "single_device"
    assert "private" not in names().values()
    assert strategy_class("dp") is dplit.DPStrategy
    assert issubclass(dplit.DPStrategy, SingleDeviceStrategy)


def test_asking_for_names_imports_nothing_heavy() -> None:
    code = "import sys; from dplit.training import strategies; strategies.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.slow
def test_a_new_strategy_is_one_new_file(tmp_path: Path) -> None:
    checkout = copied(tmp_path, {"dplit/training/strategies/counting.py": NEW})
    assert run(checkout, "-W", "ignore", "-c", USE).split() == ["4", "4", "True"]
    assert passed(checkout, "tests/training/strategies/test_strategies.py", "-k", "counting") == 1


def test_the_registry_takes_every_name() -> None:
    class Registry(dict[str, object]):
        def register(self, name: str, maker: object, **_: object) -> None:
            self[name] = maker

    registry = Registry()
    strategies.register(registry)
    assert set(registry) == set(names())


def test_accountant_and_noise_source_are_chosen_by_name() -> None:
    strategy = dplit.DPStrategy(accountant="rdp", noise_source="gaussian")
    assert strategy.ledger.accountant.name == "rdp"
    assert strategy.noise_source.name == "gaussian"
    shared = Ledger(accountant="rdp")
    assert dplit.DPStrategy(ledger=shared).ledger.accountant.name == "rdp"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"accountant": "prw"}, "prv"),
        ({"noise_source": "gausian"}, "gaussian"),
        ({"accountant": "rdp", "ledger": Ledger()}, "give it to the ledger"),
    ],
)
def test_a_name_that_is_not_known_is_one_line(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as refused:
        dplit.DPStrategy(**wrong)
    assert "\n" not in str(refused.value)
