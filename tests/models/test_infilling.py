"""The logits of words, read at the place where the model predicts them."""

from __future__ import annotations

import lightning as L
import pandas as pd
import pytest
import torch

import dplit
from dplit.data.texts import files
from dplit.errors import ConfigurationError
from dplit.models.infilling import Infilling
from tests.models.exact import infilling, ready
from tests.models.fits import QUIET
from tests.models.tiny import FAMILIES, alone, batch, folder


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


def test_a_text_without_a_mask_moves_no_weight():
    model, given = Infilling(folder("bert"), ["good", "bad"]), batch(mask=False)
    model.configure_model()
    assert not model(given).any()
    model._losses(model(given), given).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("swaps", [None, "gender"])
def test_training_texts_without_a_mask_are_refused_before_training(swaps, tmp_path):
    table = pd.DataFrame({"text": ["he is good", "she is bad"] * 20, "label": [0, 1] * 20, "group": ["a", "b"] * 20})
    strategy = dplit.DPStrategy(noise=0.5, physical_batch_size=8, noise_seed=1)
    data = files.Texts(table, ["a", "b"], [0, 1], folder("bert"), batch_size=8, swaps=swaps)
    trainer = L.Trainer(strategy=strategy, default_root_dir=tmp_path, max_steps=1, **QUIET)
    with pytest.raises(ConfigurationError, match="training texts have no mask token, text 0 first"):
        trainer.fit(Infilling(folder("bert"), ["good", "bad"], save_to=None), datamodule=data)
    assert strategy.ledger.steps == 0
