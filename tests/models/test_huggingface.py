"""Hugging Face models: alignment, dropout, positions, and the head at one position only."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

from dplit.errors import ConfigurationError
from dplit.models import causal_lm, huggingface, sequence_classifier
from dplit.models.infilling import Infilling
from dplit.models.sequence_classifier import SequenceClassifier
from tests.models.exact import classifier, infilling, law_padding_changes_no_loss, ready
from tests.models.tiny import FAMILIES, batch, folder, quietly, tokenizer


def test_mutant_texts_stay_where_they_are(monkeypatch):
    stay = lambda given: (given["input_ids"], given["attention_mask"])  # noqa: E731
    for module in (huggingface, sequence_classifier, causal_lm):
        monkeypatch.setattr(module, "left_aligned", stay)
    with pytest.raises(AssertionError):
        law_padding_changes_no_loss(ready(classifier, "bert"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_is_asked_about_one_position(family):
    model, widest = ready(infilling, family), 0

    def watch(module, args, output):
        nonlocal widest
        if isinstance(output, torch.Tensor) and output.shape[-1] == len(model.tokenizer):
            widest = max(widest, output.numel() // (5 * output.shape[-1]))

    for module in model.net.modules():
        module.register_forward_hook(watch)
    model(batch())
    assert widest == 1


def test_a_head_that_cannot_be_told_apart_gives_the_same():
    model, given = ready(infilling, "bert"), batch()
    expected = model(given)
    type(model.net).base_model_prefix, kept = "", type(model.net).base_model_prefix
    try:
        torch.testing.assert_close(model(given), expected)
    finally:
        type(model.net).base_model_prefix = kept


def test_dropout_is_off_unless_asked_for():
    given = batch()
    for family in FAMILIES:
        model = SequenceClassifier(folder(family), 2)
        model.configure_model()
        assert torch.equal(model(given), model(given))
    model = SequenceClassifier(folder("bert"), 2, dropout=True)
    model.configure_model()
    assert not torch.equal(model(given), model(given))


def test_names_go_through_pretrained(monkeypatch):
    asked = []

    def load(auto, name, **given):
        asked.append((auto.__name__, name))
        return auto.from_pretrained(folder("bert"), **given)

    monkeypatch.setattr("dplit.hub.pretrained.load", load)
    SequenceClassifier("minilm-l6", 2).configure_model()
    assert asked == [("AutoModel", "minilm-l6")]


def test_a_head_that_would_start_at_random_is_refused(tmp_path):
    hf.AutoModel.from_pretrained(folder("bert")).save_pretrained(tmp_path / "encoder")
    tokenizer("bert").save_pretrained(tmp_path / "encoder")
    with pytest.raises(ConfigurationError, match="start at random"):
        quietly(Infilling(str(tmp_path / "encoder"), ["good", "bad"]).configure_model)


@pytest.mark.parametrize(("family", "most"), [("bert", 24), ("roberta", 23), ("gpt2", 20), ("llama", None)])
def test_a_text_longer_than_the_positions_is_refused(family, most):
    model = SequenceClassifier(folder(family), 2)
    model.configure_model()
    assert huggingface.max_positions(model.net) == most
    if most is not None:
        assert model(batch(width=most)).shape == (5, 2)
        with pytest.raises(ConfigurationError, match=f"{most} positions"):
            model(batch(width=most + 1))
