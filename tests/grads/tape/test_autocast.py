"""A rule converts an activation as autocast would convert it for the operation that the rule replaces."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dplit.grads.tape.autocast import to_product_dtype, to_statistics_dtype

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_changes_without_autocast(dtype: torch.dtype) -> None:
    x = torch.ones(2, 3, dtype=dtype)
    assert to_product_dtype(x) is x
    assert to_statistics_dtype(x) is x


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_are_in_the_type_that_autocast_gives_them(dtype: torch.dtype) -> None:
    x = torch.ones(2, 3, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.linear(x, torch.ones(2, 3, dtype=dtype)).dtype
        assert to_product_dtype(x).dtype == expected


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_statistics_are_in_float32_or_wider(dtype: torch.dtype) -> None:
    x = torch.ones(2, 3, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        assert to_statistics_dtype(x).dtype == torch.promote_types(dtype, torch.float32)
