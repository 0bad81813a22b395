"""Models without accuracy: perplexity or loss is what they are chosen, charged and reported by, and less of it is better."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from dplit.compare.analysis import quality, results, summary
from dplit.compare.analysis.intervals import interval
from dplit.compare.analysis.quality import Quality
from dplit.compare.analysis.results import score
from dplit.compare.report import report, table
from dplit.compare.run import plan, runner
from dplit.compare.run.plan import Run
from dplit.errors import ConfigurationError
from tests.compare.fabricated import comparison, figures, language, mentioning, plain, rate, write
from tests.compare.test_compare_results import fabricate

FLAT = ("Flat", 1.0)


def law_the_point_with_the_least_loss_is_chosen(out: Path) -> None:
    """Accuracy is asked for; runs have none, so that the least validation loss decides."""
    made = comparison()
    found = fabricate(out, made, told=language)
    assert made.choose_by == "overall_accuracy"
    assert found.chosen_by == "overall_loss"
    assert runner.chosen(made, out) == plan.choose(made, rate)  # the larger learning rate has the smaller loss


def test_the_point_with_the_least_loss_is_chosen(tmp_path: Path) -> None:
    law_the_point_with_the_least_loss_is_chosen(tmp_path)


def test_mutant_the_largest_loss_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "SMALLER_IS_BETTER", ("_gap",))
    with pytest.raises(AssertionError):
        law_the_point_with_the_least_loss_is_chosen(tmp_path)


def test_what_is_there_is_scored_as_it_was(tmp_path: Path) -> None:
    run, before = plan.search(comparison())[0], tmp_path / "before"
    before.mkdir()
    write(before, run, plain)
    assert score(before, "overall_accuracy") == pytest.approx(0.5 * (0.72 + 0.7) + 0.05 * rate(run))
    write(tmp_path, run, plain, told=language)
    assert score(tmp_path, "overall_accuracy") == score(tmp_path, "overall_loss") < 0
    assert score(tmp_path, "perplexity_gap") < 0
    assert score(tmp_path, "overall_perplexity") < 0
    with pytest.raises(ConfigurationError, match="no validation worst_group_accuracy to choose by"):
        score(tmp_path, "worst_group_accuracy")


@pytest.mark.parametrize(
    ("told", "name", "stands_for"),
    [(figures, "accuracy", "overall_accuracy"), (language, "perplexity", "overall_loss")],
)
def test_what_models_are_judged_by(tmp_path: Path, told: object, name: str, stands_for: str) -> None:
    found = fabricate(tmp_path, comparison(), told=told)  # type: ignore[arg-type]
    assert (found.quality, found.chosen_by) == (Quality(name), stands_for)
    assert quality.of({"overall_loss"}) == Quality("loss")
    assert quality.of(()) == Quality("accuracy")


def law_a_cost_is_what_was_lost(out: Path) -> None:
    """Without privacy the loss is lower by 0.1; the cost of each group is by how much its perplexity is higher."""
    found = fabricate(out, comparison(seeds=[0]), told=language)
    for group, better in (("Female", 0.02), ("Male", 0.0)):
        private, without = 4 - 0.725 - better, 4 - 0.825 - better
        assert found.cost(FLAT, group).mean == pytest.approx(math.exp(private) - math.exp(without))
    assert found.cost_gap(FLAT).mean > 0
    told = dict(summary.answers(found))
    assert told["costliest for any group (perplexity)"][0]["who"].endswith("for Male")


def test_a_cost_is_what_was_lost(tmp_path: Path) -> None:
    law_a_cost_is_what_was_lost(tmp_path)


def test_mutant_a_cost_of_the_other_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quality, "cost_of", lambda self, without, private: (without, private))
    with pytest.raises(AssertionError):
        law_a_cost_is_what_was_lost(tmp_path)


def law_the_lowest_perplexity_is_the_best(out: Path) -> None:
    def apart(run: Run, split: str, group: str) -> float:
        return plain(run, split, group) - (0.2 if run.variant == "Group" else 0.0)

    told = dict(summary.answers(fabricate(out, comparison(), apart, told=language)))
    assert [each["who"] for each in told["lowest perplexity"]] == ["Flat", "Flat"]
    assert [each["who"] for each in told["lowest perplexity of the worst group"]] == ["Flat", "Flat"]
    assert "highest accuracy (share)" not in told


def test_the_lowest_perplexity_is_the_best(tmp_path: Path) -> None:
    law_the_lowest_perplexity_is_the_best(tmp_path)


def test_mutant_the_highest_perplexity_is_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quality, "best", max)
    with pytest.raises(AssertionError):
        law_the_lowest_perplexity_is_the_best(tmp_path)


def written(text: str) -> str:
    return re.sub(r"<[^>]+>|data:image[^\"]+", " ", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL))


def test_the_page_of_a_language_model_says_nothing_of_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = fabricate(tmp_path, comparison(epsilon=[1]), told=language)
    text = report.write(found).read_text()
    assert text.count("<figure>") == 6
    assert "accuracy" not in written(text).lower()
    assert "share" not in written(text)
    assert "overall_loss on the validation split" in " ".join(written(text).split())
    table.show(Console(width=160, color_system=None), found)
    told = capsys.readouterr().out
    assert re.search(r"perplexity +worst group +perplexity gap +loss +loss gap", told)
    assert "grid points were chosen by overall_loss" in told


def test_losses_alone_make_a_page(tmp_path: Path) -> None:
    found = fabricate(
        tmp_path,
        comparison(epsilon=[1]),
        told=lambda values: [row for row in language(values) if "perplexity" not in row[0]],
    )
    assert found.quality == Quality("loss")
    assert "lowest loss" in report.write(found).read_text()


def infinite(values: Mapping[str, float]) -> list[tuple[str, str, float]]:
    return [(metric, group, math.inf if math.isnan(value) else value) for metric, group, value in language(values)]


def test_a_run_that_diverged_is_not_chosen_and_does_not_break_the_page(tmp_path: Path) -> None:
    def torn(run: Run, split: str, group: str) -> float:
        diverged = (run.variant == "Flat" and rate(run) > 0.3) or run.variant == "Group"
        return -math.inf if diverged else plain(run, split, group)

    found = fabricate(tmp_path, comparison(epsilon=[1], seeds=[0]), torn, told=infinite)
    assert dict(found.chosen[FLAT])["model.init_args.learning_rate"] == 0.1
    assert found.mean(("Group", 1.0), "overall_perplexity").text() == "inf"
    assert report.write(found).is_file()


def test_the_mean_over_seeds_with_one_that_diverged_is_infinite() -> None:
    assert interval([1.0, math.inf, 2.0]).text() == "inf"


def test_terms_have_a_table_a_column_and_a_question(tmp_path: Path) -> None:
    found = fabricate(tmp_path, comparison(epsilon=[1]), told=mentioning)
    assert found.terms == ("gay", "old")
    text = " ".join(written(report.write(found).read_text()).split())
    assert "False positives among texts that mention a term" in text
    assert "all texts gay old sum of differences 1 Flat 0.250 ± 0.000 0.500 ± 0.000 0.125 ± 0.000 0.375 ± 0.000" in text
    assert "term FPR diff." in text
    assert "smallest false positive equality difference" in dict(summary.answers(found))
    assert found.groups == ("Female", "Male")
