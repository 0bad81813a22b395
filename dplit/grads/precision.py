"""Products of float32 numbers in float32: what a model may round for speed, norms and sums of gradients may not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

BACKENDS = (("cuda", "matmul"), ("cuda", "conv"), ("mkldnn", "matmul"), ("mkldnn", "conv"))
"""Whose products `torch.set_float32_matmul_precision`, or torch itself, lets be of TensorFloat-32 or bfloat16 numbers."""

FULL = "ieee"
AS_THE_OTHERS = "none"
"""What torch calls a setting that was never made: that of `torch.backends.fp32_precision`, and else full."""


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 products in float32 within, whatever the process is set to; afterwards it is set as it was.

    A norm that was rounded to eleven bits would understate what a record adds to the sum by up to 1 in 2,000, to eight
    bits by 1 in 250, and the sum itself would move by the rounding of all records when one of them comes or goes.
    """
    settings = [(one, torch._C._get_fp32_precision_getter(*one)) for one in BACKENDS]
    narrow = [(one, setting) for one, setting in settings if setting != FULL]
    for one, _ in narrow:
        torch._C._set_fp32_precision_setter(*one, FULL)
    try:
        yield
    finally:
        for one, setting in narrow:
            torch._C._set_fp32_precision_setter(*one, setting)
