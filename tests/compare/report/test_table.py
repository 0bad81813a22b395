"""The table on the screen: every contender has a line, with its point, its figures and its seeds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.console import Console

from dplit.compare.analysis.results import Results
from dplit.compare.report import table
from dplit.compare.run import run_folder
from tests.compare.fabricated import comparison, fabricate, language


@pytest.fixture
def results(tmp_path: Path) -> Results:
    made = comparison()
    measured = fabricate(tmp_path, made)
    failed = measured.of(("Group", 3.0))[-1]
    run_folder.prepare(tmp_path, failed)
    run_folder.fail(tmp_path, failed, "RuntimeError: <script>alert(1)</script> & so on", "Traceback ...")
    return Results(made, tmp_path, measured.chosen)


def test_every_contender_has_a_line(results: Results) -> None:
    lines = [line for epsilon in (1.0, 3.0, None) for line in table.lines(results, epsilon)]
    contenders = [("1", "Flat"), ("1", "Group"), ("3", "Flat"), ("3", "Group"), ("none", "not private")]
    assert [(line.epsilon, line.variant) for line in lines] == contenders
    assert [line.seeds for line in lines] == [3, 3, 3, 2, 3]
    assert {line.point for line in lines} == {("0.5",)}
    assert all(len(line.figures) == len(table.shown(results)) for line in lines)


def test_the_table_shows_figures_and_failures(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    table.show(Console(width=140, color_system=None), results)
    output = capsys.readouterr().out
    assert "failed Group/eps-3/learning_rate-0.5/seed-2: RuntimeError: <script>" in output
    assert re.search(r"3 +Flat +0\.5 +0\.736 ± 0\.002 +0\.726 ± 0\.002 +0\.020 ± 0\.000 .* 3", output)
    assert re.search(r"none +not private", output)
    assert "grid points were chosen by overall_accuracy on the validation split" in output


def test_missing_runs_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table.show(Console(width=140), Results(comparison(), tmp_path, {}))
    assert capsys.readouterr().out.strip() == "10 runs are still to be made"


def test_a_language_model_has_columns_of_its_own(tmp_path: Path) -> None:
    shown = table.shown(fabricate(tmp_path, comparison(epsilon=[1]), figures_of=language))
    assert list(shown.values()) == ["perplexity", "worst group", "perplexity gap", "loss", "loss gap"]
