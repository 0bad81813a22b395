"""Products of float32 numbers in float32: what a model may round for speed, norms and sums of gradients may not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

FULL = ("ieee", "none")
"""What torch calls settings under which a product of float32 numbers is rounded as float32; `none` was never set."""


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 products in float32 within, whatever the process is set to; afterwards it is set as it was.

    `torch.set_float32_matmul_precision("high")` rounds factors to eleven bits, `"medium"` to eight where the machine has
    products of bfloat16. A norm that was rounded like that would understate what a record adds to the sum by up to 1 in
    2,000 or 1 in 250, and the sum itself would move by the rounding of all records when one of them comes or goes.
    """
    settings = narrow()
    for one, _ in settings:
        torch._C._set_fp32_precision_setter(*one, FULL[0])
    try:
        yield
    finally:
        for one, setting in settings:
            torch._C._set_fp32_precision_setter(*one, setting)


def narrow() -> list[tuple[tuple[str, str], str]]:
    """Return which backends round the factors of float32 products now, and to what."""
    settings = ((one, torch._C._get_fp32_precision_getter(*one)) for one in _backends())
    return [(one, setting) for one, setting in settings if setting not in FULL]


@cache
def _backends() -> tuple[tuple[str, str], ...]:
    built = ("mkldnn", "cuda") if torch.backends.cuda.is_built() else ("mkldnn",)
    return tuple((backend, operation) for backend in built for operation in ("matmul", "conv"))
