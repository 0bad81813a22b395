"""Recipes name a model by a class path; the short paths are the classes themselves, and take every setting."""

from __future__ import annotations

import importlib

import jsonargparse
import pytest

from dplit.models.activations import ACTIVATIONS
from dplit.models.cnn import CNN
from dplit.models.mlp import MLP
from dplit.models.sequence_classifier import SequenceClassifier

PATHS = {
    "dplit.models.tabular.MLP": MLP,
    "dplit.models.vision.CNN": CNN,
    "dplit.models.text.SequenceClassifier": SequenceClassifier,
}


@pytest.mark.parametrize("path", PATHS)
def test_the_short_path_is_the_class_itself_and_takes_every_setting(path):
    module, _, name = path.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    assert cls is PATHS[path]
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "model")
    settings = {
        "learning_rate",
        "optimizer",
        "momentum",
        "weight_decay",
        "schedule",
        "warmup",
        "floor",
        "log_train_loss",
    }
    assert {f"model.{setting}" for setting in settings} <= set(parser.get_defaults().keys(branches=True))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_in_the_network_that_names_it(name):
    kinds = [type(layer) for layer in MLP([4], 5, 2, activation=name).net]
    assert ACTIVATIONS[name] in kinds
    assert not (set(ACTIVATIONS.values()) - {ACTIVATIONS[name]}) & set(kinds)
