"""What a step may return, and one clear line for anything else."""

from __future__ import annotations

import math

import pytest
import torch

from dplit.errors import ConfigurationError
from dplit.fairness.monitor.outputs import outcome
from tests.fairness.fairness_project import NAMES, Model
from tests.fairness.monitor.test_monitor import fitted, read, refused, values
from tests.fairness.monitor.test_release import run_noisy

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
]


class ByIds(Model):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return {"preds": self.layer(batch["x"]).argmax(1), "target": batch["y"].float()[:, None]}


class OneLogit(Model):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        logits = self.layer(batch["x"])
        return {"logits": logits[:, 1] - logits[:, 0], "target": batch["y"]}


@pytest.mark.parametrize("model", [ByIds, OneLogit])
def test_ids_and_single_logits_mean_the_same(trainer, tmp_path, model):
    fitted(trainer)
    fitted(trainer, model(), filename="other.csv")
    first, second = values(read(tmp_path)), values(read(tmp_path, "other.csv"))
    assert all(math.isnan(second["loss", name]) for name in NAMES)
    assert {k: v for k, v in first.items() if "loss" not in k[0]} == pytest.approx(
        {k: v for k, v in second.items() if "loss" not in k[0]}, nan_ok=True
    )


def returning(make):
    class Odd(Model):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            return make(self.layer(batch["x"]), batch["y"])

    return Odd()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda logits, y: None, "validation_step returned nothing"),
        (lambda logits, y: logits.mean(), "returned a torch.float32 tensor of shape ()"),
        (lambda logits, y: {"logits": logits}, "a mapping with keys logits"),
        (lambda logits, y: {"target": y, "loss": logits[:, 0]}, "a mapping with keys target, loss"),
        (lambda logits, y: {"preds": y, "loss": logits[:, 0]}, "a mapping with keys preds, loss"),
        (lambda logits, y: {"loss": logits.mean()}, "loss as a torch.float32 tensor of shape ()"),
        (
            lambda logits, y: {"logits": logits[None], "target": y},
            "logits as a torch.float32 tensor of shape (1,",
        ),
        (lambda logits, y: {"preds": logits[:, 0], "target": y}, "preds as a torch.float32 tensor of shape (16,)"),
        (lambda logits, y: {"logits": logits, "target": logits}, "target as a torch.float32 tensor of shape (16, 2)"),
        (lambda logits, y: {"logits": logits, "target": y, "loss": logits.mean()}, "loss as a torch.float32 tensor"),
    ],
)
def test_other_outputs_are_refused_with_an_example(trainer, make, says):
    message = refused(trainer, returning(make))
    assert says in message
    assert 'return {"logits": logits, "target": y' in message


def test_ids_beyond_the_logits_are_refused(trainer):
    assert "target id 5" in refused(trainer, returning(lambda logits, y: {"logits": logits, "target": y * 0 + 5}))
    odd = returning(lambda logits, y: {"logits": logits, "target": y[:3]})
    assert "the batch has 16 examples" in refused(trainer, odd)


def test_declared_classes_must_agree(trainer):
    assert "leave classes out" in refused(trainer, Model(), classes=3)


def test_no_message_names_a_callback():
    with pytest.raises(ConfigurationError) as caught:
        outcome({"logit": 1}, "validation_step")
    assert "Monitor" not in str(caught.value)


@pytest.mark.parametrize(
    ("logits", "pred"), [([[0.1], [-0.1]], [1, 0]), ([0.1, -0.1], [1, 0]), ([[0.0, 1.0, 2.0]], [2])]
)
def test_predictions_are_the_largest_logit_or_the_sign_of_one(logits, pred):
    result = outcome({"logits": torch.tensor(logits), "target": torch.zeros(len(pred)).long()}, "validation_step")
    assert result.pred.tolist() == pred


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("given", "pred"),
    [
        ({"logits": torch.tensor([[NAN, 1.0], [1.0, NAN], [NAN, NAN]])}, [-1, -1, -1]),
        ({"logits": torch.tensor([[INF, INF], [-INF, -INF], [-INF, 0.0], [0.0, INF]])}, [-1, -1, 1, 1]),
        ({"logits": torch.tensor([NAN, INF, -INF, 1.0])}, [-1, 1, 0, 1]),
        ({"logits": torch.tensor([[NAN], [2.0]])}, [-1, 1]),
        ({"preds": torch.tensor([NAN, 1.0])}, [-1, 1]),
        ({"preds": torch.tensor([0, 1]), "loss": torch.tensor([NAN, 0.5])}, [-1, 1]),
    ],
)
def test_what_is_not_a_number_predicts_nothing(given, pred):
    result = outcome({**given, "target": torch.zeros(len(pred)).long()}, "validation_step")
    assert result.pred.tolist() == pred


def test_ids_below_0_are_refused():
    with pytest.raises(ConfigurationError, match="returned the prediction -1"):
        outcome({"preds": torch.tensor([0, -1]), "target": torch.tensor([0, 0])}, "validation_step")


class Diverged(Model):
    """Its logits are not numbers for every second example."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        logits = torch.nn.functional.one_hot(batch["y"], 2) * 5.0
        return {"logits": logits.index_fill(0, torch.arange(0, len(logits), 2), NAN), "target": batch["y"]}


@pytest.mark.parametrize("noise", [None, 0.1])
def test_a_diverged_model_is_right_about_no_example_of_it(trainer, tmp_path, noise):
    if noise is None:
        fitted(trainer, Diverged())
    else:
        run_noisy(trainer, Diverged(), noise_multiplier=noise)
    found = values(read(tmp_path))
    assert found["overall_accuracy", ""] == pytest.approx(0.5, abs=0.05)


def test_without_logits_the_ids_say_how_many_classes_there_are():
    ids = {"preds": torch.tensor([0, 3]), "target": torch.tensor([1, 0])}
    assert outcome(ids, "validation_step").classes == 4
    assert outcome(ids, "validation_step", 7).classes == 7
    none = torch.zeros(0, dtype=torch.int64)
    assert outcome({"preds": none, "target": none}, "validation_step").classes == 2
