"""A new kind of event is one new file in a checkout: ledger, journal and accountants take it as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkout import copied, passed, run

NEW = '''"""A Gaussian whose noise is stated as its privacy parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dplit import validation
from dplit.privacy.events.event import Event, fields_of, read_number


@dataclass(frozen=True)
class GaussianDP(Event, kind="gaussian_dp"):
    """A release that is μ-Gaussian differentially private: N(f(D), (Δf/μ)²). Source: Dong et al. 2019, arXiv:1905.02383."""

    mu: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "mu", validation.positive_finite("mu", self.mu))

    def dominating(self) -> tuple[float, float]:
        """Return (1, 1/μ)."""
        return 1.0, 1 / self.mu

    def for_group(self, group: str) -> GaussianDP:
        """Return the event itself."""
        return self

    def has_group(self, group: str) -> bool:
        """Return True."""
        return True

    def to_dict(self) -> dict[str, object]:
        """Return JSON types."""
        return {"kind": self.kind, "mu": self.mu}

    @classmethod
    def parse(cls, data: Mapping[str, object]) -> GaussianDP:
        """Build the event."""
        (mu,) = fields_of(data, "mu")
        return cls(read_number(mu))
'''

USE = """
from dplit.privacy import Event, Gaussian, Journal, Ledger, epsilon, read
event = Event.kinds["gaussian_dp"](0.5)
ledger = Ledger()
ledger.attach(Journal.create("ledger.jsonl", ledger.run_id))
ledger.record(event, times=3)
ledger.journal.close()
assert Ledger.resume(ledger.state_dict(), "ledger.jsonl").entries == read("ledger.jsonl").entries == ledger.entries
assert ledger.epsilon(1e-5) == epsilon({Gaussian(2.0): 3}, 1e-5)
assert ledger.by_group(1e-5, ["a"])["a"] == ledger.epsilon(1e-5)
"""


@pytest.mark.slow
def test_ledger_journal_and_accountants_take_it(tmp_path: Path) -> None:
    checkout = copied(tmp_path, {"dplit/privacy/events/gaussian_dp.py": NEW})
    run(checkout, "-c", USE)
    assert passed(checkout, "tests/privacy/events", "tests/privacy/test_ledger.py", "-m", "not slow") > 20
