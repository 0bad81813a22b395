"""What a model that decides nothing has to say: losses and perplexities by group, and no figure of predictions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from dplit.errors import ConfigurationError
from dplit.fairness.metrics import counts as counting
from dplit.fairness.metrics import rates as metrics
from dplit.fairness.metrics.counts import Counts, count
from dplit.fairness.metrics.rates import losses, table
from dplit.fairness.monitor.display import rendered, summary_line
from dplit.fairness.monitor.outputs import outcome
from dplit.fairness.monitor.plots import draw
from dplit.fairness.monitor.snapshot import Snapshot
from tests.fairness.fairness_project import NAMES, Model, Project, Writer, lengths
from tests.fairness.test_fairness_monitor import fitted, read, refused, text, values
from tests.fairness.test_fairness_release import run_noisy

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
]
ALONE = {"n", "loss", "overall_loss", "worst_group_loss", "loss_gap"}
WORDED = ALONE | {"perplexity", "overall_perplexity", "worst_group_perplexity", "perplexity_gap"}


def figures(counts):
    return {(row.metric, row.group): row.value for row in table(counts)}


def texts(n=400, seed=0):
    """Groups a, b and c with texts of 0 to 40 tokens, the longer the better; all of c are empty; d is absent."""
    draw = np.random.default_rng(seed)
    group, tokens = draw.integers(0, 3, n), draw.integers(0, 40, n)
    tokens[group == 2] = 0
    loss = np.where(tokens > 0, 3.0 + 0.5 * (group == 1) - 0.05 * tokens + draw.normal(0, 0.3, n), 0.0)
    return tuple(map(torch.from_numpy, (group, loss, tokens)))


def words(n=400, batch=64):
    group, loss, tokens = texts(n)
    parts = [
        count(tuple("abcd"), 2, group[at], None, None, loss[at], tokens[at]) for at in torch.arange(n).split(batch)
    ]
    return sum(parts[1:], parts[0])


# ---- perplexity


def law_perplexity_is_of_a_groups_tokens():
    """exp of the mean −ln p over the tokens of a group, as if its texts were one; told token by token here."""
    group, loss, tokens = (part.numpy() for part in texts())
    got = figures(words())
    by_token = {g: np.repeat(loss[group == g], tokens[group == g]) for g in range(3)}
    expected = {name: np.exp(by_token[g].mean()) for g, name in enumerate("ab")}
    assert {name: got["perplexity", name] for name in "ab"} == pytest.approx(expected, rel=1e-12)
    assert all(math.isnan(got["perplexity", name]) for name in "cd")
    assert got["overall_perplexity", ""] == pytest.approx(
        np.exp(np.concatenate([*by_token.values()]).mean()), rel=1e-12
    )
    assert got["perplexity_gap", ""] == pytest.approx(expected["b"] - expected["a"], rel=1e-12)
    assert got["worst_group_perplexity", "b"] == pytest.approx(expected["b"], rel=1e-12)


def test_perplexity_is_of_a_groups_tokens():
    law_perplexity_is_of_a_groups_tokens()


def test_mutant_mean_of_the_texts_perplexities(monkeypatch):
    real = losses._mean
    counted = counting._with_tokens
    monkeypatch.setattr(losses, "_mean", lambda total, number: real(total, number).log())
    monkeypatch.setattr(
        counting,
        "_with_tokens",
        lambda counts, group, loss, tokens, sizes: counted(counts, group, loss.exp(), torch.ones_like(tokens), sizes),
    )
    with pytest.raises(AssertionError):
        law_perplexity_is_of_a_groups_tokens()


def test_mutant_every_text_weighs_the_same(monkeypatch):
    counted = counting._with_tokens
    monkeypatch.setattr(
        counting,
        "_with_tokens",
        lambda counts, group, loss, tokens, sizes: counted(counts, group, loss, (tokens > 0).long(), sizes),
    )
    with pytest.raises(AssertionError):
        law_perplexity_is_of_a_groups_tokens()


def test_mutant_the_last_batch_alone(monkeypatch):
    monkeypatch.setattr(Counts, "__add__", lambda self, other: other)
    with pytest.raises(AssertionError):
        law_perplexity_is_of_a_groups_tokens()


def test_losses_are_means_over_texts():
    group, loss, _ = texts()
    got = figures(words())
    means = {name: float(loss[group == g].mean()) for g, name in enumerate("abc")}
    assert {name: got["loss", name] for name in "abc"} == pytest.approx(means)
    assert got["loss_gap", ""] == pytest.approx(max(means.values()) - min(means.values()))
    worst = max(means, key=means.__getitem__)
    assert got["worst_group_loss", worst] == pytest.approx(means[worst])
    assert [got["n", name] for name in "abcd"] == [*torch.bincount(group, minlength=4).tolist()]


def law_a_group_that_diverged_stays_in_the_gap():
    for broken in (math.nan, math.inf):
        loss, ids = torch.tensor([1.0, broken, 2.0]), torch.tensor([0, 1, 2])
        got = figures(count(tuple("abcd"), 2, ids, None, None, loss, torch.tensor([5, 5, 5])))
        for metric in ("loss", "perplexity"):
            assert got[f"{metric}_gap", ""] == math.inf
            assert got[f"worst_group_{metric}", "b"] == math.inf
            assert math.isnan(got[metric, "d"])


def test_a_group_that_diverged_stays_in_the_gap():
    law_a_group_that_diverged_stays_in_the_gap()


def test_mutant_what_is_not_a_number_is_missing(monkeypatch):
    monkeypatch.setattr(losses, "_mean", lambda total, number: total / number)
    with pytest.raises(AssertionError):
        law_a_group_that_diverged_stays_in_the_gap()


def test_tokens_beside_labels_add_perplexities_and_change_nothing_else():
    group, label, pred = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), torch.tensor([0, 1, 1])
    loss, tokens = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 2, 6])
    plain, worded = (figures(count(NAMES, 2, group, label, pred, loss, given)) for given in (None, tokens))
    assert {metric for metric, _ in set(worded) - set(plain)} == WORDED - ALONE
    assert {key: worded[key] for key in plain} == pytest.approx(plain, nan_ok=True)
    assert worded["perplexity", "Male"] == pytest.approx(math.exp((2 * 2 + 3 * 6) / 8))


# ---- what is not there is not told


def law_a_loss_alone_tells_no_figure_of_predictions(trainer, tmp_path):
    run, monitor = fitted(trainer, Writer())
    frame = read(tmp_path)
    assert set(frame.metric) == WORDED
    assert {key for key in run.callback_metrics if key.startswith("fairness/")} == {
        *(f"fairness/{metric}" for metric in WORDED - {"n", "loss", "perplexity"}),
        *(f"fairness/{name}/perplexity" for name in NAMES),
    }
    assert "fairness.csv (n, loss, perplexity by group and their summaries)" in monitor.released_without_charge()
    records = Project().val_dataloader().dataset
    loss = torch.nn.functional.cross_entropy(run.model.layer(records.x), records.y, reduction="none").detach()
    tokens, got = lengths(records.x), values(frame)
    for g, name in enumerate(NAMES[:2]):
        mine = records.group == g
        expected = float(((loss * tokens)[mine].sum() / tokens[mine].sum()).exp())
        assert got["perplexity", name] == pytest.approx(expected, rel=1e-5)
        assert (got["n", name], got["loss", name]) == (mine.sum(), pytest.approx(float(loss[mine].mean()), rel=1e-5))
    assert got["n", "Other"] == 0
    assert math.isnan(got["perplexity", "Other"])


def test_a_loss_alone_tells_no_figure_of_predictions(trainer, tmp_path):
    law_a_loss_alone_tells_no_figure_of_predictions(trainer, tmp_path)


def test_mutant_predictions_that_equal_their_targets(trainer, tmp_path, monkeypatch):
    real = Writer.validation_step

    def certain(self, batch, *rest):
        return {**real(self, batch, *rest), "target": batch["y"], "preds": batch["y"]}

    monkeypatch.setattr(Writer, "validation_step", certain)
    with pytest.raises(AssertionError):
        law_a_loss_alone_tells_no_figure_of_predictions(trainer, tmp_path)


class Bare(Writer):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return {"loss": super().validation_step(batch, batch_idx)["loss"]}


def test_without_tokens_there_is_no_perplexity(trainer, tmp_path):
    run, _ = fitted(trainer, Bare())
    assert set(read(tmp_path).metric) == ALONE
    assert "fairness/Male/loss" in run.callback_metrics
    assert (tmp_path / "fairness.png").stat().st_size > 10_000


def test_the_terminal_and_the_picture_show_what_there_is():
    rows = tuple(table(words()))
    look = Snapshot(0, 1, "validation", tuple("abcd"), rows, 1.0, 1e-5)
    said, got = text(rendered(look, "exact")), figures(words())
    assert next(line.split() for line in said.splitlines() if "perplexity" in line) == [
        "group",
        "n",
        "loss",
        "perplexity",
    ]
    assert "accuracy" not in said
    line = summary_line(look)
    assert f"perplexity {got['overall_perplexity', '']:.3f} · worst group b ({got['perplexity', 'b']:.3f})" in line
    assert line.endswith(f"perplexity gap {got['perplexity_gap', '']:.3f}")
    figure = draw([look])
    assert [axes.get_ylabel() for axes in figure.axes] == ["perplexity", "loss", *["difference between groups"] * 2]
    assert figure.axes[3].get_xlabel() == "epoch"


# ---- refusals


class Fickle(Writer):
    """Returns other keys for every second batch."""

    def __init__(self, odd, even):
        super().__init__()
        self.keys = odd, even

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        said = {**Model.validation_step(self, batch, batch_idx), **super().validation_step(batch, batch_idx)}
        return {key: said[key] for key in self.keys[batch_idx % 2]}


LABELS, LOSS, TOKENS = ("logits", "target"), ("loss",), ("loss", "tokens")


@pytest.mark.parametrize(
    ("odd", "even", "says"),
    [
        (LABELS, LOSS, "some batches returned labels and predictions and some a loss alone"),
        (LOSS, (*LABELS, *LOSS), "some batches returned labels and predictions and some a loss alone"),
        (TOKENS, LOSS, 'some batches returned "tokens" and some no "tokens"'),
        ((*LABELS, *LOSS), (*LABELS, *TOKENS), 'some batches returned "tokens" and some no "tokens"'),
    ],
)
def test_every_batch_returns_the_same(trainer, odd, even, says):
    assert says in refused(trainer, Fickle(odd, even))


class Says(Writer):
    def __init__(self, said):
        super().__init__()
        self.said = said

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return self.said(len(batch["y"]))


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (lambda n: {"loss": torch.ones(n), "tokens": torch.ones(n)}, "tokens as a torch.float32 tensor"),
        (lambda n: {"loss": torch.ones(n), "tokens": -torch.ones(n).long()}, "whole numbers of at least 0"),
        (
            lambda n: {"loss": torch.ones(n), "tokens": torch.ones(n, 2).long()},
            "tokens as a torch.int64 tensor of shape (16,",
        ),
        (lambda n: {"loss": torch.ones(n), "tokens": torch.ones(3).long()}, "tokens has shape (3,) for 16 examples"),
        (lambda n: {"loss": torch.ones(3)}, "loss has shape (3,) for 16 examples"),
        (lambda n: {"tokens": torch.ones(n).long()}, "a mapping with keys tokens"),
        (
            lambda n: {"logits": torch.ones(n, 2), "target": torch.ones(n).long(), "tokens": torch.ones(n).long()},
            "tokens without a loss",
        ),
        (lambda n: {"loss": None}, "a mapping with keys loss"),
    ],
)
def test_losses_and_tokens_are_of_each_text(trainer, said, says):
    assert says in refused(trainer, Says(said))


def test_no_message_names_a_callback():
    with pytest.raises(ConfigurationError) as caught:
        outcome({"logit": 1}, "validation_step")
    assert "Monitor" not in str(caught.value)


# ---- noise


def test_a_loss_alone_cannot_leave_with_noise(trainer):
    with pytest.raises(ConfigurationError, match="a loss has no bound") as caught:
        run_noisy(trainer, Writer())
    assert "\n" not in str(caught.value)


class Both(Writer):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return {**Model.validation_step(self, batch, batch_idx), **super().validation_step(batch, batch_idx)}


def law_noisy_files_hold_no_perplexity(trainer, tmp_path):
    run_noisy(trainer, Both())
    frame = pd.read_csv(tmp_path / "fairness.csv", keep_default_na=False, na_values={"value": ["nan"]})
    assert not frame.metric.str.contains("perplexity").any()
    assert frame[frame.metric.str.contains("loss")].value.isna().all()


def test_noisy_files_hold_no_perplexity(trainer, tmp_path):
    law_noisy_files_hold_no_perplexity(trainer, tmp_path)


def test_mutant_sums_that_stay_beside_noisy_cells(trainer, tmp_path, monkeypatch):
    released = Counts.with_noisy_cells

    def keeping(self, cells, std):
        kept = {"tokens": self.tokens, "token_loss": self.token_loss, "token_count": 10 * self.token_count}
        return replace(released(self, cells, std), **kept)

    monkeypatch.setattr(Counts, "with_noisy_cells", keeping)
    with pytest.raises(AssertionError):
        law_noisy_files_hold_no_perplexity(trainer, tmp_path)


def test_every_quality_has_its_summaries():
    for name in metrics.QUALITIES:
        assert {f"overall_{name}", f"worst_group_{name}", f"{name}_gap"} <= set(metrics.SUMMARY)
