"""A new accountant is one new file in a checkout: contract tests, ledgers and the command line take it as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.checkout import copied, passed, run

NEW = '''"""Everything as if nothing was sampled."""

import math

from dplit import validation
from dplit.privacy.accountants.base import Accountant, Bound, Composition, parts
from dplit.privacy.accountants.gaussian import gaussian_epsilon
from dplit.privacy.accountants.rdp import finite, inclusion_probability
from dplit.privacy.events import joint


class Unsampled(Accountant):
    """The closed form of all Gaussians together, without amplification by sampling."""

    name = "unsampled"
    description = "Gaussians without amplification by sampling, upper bound"

    def epsilon(self, composition: Composition, delta: float) -> Bound:
        merged, delta = parts(composition), validation.delta(delta)
        if inclusion_probability(merged) <= delta:
            return Bound(0.0, 0.0, 0.0)
        upper = finite(gaussian_epsilon(joint(p.noise_multiplier / math.sqrt(p.times) for p in merged), delta), delta).upper
        return Bound(0.0, upper, upper)
'''


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with one file more."""
    return copied(tmp_path_factory.mktemp("checkout"), {"dplit/privacy/accountants/unsampled.py": NEW})


@pytest.mark.slow
def test_the_contract_tests_take_it(checkout: Path) -> None:
    tests = "tests/privacy/accountants/test_contract.py"
    assert passed(checkout, tests, "-k", "unsampled and not mutants") >= 15


@pytest.mark.slow
def test_the_command_line_takes_it(checkout: Path) -> None:
    plan = ["--rate", "0.1", "--noise-multiplier", "2", "--steps", "50", "--delta", "1e-5", "--json"]
    answers = {
        name: json.loads(run(checkout, "-m", "dplit.account", *plan, "--accountant", name))
        for name in ("prv", "unsampled")
    }
    assert answers["unsampled"]["epsilon"] > answers["prv"]["epsilon"]
    assert "unsampled" in run(checkout, "-m", "dplit.account", "--help")


@pytest.mark.slow
def test_a_ledger_and_its_statement_take_it(checkout: Path) -> None:
    code = (
        "from dplit.privacy import *; from dplit.privacy.statement import *\n"
        "ledger = Ledger(accountant='unsampled'); ledger.record(Sampled(0.1, [Gaussian(2.0)]), times=50)\n"
        "print(statement(ledger, Facts(1e-5))['accountant'])"
    )
    assert run(checkout, "-c", code) == "Gaussians without amplification by sampling, upper bound\n"
