"""The contract of every form of gradient: norms, inner products, sums, selections and units are those of the built gradients."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import walk_packages

import pytest
import torch
from torch import Tensor

import dplit.grads
from dplit.grads.factors import base, row_sparse, vjp
from dplit.grads.factors.base import DenseGrad, FactoredGrad, inner
from dplit.grads.factors.outer_product import OuterProductGrad, merged_where_cheaper
from dplit.grads.factors.reshaped import ReshapedGrad
from dplit.grads.factors.row_sparse import RowSparseGrad
from dplit.grads.factors.rows import RowPerExampleGrad, row_per_example_grad
from dplit.grads.factors.slices import SlicedGrad, slice_of_view
from dplit.grads.factors.units import Units
from dplit.grads.factors.vjp import VjpGrad
from dplit.grads.rules.bilinear import BilinearGrad
from dplit.grads.rules.conv import ConvGrad, Geometry
from dplit.grads.rules.matmul import BatchedOuterProductGrad

N = 6
UNITS = Units(torch.tensor([1, 0, 1, 2, 0, 1]), 3)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def ids(t: int, rows: int) -> Tensor:
    return torch.randint(0, rows, (N, t))


def part(parent: Tensor) -> tuple[Tensor, Tensor]:
    """A slice of a parent and the parent."""
    parent = parent.requires_grad_()
    return parent[1:4], parent


def sliced() -> SlicedGrad:
    view, parent = part(normal(5, 4))
    where = slice_of_view(view, parent)
    assert where is not None
    return SlicedGrad(OuterProductGrad(normal(N, 7, 4), normal(N, 7, 3)), where)


def pulled_back() -> VjpGrad:
    parent = normal(5, 4).requires_grad_()
    return VjpGrad(OuterProductGrad(normal(N, 7, 4), normal(N, 7, 5)), parent.exp() * 2, parent)


FORMS: dict[str, tuple[tuple[int, ...], Callable[[], FactoredGrad]]] = {
    "dense": ((5, 4), lambda: DenseGrad(normal(N, 5, 4))),
    "a number": ((), lambda: DenseGrad(normal(N))),
    "outer product": ((5, 4), lambda: OuterProductGrad(normal(N, 7, 4), normal(N, 7, 5))),
    "outer product of one position": ((5, 4), lambda: OuterProductGrad(normal(N, 1, 4), normal(N, 1, 5))),
    "outer product of many positions": ((5, 4), lambda: OuterProductGrad(normal(N, 96, 4), normal(N, 96, 5))),
    "table": ((5, 4), lambda: RowSparseGrad(ids(7, 5), normal(N, 7, 4), 5)),
    "table by shared ids": ((5, 4), lambda: RowSparseGrad(ids(7, 5)[:1].expand(N, -1), normal(N, 7, 4), 5)),
    "row per example": ((N, 4), lambda: row_per_example_grad(normal(N, 4), N)),
    "rows per example": ((2 * N, 4), lambda: row_per_example_grad(normal(2 * N, 4), N)),
    "reshaped": ((20,), lambda: ReshapedGrad(OuterProductGrad(normal(N, 7, 4), normal(N, 7, 5)), (5, 4), (20,))),
    "sliced": ((5, 4), sliced),
    "pulled back": ((5, 4), pulled_back),
    "bilinear": ((5, 4, 3), lambda: BilinearGrad(normal(N, 7, 4), normal(N, 7, 3), normal(N, 7, 5))),
    "heads": ((2, 5, 4), lambda: BatchedOuterProductGrad(normal(N, 2, 7, 4), normal(N, 2, 7, 5))),
    "convolution": (
        (6, 2, 3),
        lambda: ConvGrad(normal(N, 2, 4, 9), normal(N, 2, 6, 9), Geometry((3,), (1,), (1,), (1,), 2)),
    ),
}


def form(name: str) -> tuple[FactoredGrad, Tensor]:
    """A gradient and the built gradients of its examples."""
    torch.manual_seed(0)
    shape, make = FORMS[name]
    grad = make()
    return grad, grad.dense().detach().view(N, *shape)


def law_of_one(name: str) -> None:
    grad, dense = form(name)
    rows, weights = dense.reshape(N, -1), torch.linspace(-1, 2, N, dtype=torch.float64)
    close = torch.testing.assert_close
    close(grad.sq_norm(), rows.square().sum(1))
    total = torch.tensordot(weights, dense, 1)
    close(grad.weighted_sum(weights).view(total.shape), total)
    added = torch.ones_like(total)
    grad.add_weighted(added, weights)
    close(added, total + 1)
    close(grad.select(torch.tensor([4, 1])).dense().view(2, *total.shape), dense[[4, 1]])
    close(grad.select(slice(2, 5)).sq_norm(), rows[2:5].square().sum(1))
    close(grad.compact().dense().view(dense.shape), dense)
    close(grad.averaged(UNITS).dense().reshape(3, -1), UNITS.means(rows))
    close(grad.averaged(UNITS).sq_norm(), UNITS.means(rows).square().sum(1))
    terms = grad.terms_sq_norm()
    assert terms is None or torch.all(terms >= 0)


@pytest.mark.parametrize("name", FORMS)
def test_it_is_as_if_it_were_built(name: str) -> None:
    law_of_one(name)


@pytest.mark.parametrize("name", FORMS)
def test_in_small_chunks_it_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("factors.base", "factors.ghost_norm", "factors.row_sparse", "rules.bilinear", "rules.conv"):
        monkeypatch.setattr(f"dplit.grads.{module}.MAX_INSTANTIATED", 30)
    law_of_one(name)


@pytest.mark.parametrize("ghost", [0, 10**12], ids=["built", "ghost"])
@pytest.mark.parametrize("name", FORMS)
def test_either_way_it_is_the_same(name: str, ghost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dplit.grads.factors.ghost_norm.PRODUCTS_PER_NUMBER", {"cpu": ghost})
    law_of_one(name)


def law_of_two(first: str, second: str) -> None:
    (a, x), (_, _) = form(first), form(second)
    torch.manual_seed(1)
    b = FORMS[second][1]()
    y = b.dense().detach().reshape(N, -1)
    torch.testing.assert_close(inner(a, b), (x.reshape(N, -1) * y).sum(1))
    torch.testing.assert_close(inner(b, a), (x.reshape(N, -1) * y).sum(1))


@pytest.mark.parametrize(
    ("first", "second"), [(a, b) for a in FORMS for b in FORMS if FORMS[a][0] == FORMS[b][0]], ids=str
)
def test_inner_products_of_any_two_are_those_of_the_built(first: str, second: str) -> None:
    law_of_two(first, second)


def test_every_form_is_here() -> None:
    """A new form of gradient must be added to FORMS."""
    for module in walk_packages(dplit.grads.__path__, "dplit.grads."):
        import_module(module.name)
    forms = {kind for kind in FactoredGrad.__subclasses__() if kind.__module__.startswith("dplit.")}
    assert forms - {type(form(name)[0]) for name in FORMS} == set()


def test_gradients_are_added_up_only_where_that_is_cheaper() -> None:
    torch.manual_seed(0)
    few = [OuterProductGrad(normal(N, 2, 40), normal(N, 2, 50)) for _ in range(2)]
    many = [OuterProductGrad(normal(N, 300, 4), normal(N, 300, 5)) for _ in range(2)]
    assert list(merged_where_cheaper(few)) == few
    (total,) = merged_where_cheaper(many)
    torch.testing.assert_close(total.dense(), many[0].dense() + many[1].dense())


def test_rows_of_one_example_are_nobody_elses() -> None:
    grad = row_per_example_grad(normal(N, 4), N)
    assert isinstance(grad, RowPerExampleGrad)
    dense = grad.dense()
    assert torch.equal(dense[range(N), range(N)], grad.grads)
    assert dense.count_nonzero() == grad.grads.count_nonzero()


@pytest.mark.parametrize("name", ["outer product", "table", "pulled back", "convolution", "bilinear", "heads"])
@pytest.mark.parametrize("method", ["sq_norm", "weighted_sum"])
def test_narrow_types_are_summed_in_float32(name: str, method: str) -> None:
    grad, _ = form(name)
    narrow = type(grad)(
        *(v.bfloat16() if isinstance(v, Tensor) and v.is_floating_point() else v for v in vars(grad).values())
    )
    if name == "pulled back":
        wrapped = OuterProductGrad(normal(N, 7, 4).bfloat16(), normal(N, 7, 5).bfloat16())
        narrow = VjpGrad(wrapped, *(getattr(grad, field) for field in ("attached", "parent")))
    result = narrow.sq_norm() if method == "sq_norm" else narrow.weighted_sum(torch.ones(N))
    assert result.dtype in (torch.float32, torch.float64)


def test_mutant_that_forgets_repeated_rows_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowSparseGrad, "sq_norm", lambda grad: row_sparse.sq_norms(row_sparse.flattened(grad.back)))
    with pytest.raises(AssertionError):
        law_of_one("table")


def test_mutant_that_averages_by_the_number_of_units_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = torch.full((N,), 1 / 3, dtype=torch.float64)
    monkeypatch.setattr(base.FactoredGrad, "averaged", lambda grad, units: DenseGrad(grad.dense()[:3] * shares[0]))
    with pytest.raises(AssertionError):
        law_of_one("heads")


def test_mutant_that_leaves_out_the_derivative_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vjp.VjpGrad, "weighted_sum", lambda grad, weights: grad.wrapped.weighted_sum(weights))
    with pytest.raises(AssertionError):
        law_of_one("pulled back")


def law_an_example_moves_a_narrow_sum_by_its_share(narrow: torch.dtype) -> None:
    """d = exp(p) in a narrow type: the sum of many is not rounded to it."""
    torch.manual_seed(0)
    parent = torch.randn(30, dtype=narrow).requires_grad_()
    grad = VjpGrad(DenseGrad(torch.randn(200, 30)), parent.exp(), parent)
    weights = 1 / grad.sq_norm().sqrt()
    sums = [grad.select(slice(0, n)).weighted_sum(weights[:n]) for n in (199, 200)]
    assert sums[0].dtype == sums[1].dtype == torch.float32
    assert float((sums[1] - sums[0]).norm()) <= 1 + 1e-5
    assert torch.equal(grad.select(slice(0, 0)).weighted_sum(weights[:0]), torch.zeros(30))


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16], ids=str)
def test_an_example_moves_a_narrow_sum_by_its_share(narrow: torch.dtype) -> None:
    law_an_example_moves_a_narrow_sum_by_its_share(narrow)


def test_mutant_a_sum_in_a_narrow_type_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VjpGrad, "_is_narrow", lambda grad: False)
    with pytest.raises(AssertionError):
        law_an_example_moves_a_narrow_sum_by_its_share(torch.bfloat16)
