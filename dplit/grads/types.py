"""Names for what torch and Lightning leave untyped, so that it is left untyped in one place."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

TorchFunction = Callable[..., Any]
"""A function of torch or a method of `Tensor`, as `__torch_function__` receives it."""

Args = tuple[Any, ...]
"""Positional arguments of a torch function."""

Kwargs = Mapping[str, Any]
"""Keyword arguments of a torch function."""

Result = Any
"""What a torch function returns: a tensor, a number, or a structure of them."""

Index = Any
"""What may stand in `x[...]`: a number, a slice, None, an ellipsis, a tensor, a list, or a tuple of them."""

InputGradients = Tensor | None | tuple[Tensor | None, ...]
"""What the backward of an autograd function returns: a gradient for each argument of its forward, or None."""

Batch = Any
"""A batch as the collate function returned it: tensors in mappings, sequences and dataclasses, or a tensor."""

Sample = Any
"""One record of a data set."""

Losses = Callable[[Batch, int], Tensor]
"""From a batch of n examples and n to `(n,)` losses, or their sum."""

Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
"""A random generator that a model may keep."""
