"""What a classifier logs, and what it returns for each example."""

from __future__ import annotations

import lightning as L
import pytest
import torch
import torch.nn.functional as F

from dplit.models.mlp import MLP
from tests.models.toy import Toy, batch_of, trainer


def test_a_short_fit_learns_and_logs_exact_means(tmp_path):
    L.seed_everything(0)
    data, model, fitted = Toy(2000), MLP([8], learning_rate=0.3), trainer(tmp_path, max_epochs=3)
    fitted.fit(model, datamodule=data)
    assert set(fitted.callback_metrics) == {"val/loss", "val/accuracy"}
    found = fitted.test(model, datamodule=data, verbose=False)[0]
    batch = data.collate(range(30))
    logits = model.eval()(batch)
    assert found["test/loss"] == pytest.approx(F.cross_entropy(logits, batch["y"]).item(), rel=1e-5)
    assert found["test/accuracy"] == pytest.approx((logits.argmax(1) == batch["y"]).float().mean().item())
    assert found["test/accuracy"] > 0.85


def test_validation_hands_out_each_example():
    model, batch = MLP([4], 5, 2), batch_of(6)
    model.log_dict = lambda *_, **__: None
    outputs = model.validation_step(batch, 0)
    assert {key: tuple(value.shape) for key, value in outputs.items()} == {
        "logits": (6, 2),
        "target": (6,),
        "loss": (6,),
    }
    assert torch.equal(outputs["loss"], F.cross_entropy(outputs["logits"], batch["y"], reduction="none"))


def test_prediction_gives_probabilities():
    assert torch.allclose(MLP([4], 5, 2).predict_step(batch_of(3), 0).sum(1), torch.ones(3))
