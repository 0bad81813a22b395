"""A part that is withheld may be passed on, and any use of it is refused by its path."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dplit.errors import UnsupportedOperation
from dplit.grads import withheld
from dplit.grads.withheld import Withheld

USES: dict[str, Callable[[Any], object]] = {
    "len": len,
    "iteration": list,
    "an entry": lambda part: part[0],
    "membership": lambda part: 3 in part,
    "a branch": bool,
    "a number": float,
    "an index": lambda part: [1, 2][part],
    "an attribute": lambda part: part.shape,
    "arithmetic": lambda part: 2 / part,
    "a comparison": lambda part: part > 3,
    "a tensor's arithmetic": lambda part: torch.ones(2) / part,
    "a tensor's index": lambda part: torch.ones(2)[part],
    "a torch function": lambda part: F.linear(torch.ones(2), part),
    "a tensor of it": torch.tensor,
    "a list of tensors": torch.stack,
    "an array": np.asarray,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_every_use_is_refused(use: Callable[[Any], object]) -> None:
    with pytest.raises(UnsupportedOperation, match=r"batch\['names'\].*grads='loop'") as refused:
        use(Withheld("batch['names']"))
    assert "\n" not in str(refused.value)


def test_it_may_be_passed_on() -> None:
    part = Withheld("batch['names']")
    assert copy.copy({"names": part})["names"] is part
    assert repr(part) == "<batch['names'], withheld>"
    assert not hasattr(part, "_fields")
    assert part is not None


def test_mutant_without_special_methods_is_caught() -> None:
    bare = type("Bare", (), {"__init__": withheld.Withheld.__init__, "_path": ""})
    with pytest.raises(pytest.fail.Exception), pytest.raises(UnsupportedOperation):
        bool(bare("x"))
