"""A policy is one new file: whatever lists policies finds it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

import dplit.clipping
from dplit.clipping.catalogue import LABELS, described, markdown, page, policies
from dplit.errors import ConfigurationError

NEW = '''"""Clip to half."""

from torch import Tensor

from dplit.clipping.policy import ClippingPolicy, clip


class Half(ClippingPolicy):
    """Clip every example to ½.

    Rule: wᵢ = min(1, ½/‖gᵢ‖).
    Bound: ½.
    Query: none.
    Charge: σ.
    Per-group ε: the overall ε.
    Source: a test.
    """

    @property
    def bound(self) -> float:
        return 0.5

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        return clip(norms, 0.5)
'''


@pytest.fixture
def half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file that appears in the package's folder."""
    (tmp_path / "half.py").write_text(NEW, encoding="utf-8")
    monkeypatch.setattr(dplit.clipping, "__path__", [*dplit.clipping.__path__, str(tmp_path)])
    yield
    sys.modules.pop("dplit.clipping.half", None)
    dplit.clipping.__dict__.pop("half", None)


@pytest.mark.usefixtures("half")
def test_one_new_file_is_found_by_contract_tests_and_table() -> None:
    assert "Half" in [cls.__name__ for cls in policies()]
    assert "| `Half` | wᵢ = min(1, ½/‖gᵢ‖). |" in markdown()
    from tests.clipping.laws import instances

    assert "Half" in [case.id for case in instances()]


def test_the_page_in_the_docs_is_the_one_written() -> None:
    written = Path(__file__).parents[2] / "docs" / "policies.md"
    assert written.read_text(encoding="utf-8") == page(), "run python -m dplit.clipping > docs/policies.md"


def test_the_command_prints_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_module("dplit.clipping", run_name="__main__")
    assert capsys.readouterr().out == page()


def test_every_policy_is_a_public_name() -> None:
    for cls in policies():
        assert getattr(dplit.clipping, cls.__name__) is cls
        assert cls.__name__ in dplit.clipping.__all__


@pytest.mark.parametrize("label", LABELS)
def test_a_docstring_that_leaves_something_out_is_an_error(label: str) -> None:
    class Silent(policies()[0]):
        __doc__ = "\n".join(f"    {one}: so." for one in LABELS if one != label)

    with pytest.raises(ConfigurationError, match=label):
        described(Silent)
