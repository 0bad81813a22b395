"""Language models through the trainer: private fits, saving, averaging, refusals."""

from __future__ import annotations

import csv

import lightning as L
import pandas as pd
import peft
import pytest
import torch
import transformers as hf
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.cli import LightningCLI
from safetensors.torch import load_file

import dplit
from dplit.data.texts import files
from dplit.errors import ConfigurationError, CoupledExamples
from dplit.fairness import FairnessMonitor
from dplit.models import causal_lm, huggingface, saving, verbalizer
from dplit.models.causal_lm import CausalLM
from dplit.models.infilling import Infilling
from dplit.models.sequence_classifier import SequenceClassifier
from tests.models.test_text_exact import token_mean
from tests.models.tiny import FAMILIES, Texts, batch, folder, quietly, run_dir, tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


def fit(model, path, family="bert", strategy=None, **options):
    strategy = strategy or dplit.DPStrategy(noise=0.5, physical_batch_size=8, noise_seed=1)
    settings = {"max_steps": 3, "max_epochs": 3, **QUIET, **options}
    trainer = L.Trainer(strategy=strategy, default_root_dir=path, **settings)
    trainer.fit(model, datamodule=Texts(family))
    return trainer


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


# Private fits


@pytest.mark.parametrize(
    ("model", "family"),
    [
        (lambda: SequenceClassifier(folder("bert"), save_to=None), "bert"),
        (lambda: Infilling(folder("roberta"), ["good", "bad"], tuning="bias", save_to=None), "roberta"),
        (lambda: Infilling(folder("llama"), ["good", "bad"], "end", tuning="lora", save_to=None), "llama"),
        (lambda: CausalLM(folder("gpt2"), optimizer="adam_bc", warmup=0.3, save_to=None), "gpt2"),
    ],
)
def test_three_private_steps_with_the_probe_on(model, family, tmp_path):
    trainer = fit(model(), tmp_path, family, callbacks=[FairnessMonitor(table=False, picture=False)])
    assert trainer.global_step == trainer.strategy.ledger.steps == 3
    assert trainer.callback_metrics["val/loss"].isfinite()
    assert (tmp_path / "fairness.csv").exists()
    assert run_dir(tmp_path / "model") == []


def test_mutant_the_mean_over_the_tokens_of_the_batch_is_refused_by_the_probe(tmp_path, monkeypatch):
    monkeypatch.setattr(causal_lm, "by_text", token_mean(causal_lm.by_text))
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


def test_the_average_is_of_noised_weights_alone(tmp_path):
    seen = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            seen.append(weights(module))

    model = SequenceClassifier(folder("bert"), 2, save_to=None)
    torch.manual_seed(0)
    model.configure_model()
    integers = {name: b.clone() for name, b in model.named_buffers() if not b.is_floating_point()}
    fit(model, tmp_path, callbacks=[Watch(), EMAWeightAveraging(decay=0.5, use_buffers=False)])
    for name, weight in weights(model).items():
        expected = 0.5 * (0.5 * seen[0][name] + 0.5 * seen[1][name]) + 0.5 * seen[2][name]
        torch.testing.assert_close(weight, expected)
    assert all(torch.equal(dict(model.named_buffers())[name], b) for name, b in integers.items())


# What is trained


def trained(model):
    model.configure_model()
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def test_full_tuning_leaves_out_a_pooler_that_nothing_reads():
    model = SequenceClassifier(folder("bert"), 2)
    model.configure_model()
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {"net.pooler.dense.weight", "net.pooler.dense.bias"}


def test_bias_tuning_trains_biases_and_the_new_head():
    found = trained(SequenceClassifier(folder("bert"), 2, tuning="bias"))
    assert {"head.weight", "net.encoder.layer.0.output.dense.bias"} <= found
    assert all(name.endswith("bias") or name == "head.weight" for name in found)


def test_layers_are_the_last_ones_or_those_with_a_prefix():
    last = trained(SequenceClassifier(folder("bert"), 2, tuning="layers", layers=1))
    named = trained(SequenceClassifier(folder("bert"), 2, tuning="layers", layers=["encoder.layer.1"]))
    assert last == named
    assert {name.split(".")[3] for name in last if name.startswith("net")} == {"1"}


def test_low_rank_tuning_trains_additions_and_the_new_head():
    found = trained(SequenceClassifier(folder("bert"), 2, tuning="lora", lora_targets=["query"]))
    assert {"head.weight", "head.bias"} <= found
    assert all("lora_" in name for name in found - {"head.weight", "head.bias"})
    assert not any("pooler" in name for name in trained(SequenceClassifier(folder("bert"), 2, tuning="lora")))


def test_the_head_alone():
    assert trained(SequenceClassifier(folder("bert"), 2, tuning="head")) == {"head.weight", "head.bias"}


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


def test_low_rank_additions_to_some_layers():
    expression = r"encoder\.layer\.1\..*(query|value)"
    found = trained(SequenceClassifier(folder("bert"), 2, tuning="lora", lora_targets=expression))
    layers = {name.partition("lora_")[0] for name in found if name.startswith("net")}
    start = "net.base_model.model.encoder.layer.1.attention.self"
    assert layers == {f"{start}.query.", f"{start}.value."}


@pytest.mark.parametrize(
    ("tuning", "options"), [("layers", {"layers": 1}), ("head", {"head_learning_rate": 0.1})], ids=["layers", "head"]
)
def test_frozen_weights_stay(tmp_path, tuning, options):
    model = SequenceClassifier(folder("bert"), 2, tuning=tuning, save_to=None, **options)
    model.configure_model()
    before, moving = weights(model), trained(model)
    fit(model, tmp_path)
    assert {name for name, weight in weights(model).items() if not torch.equal(weight, before[name])} == moving


def test_dropout_is_off_unless_asked_for():
    given = batch()
    for family in FAMILIES:
        model = SequenceClassifier(folder(family), 2)
        model.configure_model()
        assert torch.equal(model(given), model(given))
    model = SequenceClassifier(folder("bert"), 2, dropout=True)
    model.configure_model()
    assert not torch.equal(model(given), model(given))


# Saving


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


def test_nothing_is_written_over(tmp_path):
    model = SequenceClassifier(folder("bert"), 2)
    model.configure_model()
    model.save_pretrained(tmp_path / "model")
    before = run_dir(tmp_path)
    with pytest.raises(ConfigurationError, match="exists"):
        model.save_pretrained(tmp_path / "model")
    assert run_dir(tmp_path) == before
    assert saving.free(tmp_path / "model") == tmp_path / "model-1"


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    model = SequenceClassifier(folder("bert"), 2)
    model.configure_model()
    monkeypatch.setattr("safetensors.torch.save_file", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        (SequenceClassifier, lambda: SequenceClassifier(folder("bert"), save_to=None)),
        (Infilling, lambda: Infilling(folder("bert"), ["good", "bad"], tuning="lora", save_to=None)),
    ],
)
def test_a_checkpoint_brings_the_model_back(kind, model, tmp_path):
    first = model()
    fit(first, tmp_path).save_checkpoint(tmp_path / "last.ckpt")
    again = kind.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    torch.testing.assert_close(again.eval()(batch()), first.eval()(batch()))


# Words


@pytest.mark.parametrize("family", FAMILIES)
def test_a_word_is_the_token_it_is_after_a_space(family):
    known = tokenizer(family)
    inside = known("It was good and", add_special_tokens=False)["input_ids"]
    assert verbalizer.token_ids(known, ["good", "and"]) == inside[2:]


def test_a_word_without_a_space_before_it_is_another_token():
    known = tokenizer("roberta")
    (glued,) = verbalizer.pieces(known, "(", space=False)[-1:]
    assert known.convert_ids_to_tokens(glued) == "("
    assert verbalizer.token_ids(known, ["good"]) != verbalizer.pieces(known, "good", space=False)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_word_that_is_no_token_gets_one_line_with_near_ones(family):
    with pytest.raises(ConfigurationError, match="near ones: good") as refusal:
        verbalizer.token_ids(tokenizer(family), ["goodq", "bad"])
    assert "\n" not in str(refusal.value)


def test_one_word_for_two_classes_is_refused():
    with pytest.raises(ConfigurationError, match="one token"):
        verbalizer.token_ids(tokenizer("bert"), ["good", "bad", "good"])


# Refusals


def test_names_go_through_pretrained(monkeypatch):
    asked = []

    def load(auto, name, **given):
        asked.append((auto.__name__, name))
        return auto.from_pretrained(folder("bert"), **given)

    monkeypatch.setattr("dplit.hub.pretrained.load", load)
    SequenceClassifier("minilm-l6", 2).configure_model()
    assert asked == [("AutoModel", "minilm-l6")]


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: SequenceClassifier(folder("bert"), 1), "num_classes=1"),
        (lambda: SequenceClassifier(folder("bert"), 2, pooling="max"), "mean, first, last"),
        (lambda: SequenceClassifier(folder("bert"), 2, tuning="half"), "full, layers, bias, lora, head"),
        (lambda: Infilling(folder("bert"), ["good", "bad"], tuning="head"), "needs a new head"),
        (lambda: SequenceClassifier(folder("bert"), 2, head_learning_rate=0), "head_learning_rate=0"),
        (lambda: SequenceClassifier(folder("bert"), 2, tuning="layers"), "layers=None"),
        (lambda: SequenceClassifier(folder("bert"), 2, layers=3), "tuning='full'"),
        (lambda: SequenceClassifier(folder("bert"), 2, tuning="layers", layers=0), "layers=0"),
        (lambda: SequenceClassifier(folder("bert"), 2, tuning="layers", layers=3), "which has 2"),
        (lambda: SequenceClassifier(folder("bert"), 2, tuning="layers", layers=["encoder.layers"]), "near: encoder"),
        (lambda: SequenceClassifier(folder("bert"), 2, tuning="lora", lora_rank=0), "lora_rank=0"),
        (lambda: SequenceClassifier(folder("bert"), 2, tuning="lora", lora_targets=["none"]), "lora_targets"),
        (lambda: SequenceClassifier(folder("bert"), 2, warmup=1.0), "warmup=1.0"),
        (lambda: SequenceClassifier(folder("bert"), 2, floor=0.0), "floor=0.0"),
        (lambda: SequenceClassifier(folder("bert")), "num_classes=None"),
        (lambda: Infilling(folder("bert"), "good"), "one word for each class"),
        (lambda: Infilling(folder("bert"), ["good", "bad"], "middle"), "mask or end"),
    ],
)
def test_wrong_arguments_get_one_line(build, says):
    with pytest.raises(ConfigurationError, match=says) as refusal:
        build().configure_model()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Infilling(folder("gpt2"), ["good", "bad"]), "AutoModelForMaskedLM"),
        (lambda: CausalLM(folder("distilbert")), "AutoModelForCausalLM"),
    ],
)
def test_a_model_of_another_kind_gets_one_line(build, says):
    test_wrong_arguments_get_one_line(build, says)


def test_a_head_that_would_start_at_random_is_refused(tmp_path):
    hf.AutoModel.from_pretrained(folder("bert")).save_pretrained(tmp_path / "encoder")
    tokenizer("bert").save_pretrained(tmp_path / "encoder")
    with pytest.raises(ConfigurationError, match="start at random"):
        quietly(Infilling(str(tmp_path / "encoder"), ["good", "bad"]).configure_model)


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="embeddings"):
        fit(SequenceClassifier(folder("bert"), 2), tmp_path, "gpt2")


@pytest.mark.parametrize(("family", "most"), [("bert", 24), ("roberta", 23), ("gpt2", 20), ("llama", None)])
def test_a_text_longer_than_the_positions_is_refused(family, most):
    model = SequenceClassifier(folder(family), 2)
    model.configure_model()
    assert huggingface.longest(model.net) == most
    if most is not None:
        assert model(batch(width=most)).shape == (5, 2)
        with pytest.raises(ConfigurationError, match=f"{most} positions"):
            model(batch(width=most + 1))


def test_labels_that_are_no_class_are_refused():
    model, given = Infilling(folder("bert"), ["good", "bad"]), batch()
    model.configure_model()
    with pytest.raises(ConfigurationError, match="label 2"):
        model.training_step({**given, "y": given["y"] + 1}, 0)


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


def test_a_model_that_is_not_loaded_says_so():
    with pytest.raises(ConfigurationError, match="not loaded yet"):
        SequenceClassifier(folder("bert"), 2)(batch())


@pytest.mark.filterwarnings("ignore:LightningCLI.s args parameter")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", [SequenceClassifier, Infilling, CausalLM])
def test_the_command_line_knows_every_argument(kind):
    given = [
        "--trainer.logger=false",
        "--model.model=x",
        "--model.tuning=layers",
        "--model.layers=[pooler]",
        "--model.warmup=0.1",
    ]
    given += ["--model.words=[good, bad]"] if kind is Infilling else []
    built = LightningCLI(kind, Texts, run=False, save_config_callback=None, seed_everything_default=0, args=given).model
    assert (built.tuning.layers, built.warmup, built.optimizer, built.learning_rate) == (["pooler"], 0.1, "adamw", 5e-4)
