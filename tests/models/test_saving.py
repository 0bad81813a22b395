"""Saved models load and generate without dplit."""

from __future__ import annotations

import peft
import torch
import transformers as hf

from dplit.models.causal_lm import CausalLM
from tests.models.fits import fit
from tests.models.tiny import batch, folder, quietly


def test_a_language_model_reloads_and_writes(tmp_path):
    model = CausalLM(folder("gpt2"))
    fit(model, tmp_path, "gpt2")
    found = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    verbalizer = hf.AutoTokenizer.from_pretrained(tmp_path / "model")
    given = verbalizer("It was", return_tensors="pt")
    torch.testing.assert_close(found(**given).logits, model.net.eval()(**given).logits)
    assert (
        found.generate(**given, max_new_tokens=4, do_sample=False, pad_token_id=0).shape[1]
        > given["input_ids"].shape[1]
    )


def test_low_rank_additions_are_saved_merged_and_alone(tmp_path):
    model = CausalLM(folder("llama"), tuning="lora", lora_rank=2, learning_rate=0.1)
    fit(model, tmp_path, "llama")
    ids = batch(mask=False)["input_ids"][:1]
    expected = model.net.eval()(input_ids=ids).logits
    merged = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    base = hf.AutoModelForCausalLM.from_pretrained(folder("llama"))
    adapted = quietly(lambda: peft.PeftModel.from_pretrained(base, tmp_path / "model" / "adapter"))
    torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(adapted.eval()(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
    untouched = hf.AutoModelForCausalLM.from_pretrained(folder("llama"))
    assert not torch.allclose(untouched(input_ids=ids).logits, expected, atol=1e-2)
