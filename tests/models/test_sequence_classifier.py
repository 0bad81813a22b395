"""The head of the sequence classifier, its pooling and its learning rate."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from dplit.models import sequence_classifier
from dplit.models.sequence_classifier import SequenceClassifier
from tests.models.exact import classifier, law_clipped_sums, law_padding_changes_no_loss, ready
from tests.models.fits import fit, weights
from tests.models.tiny import batch, folder, tokenizer


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_clipped_sums_of_a_head_on_one_token(family):
    for pooling in ("first", "last"):
        law_clipped_sums(ready(classifier, family, pooling=pooling), batch("left"), torch.float64)


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_padding_changes_no_loss(family, pooling):
    law_padding_changes_no_loss(ready(classifier, family, pooling=pooling))


def test_mutant_pooling_counts_padding(monkeypatch):
    monkeypatch.setattr(sequence_classifier, "pooled", lambda states, mask, pooling: states.mean(1))
    with pytest.raises(AssertionError):
        law_padding_changes_no_loss(ready(classifier, "bert"))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adam_bc"])
@pytest.mark.parametrize("tuning", ["full", "head"])
def test_the_head_moves_at_its_own_rate(tmp_path, optimizer, tuning):
    """Twice the rate of the head moves it twice as far in the first step, and the rest as far as before."""

    def moved(rate):
        torch.manual_seed(0)
        options = {"learning_rate": 1e-3, "head_learning_rate": rate, "optimizer": optimizer, "schedule": "constant"}
        model = SequenceClassifier(folder("bert"), 2, tuning=tuning, save_to=None, **options)
        model.configure_model()
        before = weights(model)
        fit(model, tmp_path, strategy="auto", max_steps=1)
        return {name: (weight - before[name]).double() for name, weight in weights(model).items()}

    once, twice = moved(1e-2), moved(2e-2)
    for name, step in twice.items():
        expected = once[name] * (2 if name.startswith("head") else 1)
        torch.testing.assert_close(step, expected, rtol=1e-3, atol=1e-7)
    assert twice["head.weight"].abs().max() > 0


def test_a_classifier_reloads_without_dplit(tmp_path):
    model = SequenceClassifier(folder("bert"), pooling="mean")
    fit(model, tmp_path)
    found = hf.AutoModel.from_pretrained(tmp_path / "model")
    head, given = load_file(tmp_path / "model" / "head.safetensors"), batch()
    states = found(given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state
    mask = given["attention_mask"].unsqueeze(2)
    vector = (states * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(vector @ head["weight"].T + head["bias"], model.eval()(given), rtol=1e-5, atol=1e-5)
    assert len(hf.AutoTokenizer.from_pretrained(tmp_path / "model")) == len(tokenizer("bert"))
