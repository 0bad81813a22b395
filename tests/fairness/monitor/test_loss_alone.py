"""A model without labels: its losses and perplexities, no figure of predictions, and no release with noise."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from dplit.errors import ConfigurationError
from dplit.fairness.metrics.catalogue import table
from dplit.fairness.metrics.counts import Counts
from dplit.fairness.monitor.display import rendered, summary_line
from dplit.fairness.monitor.plots import draw
from dplit.fairness.monitor.snapshot import Snapshot
from tests.fairness.fairness_project import LOSS_METRICS, NAMES, TOKEN_METRICS, Model, Project, Writer, lengths
from tests.fairness.metrics.cases import figures
from tests.fairness.metrics.test_perplexity import words
from tests.fairness.monitor.test_display import text
from tests.fairness.monitor.test_monitor import fitted, read, refused, values
from tests.fairness.monitor.test_release import run_noisy

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
]


def law_a_loss_alone_tells_no_figure_of_predictions(trainer, tmp_path):
    run, monitor = fitted(trainer, Writer())
    frame = read(tmp_path)
    assert set(frame.metric) == TOKEN_METRICS
    assert {key for key in run.callback_metrics if key.startswith("fairness/")} == {
        *(f"fairness/{metric}" for metric in TOKEN_METRICS - {"n", "loss", "perplexity"}),
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
    assert set(read(tmp_path).metric) == LOSS_METRICS
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

    def keeping(self, *answer):
        kept = {"tokens": self.tokens, "token_loss": self.token_loss, "token_count": 10 * self.token_count}
        return replace(released(self, *answer), **kept)

    monkeypatch.setattr(Counts, "with_noisy_cells", keeping)
    with pytest.raises(AssertionError):
        law_noisy_files_hold_no_perplexity(trainer, tmp_path)
