"""Recipes name a model by a class path; the short paths are the classes themselves, and take every setting."""

from __future__ import annotations

import importlib

import jsonargparse
import pytest

from dplit.errors import ConfigurationError
from dplit.models.activations import ACTIVATIONS
from dplit.models.checks import check_below_one, check_choice, check_positive, check_size
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


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("check", "accepted", "refused"),
    [
        (lambda value: check_positive("rate", value, "is wrong"), [1e-300, 1, 1e300], [0, -1, INF, NAN]),
        (lambda value: check_below_one("rate", value, "is wrong"), [0, 0.5, 0.999], [1, -1e-9, INF, NAN]),
        (lambda value: check_size("rate", value, least=2), [None, 2, 9], [1, 0, -3]),
        (lambda value: check_choice("rate", value, ["a", "b", "c"]), ["a", "c"], ["d", "", None]),
    ],
    ids=["positive", "below one", "size", "choice"],
)
def test_values_in_range_pass_and_others_get_one_line_with_the_argument(check, accepted, refused):
    for value in accepted:
        check(value)
    for value in refused:
        with pytest.raises(ConfigurationError, match=f"rate={value!r}") as refusal:
            check(value)
        assert "\n" not in str(refusal.value)
