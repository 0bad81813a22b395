"""Fine-tuned language models: clipped sums against one text at a time, private fits, checkpoints, saving, errors."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.cli import LightningCLI

from dplit.errors import ConfigurationError
from dplit.fairness import FairnessMonitor
from dplit.grads import Tape
from dplit.models.causal_lm import CausalLM
from dplit.models.infilling import Infilling
from dplit.models.sequence_classifier import SequenceClassifier
from tests.models.exact import IDS, MODELS, classifier, infilling, language, law_clipped_sums, losses, ready
from tests.models.fits import fit, weights
from tests.models.tiny import Texts, batch, folder, run_dir


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


@pytest.mark.parametrize(("build", "family"), [(classifier, "bert"), (language, "llama")])
def test_clipped_sums_with_activations_computed_again(build, family):
    law_clipped_sums(ready(build, family, gradient_checkpointing=True), batch(), torch.float64)
    law_clipped_sums(ready(build, family, gradient_checkpointing=True, tuning="lora"), batch(), torch.float64)


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


@pytest.mark.parametrize(
    ("model", "family"),
    [
        (lambda: SequenceClassifier(folder("bert"), save_to=None), "bert"),
        pytest.param(
            lambda: Infilling(folder("roberta"), ["good", "bad"], tuning="bias", save_to=None),
            "roberta",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: Infilling(folder("llama"), ["good", "bad"], "end", tuning="lora", save_to=None),
            "llama",
            marks=pytest.mark.slow,
        ),
        (lambda: CausalLM(folder("gpt2"), optimizer="adam_bc", warmup=0.3, save_to=None), "gpt2"),
    ],
)
def test_three_private_steps_with_the_probe_on(model, family, tmp_path):
    trainer = fit(model(), tmp_path, family, callbacks=[FairnessMonitor(table=False, picture=False)])
    assert trainer.global_step == trainer.strategy.ledger.steps == 3
    assert trainer.callback_metrics["val/loss"].isfinite()
    assert (tmp_path / "fairness.csv").exists()
    assert run_dir(tmp_path / "model") == []


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
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


def test_nothing_is_written_over(tmp_path):
    model = SequenceClassifier(folder("bert"), 2)
    model.configure_model()
    model.save_pretrained(tmp_path / "model")
    before = run_dir(tmp_path)
    with pytest.raises(ConfigurationError, match="exists"):
        model.save_pretrained(tmp_path / "model")
    assert run_dir(tmp_path) == before


def test_a_second_fit_saves_beside_the_first(tmp_path):
    for _ in range(2):
        fit(SequenceClassifier(folder("bert")), tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir() and "model" in path.name} == {"model", "model-2"}


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
        (lambda: Infilling(folder("bert"), ["good", "bad"], "middle"), "mask, end"),
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


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="embeddings"):
        fit(SequenceClassifier(folder("bert"), 2), tmp_path, "gpt2")


def test_labels_that_are_no_class_are_refused():
    model, given = Infilling(folder("bert"), ["good", "bad"]), batch()
    model.configure_model()
    with pytest.raises(ConfigurationError, match="label 2"):
        model.training_step({**given, "y": given["y"] + 1}, 0)


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
