"""Which parameters each way of tuning trains."""

from __future__ import annotations

import pytest
import torch

from dplit.models.sequence_classifier import SequenceClassifier
from tests.models.fits import fit, trained, weights
from tests.models.tiny import folder


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
