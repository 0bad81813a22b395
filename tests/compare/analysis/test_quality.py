"""Models without accuracy: perplexity or loss is what they are chosen, charged and reported by, and less of it is better."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dplit.compare.analysis import quality, results, summary
from dplit.compare.analysis.quality import Quality
from dplit.compare.analysis.results import score
from dplit.compare.run import plan, runner
from dplit.compare.run.plan import Run
from dplit.errors import ConfigurationError
from tests.compare.fabricated import comparison, fabricate, figures, language, plain, rate, write

FLAT = ("Flat", 1.0)


def law_the_point_with_the_least_loss_is_chosen(out: Path) -> None:
    """Accuracy is asked for; runs have none, so that the least validation loss decides."""
    made = comparison()
    measured = fabricate(out, made, figures_of=language)
    assert made.choose_by == "overall_accuracy"
    assert measured.chosen_by == "overall_loss"
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
    write(tmp_path, run, plain, figures_of=language)
    assert score(tmp_path, "overall_accuracy") == score(tmp_path, "overall_loss") < 0
    assert score(tmp_path, "perplexity_gap") < 0
    assert score(tmp_path, "overall_perplexity") < 0
    with pytest.raises(ConfigurationError, match="no validation worst_group_accuracy to choose by"):
        score(tmp_path, "worst_group_accuracy")


@pytest.mark.parametrize(
    ("figures_of", "name", "stands_for"),
    [(figures, "accuracy", "overall_accuracy"), (language, "perplexity", "overall_loss")],
)
def test_what_models_are_judged_by(tmp_path: Path, figures_of: object, name: str, stands_for: str) -> None:
    measured = fabricate(tmp_path, comparison(), figures_of=figures_of)  # type: ignore[arg-type]
    assert (measured.quality, measured.chosen_by) == (Quality(name), stands_for)
    assert quality.of({"overall_loss"}) == Quality("loss")
    assert quality.of(()) == Quality("accuracy")


def law_a_cost_is_what_was_lost(out: Path) -> None:
    """Without privacy the loss is lower by 0.1; the cost of each group is by how much its perplexity is higher."""
    measured = fabricate(out, comparison(seeds=[0]), figures_of=language)
    for group, better in (("Female", 0.02), ("Male", 0.0)):
        private, without = 4 - 0.725 - better, 4 - 0.825 - better
        assert measured.cost(FLAT, group).mean == pytest.approx(math.exp(private) - math.exp(without))
    assert measured.cost_gap(FLAT).mean > 0
    answers = dict(summary.answers(measured))
    assert answers["costliest for any group (perplexity)"][0].who.endswith("for Male")


def test_a_cost_is_what_was_lost(tmp_path: Path) -> None:
    law_a_cost_is_what_was_lost(tmp_path)


def test_mutant_a_cost_of_the_other_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quality, "cost_of", lambda self, without, private: (without, private))
    with pytest.raises(AssertionError):
        law_a_cost_is_what_was_lost(tmp_path)


def law_the_lowest_perplexity_is_the_best(out: Path) -> None:
    def apart(run: Run, split: str, group: str) -> float:
        return plain(run, split, group) - (0.2 if run.variant == "Group" else 0.0)

    answers = dict(summary.answers(fabricate(out, comparison(), apart, figures_of=language)))
    assert [answer.who for answer in answers["lowest perplexity"]] == ["Flat", "Flat"]
    assert [answer.who for answer in answers["lowest perplexity of the worst group"]] == ["Flat", "Flat"]
    assert "highest accuracy (share)" not in answers


def test_the_lowest_perplexity_is_the_best(tmp_path: Path) -> None:
    law_the_lowest_perplexity_is_the_best(tmp_path)


def test_mutant_the_highest_perplexity_is_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quality, "best", lambda self, values: max(values))
    with pytest.raises(AssertionError):
        law_the_lowest_perplexity_is_the_best(tmp_path)
