"""Torch functions written in Python are opened, built-in ones are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dplit.grads.tape import torch_functions
from dplit.grads.tape.torch_functions import without_override_check


class Seen(TorchFunctionMode):
    """Lists the operations that a mode receives."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Callable[..., object]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.operations.append(func)
        return func(*args, **(kwargs or {}))


X = torch.randn(2, 3)


def test_a_function_in_python_is_seen_step_by_step() -> None:
    with Seen() as whole:
        expected = F.softmax(X, dim=-1)
    with Seen() as opened:
        result = without_override_check(F.softmax)(X, dim=-1)
    assert torch.equal(result, expected)
    assert whole.operations == [F.softmax]
    assert opened.operations == [Tensor.softmax]


def test_keyword_only_arguments_keep_their_defaults() -> None:
    with Seen() as opened:
        result = without_override_check(F.cosine_embedding_loss)(X, X, torch.ones(2), reduction="none")
    assert result.shape == (2,)
    assert F.cosine_embedding_loss not in opened.operations


@pytest.mark.parametrize("operation", [torch.add, Tensor.exp, F.linear, len])
def test_a_built_in_function_is_not_opened(operation: Callable[..., object]) -> None:
    assert without_override_check(operation) is None


def test_mutant_that_stays_overridden_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    without_override_check.cache_clear()
    monkeypatch.setattr(torch_functions, "_not_overridden", lambda *args: True)
    with pytest.raises((AssertionError, RecursionError)):
        test_a_function_in_python_is_seen_step_by_step()
    without_override_check.cache_clear()
