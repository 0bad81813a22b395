"""No square that underflows makes a norm too small: whatever the magnitudes, what an example adds stays within the bound."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import combinations_with_replacement
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dplit.clipping import Automatic, ClippingPolicy, Flat, PerLayer
from dplit.grads.factors import base, ghost_norm, outer_product
from dplit.grads.factors.base import DenseGrad, FactoredGrad, product, sq_norms, underflow
from dplit.grads.factors.outer_product import OuterProductGrad
from dplit.grads.factors.vjp import VjpGrad
from dplit.grads.per_example import PerExample
from dplit.grads.rules import bilinear, conv
from dplit.grads.rules.bilinear import BilinearGrad
from dplit.grads.rules.conv import ConvGrad, Geometry
from dplit.training.sensitivity import bounded
from dplit.training.step import norms_for
from tests.grads.factors.test_factors import FORMS, N, form

EXPONENTS = st.tuples(st.integers(-38, 38), st.integers(-38, 38)).map(sorted)
"""Least and largest power of ten among the numbers of a factor."""
SEEDS = st.integers(0, 10**6)
ROUNDING = {torch.float32: 2e-5, torch.float64: 1e-10, torch.bfloat16: 2e-5}


def spread(grad: Any, ranges: list[list[int]], dtype: torch.dtype, generator: torch.Generator) -> tuple[Any, Any]:
    """The same form with numbers of any magnitude, a magnitude for each position: in a type, and the same numbers in float64."""
    narrow: dict[str, object] = {}
    wide: dict[str, object] = {}
    if isinstance(grad, VjpGrad):
        wrapped, exact = spread(grad.wrapped, ranges, dtype, generator)
        parent = grad.parent.detach().to(dtype).requires_grad_()
        other = parent.detach().double().requires_grad_()
        return VjpGrad(wrapped, parent.exp() * 2, parent), VjpGrad(exact, other.exp() * 2, other)
    for i, field in enumerate(f for f in fields(grad) if f.init):
        value = getattr(grad, field.name)
        if isinstance(value, FactoredGrad):
            narrow[field.name], wide[field.name] = spread(value, ranges, dtype, generator)
        elif isinstance(value, Tensor) and value.is_floating_point():
            low, high = ranges[i % len(ranges)]
            places = (*value.shape[:2], *[1] * (value.dim() - 2))
            powers = low + (high - low) * torch.rand(places, generator=generator, dtype=torch.float64)
            narrow[field.name] = (value * 10**powers).to(dtype)
            wide[field.name] = (value * 10**powers).to(dtype).double()
    return replace(grad, **narrow), replace(grad, **wide)


def law_norm_not_too_small(name: str, ranges: list[list[int]], seed: int, dtype: torch.dtype = torch.float32) -> None:
    grad, exact = spread(form(name)[0], ranges, dtype, torch.Generator().manual_seed(seed))
    true = exact.dense().reshape(N, -1).square().sum(1)
    found = grad.sq_norm().double()
    assert (found[found.isfinite()] >= true[found.isfinite()] * (1 - ROUNDING[dtype])).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(ranges=st.lists(EXPONENTS, min_size=3, max_size=3), seed=SEEDS)
def test_no_norm_is_too_small(name: str, dtype: torch.dtype, ranges: list[list[int]], seed: int) -> None:
    if name == "pulled back" and dtype is torch.bfloat16:
        return  # its own numbers would be rounded, and the norm is that of what is built from them
    law_norm_not_too_small(name, ranges, seed, dtype)


@pytest.mark.parametrize("ghost", [0, 10**12], ids=["built", "ghost"])
@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(ranges=st.lists(EXPONENTS, min_size=3, max_size=3), seed=SEEDS)
def test_neither_built_nor_ghost(name: str, ghost: int, ranges: list[list[int]], seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ghost_norm.PRODUCTS_PER_NUMBER, "cpu", ghost)
        law_norm_not_too_small(name, ranges, seed)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(ranges=st.lists(EXPONENTS, min_size=2, max_size=2), seed=SEEDS)
def test_nor_in_blocks_of_positions(ranges: list[list[int]], seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ghost_norm, "MAX_GRAM_POSITIONS", 3)
        patch.setitem(ghost_norm.PRODUCTS_PER_NUMBER, "cpu", 10**12)
        law_norm_not_too_small("outer product", ranges, seed)


def added_by_each(gradients: PerExample, policy: ClippingPolicy) -> Tensor:
    """The norm of what each example adds to the sum, in float64."""
    policy.declare(())
    policy.prepare(tuple(gradients.parameters), 1.0)
    norms = norms_for(policy, gradients)
    ids = torch.zeros(N, dtype=torch.int64)
    weights = bounded(policy.weights(norms, ids), norms, ids, policy.bound, ())
    added = []
    for i in range(N):
        only = torch.zeros_like(weights)
        only[..., i] = weights[..., i]
        sums = gradients.weighted_sum(only if only.dim() == 1 else dict(zip(gradients.parameters, only, strict=True)))
        added.append(torch.cat([v.double().flatten() for v in sums.values()]).norm())
    return torch.stack(added)


POLICIES: list[ClippingPolicy] = [Flat(1e-3), Flat(10.0), Automatic(1.0, gamma=1e-4), Automatic(1.0), PerLayer(0.5)]
SAME_SHAPE = [name for name, (shape, _) in FORMS.items() if shape == (5, 4)]


def law_within_the_bound(names: tuple[str, ...], ranges: list[list[int]], seed: int, policy: ClippingPolicy) -> None:
    """Parameter p is used in each of these forms, q in the first."""
    generator = torch.Generator().manual_seed(seed)
    grads = [spread(form(name)[0], ranges[i:], torch.float32, generator)[0] for i, name in enumerate(names)]
    parameters = {"p": torch.zeros(FORMS[names[0]][0]), "q": torch.zeros(FORMS[names[0]][0])}
    added = added_by_each(PerExample(parameters, {"p": grads, "q": grads[:1]}, N), policy)
    assert added.isfinite().all()
    assert (added <= policy.bound * (1 + 1e-5)).all()


@pytest.mark.parametrize("names", list(combinations_with_replacement(SAME_SHAPE, 2)), ids="-".join)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(ranges=st.lists(EXPONENTS, min_size=4, max_size=4), seed=SEEDS, policy=st.sampled_from(POLICIES))
def test_tied_gradients_stay_within_the_bound(
    names: tuple[str, ...], ranges: list[list[int]], seed: int, policy: ClippingPolicy
) -> None:
    law_within_the_bound(names, ranges, seed, policy)


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(ranges=st.lists(EXPONENTS, min_size=3, max_size=3), seed=SEEDS, policy=st.sampled_from(POLICIES))
def test_every_form_stays_within_the_bound(
    name: str, ranges: list[list[int]], seed: int, policy: ClippingPolicy
) -> None:
    law_within_the_bound((name,), ranges, seed, policy)


def tiny_times_huge(t: int) -> OuterProductGrad:
    """A norm of 1.6, of activations whose squares are 0 in float32."""
    return OuterProductGrad(torch.full((N, t, 4096), 2.5e-24), torch.full((N, t, 64), 1e18))


@pytest.mark.parametrize("t", [1, 2, 80])
def test_activations_that_square_to_zero(t: int) -> None:
    grad = tiny_times_huge(t)
    assert grad.x.square().sum() == 0
    true = (2.5e-24 * 1e18 * t) ** 2 * 4096 * 64
    assert (grad.sq_norm() >= true).all()


@pytest.mark.parametrize("module", [base, ghost_norm, outer_product])
def test_mutant_without_the_allowance_is_caught(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file that allows for underflow is needed: for one position, or for several."""
    plain = lambda x: base.wide(x).square().sum(-1)  # noqa: E731
    monkeypatch.setattr(module, "sq_norms", plain)
    monkeypatch.setattr(module, "underflow", lambda numbers, sq_norm: torch.zeros_like(sq_norm), raising=False)
    t = 1 if module is outer_product else 2
    if module is base:
        assert DenseGrad(torch.full((1, 4), 1e-30)).sq_norm() == 0
        return
    with pytest.raises(AssertionError):
        test_activations_that_square_to_zero(t)


def law_tiny_times_huge(name: str) -> None:
    """A norm of 1e-5 or more, where one factor squares to 0 in float32."""
    tiny, huge = torch.full((1, 2, 9), 1e-24), torch.full((1, 2, 9), 1e18)
    grad: FactoredGrad = {
        "bilinear": lambda: BilinearGrad(tiny, torch.full_like(huge, 10.0), huge),
        "pixels": lambda: ConvGrad(tiny[:, None], huge[:, None], Geometry((3,), (1,), (1,), (1,), 2)),
    }[name]()
    assert (grad.sq_norm().sqrt() >= 1e-5).all()


@pytest.mark.parametrize("name", ["bilinear", "pixels"])
def test_tiny_times_huge(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ghost_norm.PRODUCTS_PER_NUMBER, "cpu", 10**12)
    law_tiny_times_huge(name)


@pytest.mark.parametrize(("module", "name"), [(bilinear, "bilinear"), (conv, "pixels")])
def test_mutant_of_other_forms_is_caught(module: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "underflow", lambda numbers, sq_norm: torch.zeros_like(sq_norm))
    if module is bilinear:
        monkeypatch.setattr(module, "product", lambda *sq: torch.stack(sq).prod(0))
    monkeypatch.setattr(module, "sq_norms", lambda x: x.square().sum(-1))
    with pytest.raises(AssertionError):
        test_tiny_times_huge(name, monkeypatch)


def test_ordinary_norms_stay_what_they_are() -> None:
    x = torch.randn(3, 10_000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sq_norms(x), torch.linalg.vector_norm(x, dim=-1).square())
    assert (underflow(10**9, sq_norms(x)) < 1e-18).all()
    assert product(torch.tensor([0.0]), torch.tensor([1e38])) > 0


def test_a_gradient_of_zeros_stays_next_to_nothing() -> None:
    grad = OuterProductGrad(torch.zeros(2, 64, 1000), torch.ones(2, 64, 1000))
    assert (grad.sq_norm().sqrt() < 1e-12).all()
