"""What error messages show: one line of an error, a shape, the name of an operation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dplit.grads.messages import first_line, operation_name, shape_text


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one line"), "one line"),
        (RuntimeError("\n  first.\nsecond"), "first"),
        (KeyError(), "KeyError"),
        (ValueError("  \n "), "ValueError"),
    ],
)
def test_the_first_line_of_an_error(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_a_shape() -> None:
    assert shape_text(torch.ones(2, 3)) == "(2, 3)"
    assert shape_text(None) == "None"


def test_the_name_of_an_operation() -> None:
    assert operation_name(F.linear) == "torch.nn.functional.linear"
    assert operation_name(Tensor.exp) == "torch.Tensor.exp"
    assert operation_name(first_line) == "first_line"
