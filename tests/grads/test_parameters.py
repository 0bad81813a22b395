"""The trainable parameters of a module: those that want a gradient, shared ones once, in a fixed order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dplit.grads import Tape
from dplit.grads.backends import BACKENDS, joined
from dplit.grads.parameters import trainable_parameters


def tied() -> nn.Module:
    module = nn.ModuleDict({"table": nn.Embedding(5, 3), "body": nn.Linear(3, 3), "head": nn.Linear(3, 5, bias=False)})
    module["head"].weight = module["table"].weight
    module["body"].bias.requires_grad_(False)
    return module


def test_shared_ones_once_and_frozen_ones_never() -> None:
    module = tied()
    parameters = trainable_parameters(module)
    assert list(parameters) == ["table.weight", "body.weight"]
    assert parameters["table.weight"] is module["head"].weight
    assert trainable_parameters(module.requires_grad_(False)) == {}


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_has_the_same_parameters(name: str) -> None:
    module, ids = tied(), torch.tensor([[1, 2]])
    losses = lambda ids, n: module["head"](module["body"](module["table"](ids))).sum((1, 2))  # noqa: E731
    gradients = joined(BACKENDS[name](module, losses, ids, 1))
    assert list(gradients.parameters) == list(trainable_parameters(module))


def test_a_tape_tracks_them_and_nothing_else() -> None:
    module = tied()
    tape = Tape(module, 2)
    assert tape._parameters == trainable_parameters(module)
    assert tape.tracked(module["body"].bias) is None
    assert tape.is_constant(module["body"].bias)
