"""False positives among the texts that mention a term, against fairlearn's rate of each such subset."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fairlearn.metrics import false_positive_rate
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dplit.errors import ConfigurationError
from dplit.fairness import FairnessMonitor
from dplit.fairness.metrics import terms
from dplit.fairness.metrics.counts import Counts, count
from dplit.fairness.metrics.equalized_odds import false_positive_rates
from dplit.fairness.metrics.terms import PER_TERM, SUMMARY, count_terms, term_rows
from dplit.fairness.monitor.outputs import Outcome
from tests.fairness.fairness_project import TERMS, Mentioning, Model, Project, Texts, Writer
from tests.fairness.metrics.cases import same
from tests.fairness.monitor.test_monitor import fitted, read, values
from tests.fairness.monitor.test_release import run_noisy

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
]
LAW = settings(max_examples=60, derandomize=True, deadline=None, database=None, phases=[Phase.generate])


def outcome_of(label, pred, classes=2):
    return Outcome(torch.tensor(label), torch.tensor(pred), None, None, classes)


def figures_of(mentions, label, pred, batch=7):
    """Rows of some texts, counted in batches."""
    by_term, counts = Counts.none(TERMS), Counts.none(("all of them",))
    for at in torch.arange(len(label)).split(batch):
        part = outcome_of(label[at].tolist(), pred[at].tolist())
        by_term += count_terms(TERMS, mentions[at], part)
        counts += count(("all of them",), 2, torch.zeros(len(at)).long(), part.label, part.pred)
    return {(row.metric, row.group): row.value for row in term_rows(by_term, counts)}


def rate(label, pred):
    return false_positive_rate(label, pred, pos_label=1) if (label == 0).any() else math.nan


def law_rates_are_of_the_negatives_that_mention_a_term():
    one = st.tuples(st.lists(st.booleans(), min_size=3, max_size=3), st.integers(0, 1), st.integers(0, 1))

    @LAW
    @given(st.lists(one, min_size=1, max_size=30))
    def law(drawn):
        mentions, label, pred = (np.array(part) for part in zip(*drawn, strict=True))
        got = figures_of(torch.tensor(mentions), torch.tensor(label), torch.tensor(pred))
        whole, away = rate(label, pred), []
        for t, term in enumerate(TERMS):
            mine = mentions[:, t]
            expected = rate(label[mine], pred[mine])
            away.append(expected - whole)
            assert got["term_negatives", term] == (label[mine] == 0).sum()
            assert same(got["term_fpr", term], expected)
            assert same(got["term_fpr_difference", term], expected - whole)
        known = [abs(each) for each in away if not math.isnan(each)]
        assert same(got["overall_fpr", ""], whole)
        assert same(got["false_positive_equality_difference", ""], sum(known) if known else math.nan)
        assert {metric for metric, _ in got} == {*PER_TERM, *SUMMARY}

    law()


def test_rates_are_of_the_negatives_that_mention_a_term():
    law_rates_are_of_the_negatives_that_mention_a_term()


def test_mutant_a_text_counts_for_its_first_term_alone(monkeypatch):
    real = terms.count_terms
    first = lambda mentions: mentions & (mentions.cumsum(1) == 1)  # noqa: E731
    monkeypatch.setattr(
        f"{__name__}.count_terms", lambda names, mentions, outcome: real(names, first(mentions), outcome)
    )
    with pytest.raises(AssertionError):
        law_rates_are_of_the_negatives_that_mention_a_term()


def test_mutant_a_share_of_all_that_mention_it(monkeypatch):
    share = lambda counts: counts.cells[:, 0, 1:].double() / counts.cells.sum((1, 2))[:, None]  # noqa: E731
    monkeypatch.setattr(terms, "false_positive_rates", share)
    with pytest.raises(AssertionError):
        law_rates_are_of_the_negatives_that_mention_a_term()


def test_mutant_the_mean_over_terms_stands_for_all_texts(monkeypatch):
    def mean(rates, counts):
        return {"": float(false_positive_rates(counts).nanmean()) / 2}

    monkeypatch.setattr(terms, "overall", mean)
    with pytest.raises(AssertionError):
        law_rates_are_of_the_negatives_that_mention_a_term()


# ---- through the monitor


def law_the_file_holds_them(trainer, tmp_path):
    run, monitor = fitted(trainer, project=Texts(7))
    records = Mentioning(60, 2, 1)
    label, pred = records.y.numpy(), run.model.layer(records.x).argmax(1).numpy()
    got = values(read(tmp_path))
    for t, term in enumerate(TERMS[:2]):
        mine = records.mentions[:, t].numpy()
        assert got["term_fpr", term] == pytest.approx(rate(label[mine], pred[mine]))
    apart = sum(abs(got["term_fpr", term] - rate(label, pred)) for term in TERMS[:2])
    assert got["false_positive_equality_difference", ""] == pytest.approx(apart)
    assert got["term_negatives", "never"] == 0
    assert math.isnan(got["term_fpr", "never"])
    assert run.callback_metrics["fairness/false_positive_equality_difference"] == pytest.approx(apart)
    assert not any("term_fpr" in key for key in run.callback_metrics)
    assert any("term_fpr_difference by identity term" in line for line in monitor.released_without_charge())


def test_the_file_holds_them(trainer, tmp_path):
    law_the_file_holds_them(trainer, tmp_path)


def test_mutant_the_last_batch_alone(trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(Counts, "__add__", lambda self, other: other)
    with pytest.raises(AssertionError):
        law_the_file_holds_them(trainer, tmp_path)


def test_other_figures_stay_as_they_are(trainer, tmp_path):
    fitted(trainer, project=Texts(7))
    fitted(trainer, project=Project(7), filename="plain.csv")
    with_terms, plain = read(tmp_path), read(tmp_path, "plain.csv")
    kept = with_terms[~with_terms.metric.isin([*PER_TERM, *SUMMARY])].reset_index(drop=True)
    assert kept.equals(plain)


def test_terms_can_be_named_to_the_monitor(trainer, tmp_path):
    fitted(trainer, project=Texts(7), terms=["one", "two", "three"])
    assert {"one", "two", "three"} <= set(read(tmp_path).group)


def test_the_terminal_shows_them(trainer, capsys):
    trainer(FairnessMonitor(), max_epochs=1).fit(Model(), datamodule=Texts())
    said = capsys.readouterr().out
    assert "texts that mention" in said
    assert next(line.split() for line in said.splitlines() if " never" in line) == ["never", "0", "–", "–"]
    assert "FPR of terms, diff." in said


# ---- refusals


def refused(trainer, model=None, project=None, **options):
    with pytest.raises(ConfigurationError) as caught:
        fitted(trainer, model or Model(), project or Texts(), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_two_classes_and_predictions_are_needed(trainer):
    assert "returned 3 classes" in refused(trainer, Model(3), Texts(classes=3))
    assert "returned a loss alone" in refused(trainer, Writer())
    fitted(trainer, Writer(), Texts(), terms=[])


def test_the_batch_must_say_what_is_mentioned(trainer):
    assert "'mentions' of a batch is missing" in refused(trainer, project=Project(), terms=["gay"])
    assert "is of shape (16, 3), but 1 identity terms" in refused(trainer, terms=["gay"])
    with pytest.raises(ConfigurationError, match="2 rows for 1 texts"):
        count_terms(["a"], torch.ones(2, 1).bool(), outcome_of([0], [0]))
    with pytest.raises(ConfigurationError, match="must be distinct"):
        FairnessMonitor(terms=["gay", "gay"])


def test_a_text_of_many_terms_is_not_released_with_noise(trainer):
    with pytest.raises(ConfigurationError, match="may mention several of 3 identity terms") as caught:
        run_noisy(trainer, project=Texts(n=400))
    assert "\n" not in str(caught.value)
