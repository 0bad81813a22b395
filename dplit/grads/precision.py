"""Float32 products computed in float32: a model may round them for speed, norms and sums of gradients may not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

FULL = ("ieee", "none")
"""What torch calls the settings under which float32 products keep float32 precision; `none` means it was never set."""

BackendOperation = tuple[str, str]
"""A backend and its operation, such as `("cuda", "matmul")`."""


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 products in full float32 inside this context, and restore the process's settings afterwards.

    `torch.set_float32_matmul_precision("high")` rounds factors to eleven bits, `"medium"` to eight where the machine has
    products of bfloat16. A norm that was rounded like that would understate what a record adds to the sum by up to 1 in
    2,000 or 1 in 250, and the sum itself would move by the rounding of all records when a single one comes or goes.
    """
    settings = rounding_settings()
    for backend_operation, _ in settings:
        torch._C._set_fp32_precision_setter(*backend_operation, FULL[0])
    try:
        yield
    finally:
        for backend_operation, setting in settings:
            torch._C._set_fp32_precision_setter(*backend_operation, setting)


def rounding_settings() -> list[tuple[BackendOperation, str]]:
    """Return the backend operations that round the factors of float32 products now, each with its setting."""
    settings = ((operation, torch._C._get_fp32_precision_getter(*operation)) for operation in _backend_operations())
    return [(operation, setting) for operation, setting in settings if setting not in FULL]


@cache
def _backend_operations() -> tuple[BackendOperation, ...]:
    built = ("mkldnn", "cuda") if torch.backends.cuda.is_built() else ("mkldnn",)
    return tuple((backend, operation) for backend in built for operation in ("matmul", "conv"))
