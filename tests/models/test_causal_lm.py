"""One loss for each text, and perplexity over tokens."""

from __future__ import annotations

import csv

import lightning as L
import pytest
import torch

from dplit.errors import CoupledExamples
from dplit.fairness import FairnessMonitor
from dplit.models import causal_lm
from dplit.models.causal_lm import CausalLM
from tests.models.exact import language, law_padding_changes_no_loss, losses, ready, token_mean
from tests.models.fits import QUIET, fit
from tests.models.tiny import CAUSAL, Texts, alone, batch, folder


def test_mutant_the_mean_is_over_the_tokens_of_the_batch(monkeypatch):
    monkeypatch.setattr(causal_lm, "mean_loss_by_text", token_mean(causal_lm.mean_loss_by_text))
    with pytest.raises(AssertionError):
        law_padding_changes_no_loss(ready(language, "gpt2"))


def test_one_token_has_nothing_to_predict():
    model, given = ready(language, "gpt2"), alone(batch(), 0)
    first = {**given, "input_ids": given["input_ids"][:, :1], "attention_mask": given["attention_mask"][:, :1]}
    assert losses(model, first).tolist() == [0.0]


@pytest.mark.parametrize("family", CAUSAL)
def test_a_text_has_the_loss_that_transformers_gives_it(family):
    model, given = ready(language, family), batch("left")
    for i, loss in enumerate(losses(model, given)):
        one = alone(given, i)
        expected = model.net(input_ids=one["input_ids"], labels=one["input_ids"]).loss
        torch.testing.assert_close(loss, expected.double(), rtol=1e-6, atol=1e-6)


def test_mutant_the_mean_over_the_tokens_of_the_batch_is_refused_by_the_probe(tmp_path, monkeypatch):
    monkeypatch.setattr(causal_lm, "mean_loss_by_text", token_mean(causal_lm.mean_loss_by_text))
    with pytest.raises(CoupledExamples):
        fit(CausalLM(folder("gpt2"), save_to=None), tmp_path, "gpt2")


def test_perplexity_is_over_all_tokens():
    model = CausalLM(folder("gpt2"), save_to=None)
    trainer = L.Trainer(**QUIET)
    trainer.validate(model, datamodule=Texts("gpt2"), verbose=False)
    losses, tokens = model.losses(Texts("gpt2").all)
    expected = ((losses * tokens).sum() / tokens.sum()).exp()
    torch.testing.assert_close(trainer.callback_metrics["val/perplexity"], expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(trainer.callback_metrics["val/loss"], losses.mean(), rtol=1e-4, atol=0)


def law_each_groups_perplexity_is_over_its_tokens(path):
    """The monitor's file has them, and nothing on predictions; the overall one is what the model logs."""
    model = CausalLM(folder("gpt2"), save_to=None)
    monitor = FairnessMonitor(table=False, picture=False)
    trainer = L.Trainer(**QUIET, callbacks=[monitor], default_root_dir=path)
    trainer.validate(model, datamodule=Texts("gpt2"), verbose=False)
    given = Texts("gpt2").all
    losses, tokens = (part.detach() for part in model.losses(given))
    with (path / "fairness.csv").open() as file:
        found = {(row["metric"], row["group"]): float(row["value"]) for row in csv.DictReader(file)}
    expected = {}
    for k, name in enumerate(("a", "b")):
        mine = given["group"] == k
        expected[name] = float(((losses * tokens)[mine].sum() / tokens[mine].sum()).exp())
    assert {name: found["perplexity", name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert found["perplexity_gap", ""] == pytest.approx(abs(expected["a"] - expected["b"]), rel=1e-2)
    assert found["overall_perplexity", ""] == pytest.approx(float(trainer.callback_metrics["val/perplexity"]), rel=1e-4)
    assert {metric for metric, _ in found} == {
        *("n", "loss", "perplexity", "overall_loss", "overall_perplexity"),
        *("worst_group_loss", "worst_group_perplexity", "loss_gap", "perplexity_gap"),
    }


def test_each_groups_perplexity_is_over_its_tokens(tmp_path):
    law_each_groups_perplexity_is_over_its_tokens(tmp_path)


def test_mutant_padding_counts_as_tokens(tmp_path, monkeypatch):
    real = CausalLM._evaluate

    def padded(self, batch, split):
        said = real(self, batch, split)
        return {**said, "tokens": torch.full_like(said["tokens"], batch["input_ids"].shape[1] - 1)}

    monkeypatch.setattr(CausalLM, "_evaluate", padded)
    with pytest.raises(AssertionError):
        law_each_groups_perplexity_is_over_its_tokens(tmp_path)
