"""The answers in short: the best variant, its equals, and whether intervals overlap."""

from __future__ import annotations

from pathlib import Path

from dplit.compare.analysis import summary
from dplit.compare.analysis.intervals import Interval
from dplit.compare.run import plan
from tests.compare.fabricated import comparison, fabricate, plain


def test_overlap_is_said() -> None:
    assert summary.overlap(Interval(0.5, 0.1, 3), Interval(0.65, 0.1, 3))
    assert not summary.overlap(Interval(0.5, 0.1, 3), Interval(0.75, 0.1, 3))
    assert summary.overlap(Interval(0.5, 0.1, 3), Interval(0.9, float("nan"), 1))


def test_the_best_is_named_with_its_ties(tmp_path: Path) -> None:
    measured = fabricate(tmp_path, comparison(), plain)
    answers = dict(summary.answers(measured))
    assert [answer.who for answer in answers["highest accuracy (share)"]] == ["Flat, Group"] * 2
    assert answers["highest accuracy (share)"][0].figure == "0.736 ± 0.002"
    assert plan.exact(0.1) == "0.1"
