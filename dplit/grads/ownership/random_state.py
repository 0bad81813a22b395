"""The state of the generators of random numbers, to draw the same numbers a second time."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class RandomState(NamedTuple):
    """The states of the generators of python, numpy, and torch on the CPU and on each CUDA device in use."""

    python: Any
    numpy: Any
    cpu: Tensor
    cuda: list[Tensor]


def random_state() -> RandomState:
    """Return the present state."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return RandomState(random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda)  # noqa: NPY002


def draw_again(state: RandomState) -> None:
    """Draw from now on the numbers that were drawn from a state on."""
    random.setstate(state.python)
    np.random.set_state(state.numpy)  # noqa: NPY002
    torch.set_rng_state(state.cpu)
    if state.cuda:
        torch.cuda.set_rng_state_all(state.cuda)
