"""Losses and clipped sums of each language model, against one example at a time."""

from __future__ import annotations

import pytest
import torch

from dplit.grads import Tape
from dplit.models import causal_lm, huggingface, sequence_classifier
from dplit.models.causal_lm import CausalLM
from dplit.models.infilling import Infilling
from dplit.models.sequence_classifier import SequenceClassifier
from tests.models.tiny import CAUSAL, FAMILIES, MASKED, alone, batch, folder
from tests.oracle import law_exact, loop_gradients

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def classifier(family, **given):
    return SequenceClassifier(folder(family), 2, **given)


def infilling(family, **given):
    place = "mask" if family in MASKED else "end"
    return Infilling(folder(family), ["good", "bad"], place, **given)


def language(family, **given):
    return CausalLM(folder(family), **given)


MODELS = [
    *[(classifier, family) for family in FAMILIES],
    *[(infilling, family) for family in FAMILIES],
    *[(language, family) for family in CAUSAL],
]
IDS = [f"{build.__name__}-{family}" for build, family in MODELS]


def ready(build, family, dtype=torch.float64, **given):
    """Return a model with every weight moved off its initial value."""
    torch.manual_seed(0)
    model = build(family, **given)
    model.configure_model()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight) * weight.requires_grad
    return model.to(dtype).train()


def losses(model, given):
    return model.losses(given)[0] if isinstance(model, CausalLM) else model._losses(model(given), given)


def law_clipped_sums(model, given, dtype):
    n = len(given["y"])
    expected = loop_gradients(model, lambda i: losses(model, alone(given, i)), n)
    with Tape(model, n) as tape:
        value = losses(model, given)
    law_exact(tape.backward(value), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("build", "family"), MODELS, ids=IDS)
def test_clipped_sums_are_those_of_each_text_alone(build, family, side):
    law_clipped_sums(ready(build, family), batch(side), torch.float64)


@pytest.mark.parametrize(
    ("build", "family"), [(classifier, "bert"), (infilling, "roberta"), (language, "gpt2"), (language, "llama")]
)
def test_clipped_sums_in_float32(build, family):
    law_clipped_sums(ready(build, family, torch.float32), batch(), torch.float32)


@pytest.mark.parametrize(
    "tuning", [{"tuning": "lora", "lora_rank": 2}, {"tuning": "bias"}, {"tuning": "layers", "layers": 1}]
)
@pytest.mark.parametrize(
    ("build", "family"), [(classifier, "bert"), (infilling, "roberta"), (language, "gpt2"), (infilling, "llama")]
)
def test_clipped_sums_of_what_is_tuned(build, family, tuning):
    law_clipped_sums(ready(build, family, **tuning), batch("left"), torch.float64)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_clipped_sums_of_a_head_on_one_token(family):
    for pooling in ("first", "last"):
        law_clipped_sums(ready(classifier, family, pooling=pooling), batch("left"), torch.float64)


@pytest.mark.parametrize(("build", "family"), [(classifier, "bert"), (language, "llama")])
def test_clipped_sums_with_activations_computed_again(build, family):
    law_clipped_sums(ready(build, family, gradient_checkpointing=True), batch(), torch.float64)
    law_clipped_sums(ready(build, family, gradient_checkpointing=True, tuning="lora"), batch(), torch.float64)


# Padding


def law_padding_changes_no_loss(model):
    right, left = losses(model, batch("right")), losses(model, batch("left"))
    by_itself = torch.cat([losses(model, alone(batch(), i)) for i in range(5)])
    torch.testing.assert_close(right, by_itself, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(left, by_itself, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_padding_changes_no_loss(family, pooling):
    law_padding_changes_no_loss(ready(classifier, family, pooling=pooling))


def test_mutant_pooling_counts_padding(monkeypatch):
    monkeypatch.setattr(sequence_classifier, "pooled", lambda states, mask, pooling: states.mean(1))
    with pytest.raises(AssertionError):
        law_padding_changes_no_loss(ready(classifier, "bert"))


def test_mutant_texts_stay_where_they_are(monkeypatch):
    stay = lambda given: (given["input_ids"], given["attention_mask"])  # noqa: E731
    for module in (huggingface, sequence_classifier, causal_lm):
        monkeypatch.setattr(module, "to_the_left", stay)
    with pytest.raises(AssertionError):
        law_padding_changes_no_loss(ready(classifier, "bert"))


def test_mutant_the_mean_is_over_the_tokens_of_the_batch(monkeypatch):
    monkeypatch.setattr(causal_lm, "by_text", token_mean(causal_lm.by_text))
    with pytest.raises(AssertionError):
        law_padding_changes_no_loss(ready(language, "gpt2"))


def token_mean(by_text):
    """Weigh each text by its share of the tokens of the batch."""

    def mutant(*given):
        each, tokens = by_text(*given)
        return each * tokens * len(tokens) / tokens.sum(), tokens

    return mutant


@pytest.mark.parametrize(
    ("build", "family"), [(classifier, "bert"), (classifier, "roberta"), (language, "llama"), (language, "gpt2")]
)
def test_a_text_of_padding_alone_is_no_trouble(build, family):
    model, given = ready(build, family), batch()
    before = losses(model, given)
    given["attention_mask"][2], given["input_ids"][2] = 0, 0
    after = losses(model, given)
    others = [0, 1, 3, 4]
    torch.testing.assert_close(after[others], before[others])
    assert after.isfinite().all()
    if build is language:
        assert after[2] == 0
    law_clipped_sums_of_the_rest(model, given)


def law_clipped_sums_of_the_rest(model, given):
    with Tape(model, 5) as tape:
        value = losses(model, given)
    assert tape.backward(value).norms().isfinite().all()


def test_one_token_has_nothing_to_predict():
    model, given = ready(language, "gpt2"), alone(batch(), 0)
    first = {**given, "input_ids": given["input_ids"][:, :1], "attention_mask": given["attention_mask"][:, :1]}
    assert losses(model, first).tolist() == [0.0]


# What the losses are


@pytest.mark.parametrize("family", CAUSAL)
def test_a_text_has_the_loss_that_transformers_gives_it(family):
    model, given = ready(language, family), batch("left")
    for i, loss in enumerate(losses(model, given)):
        one = alone(given, i)
        expected = model.net(input_ids=one["input_ids"], labels=one["input_ids"]).loss
        torch.testing.assert_close(loss, expected.double(), rtol=1e-6, atol=1e-6)


def law_words_are_read_in_their_place(model, given):
    tokens = [model.tokenizer.convert_tokens_to_ids(model.tokenizer.convert_ids_to_tokens(i)) for i in model.word_ids]
    found = model(given)
    for i in range(len(found)):
        one = alone(given, i)
        ids = one["input_ids"]
        place = int((ids[0] == 2).nonzero()[0]) if model.hparams["place"] == "mask" else ids.shape[1] - 1
        expected = model.net(input_ids=ids).logits[0, place, tokens]
        torch.testing.assert_close(found[i], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_words_are_read_in_their_place(family):
    law_words_are_read_in_their_place(ready(infilling, family), batch("left"))


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_mutant_words_are_read_one_place_off(family, monkeypatch):
    right = Infilling.position
    monkeypatch.setattr(Infilling, "position", lambda self, given: (right(self, given) - 1).clamp(min=0))
    with pytest.raises(AssertionError):
        law_words_are_read_in_their_place(ready(infilling, family), batch("left"))


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
