"""Per-example gradients of one physical batch, kept in factors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import combinations

import torch
from torch import Tensor

from dplit.grads.factors.base import FactoredGrad, inner, rounded_up, underflow
from dplit.grads.factors.ghost_norm import sharing
from dplit.grads.factors.outer_product import merged_where_cheaper
from dplit.grads.factors.row_sparse import RowSparseGrad
from dplit.grads.factors.units import Units
from dplit.grads.precision import full_precision


class PerExample:
    """The gradient gᵢ of each of n examples with respect to each parameter, kept in factors and not built.

    A parameter without factors took no part: its gradient is zero for every example.

    Args:
        parameters: `{name: parameter}`; results have these names in this order.
        factors: `{name: gradients through each application of the parameter}`; their sum is the parameter's gradient.
        examples: n.

    Example:
        >>> import torch
        >>> from dplit.grads.factors.base import DenseGrad
        >>> scale = torch.ones(2)
        >>> gradients = PerExample({"scale": scale}, {"scale": [DenseGrad(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))]}, 2)
        >>> gradients.norms()
        tensor([5., 2.])
        >>> gradients.weighted_sum(torch.tensor([1.0, 0.5]))
        {'scale': tensor([3., 5.])}
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], factors: Mapping[str, Sequence[FactoredGrad]], examples: int
    ) -> None:
        self.parameters = parameters
        self.factors = {name: sorted(merged_where_cheaper(grads), key=_is_sparse) for name, grads in factors.items()}
        self.examples = examples
        self._sq_norms: dict[str, Tensor] | None = None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors in which the gradients are kept, each with the name of its parameter."""
        for name, grads in self.factors.items():
            yield from ((name, value) for grad in grads for value in _tensors(grad))

    @full_precision()
    def averaged(self, units: Units) -> PerExample:
        """Return the gradient of each unit, the mean of its examples' gradients, as if the units were the examples."""
        factors = {name: [grad.averaged(units) for grad in grads] for name, grads in self.factors.items()}
        return PerExample(self.parameters, factors, units.count)

    @full_precision()
    def sq_norms(self) -> dict[str, Tensor]:
        """Return `{name: (n,)}` squared L2 norms, in float32 or wider; they are NaN or Inf where a gradient is."""
        if self._sq_norms is None:
            with sharing():
                self._sq_norms = {name: self._sq_norm(name) for name in self.parameters}
        return self._sq_norms

    def norms(self) -> Tensor:
        """Return `(n,)` L2 norms over all parameters together."""
        return torch.stack(list(self.sq_norms().values())).sum(0).sqrt()

    def norms_by_parameter(self) -> Tensor:
        """Return `(p, n)` L2 norms, a row for each parameter in the order of `parameters`."""
        return torch.stack(list(self.sq_norms().values())).sqrt()

    @full_precision()
    def weighted_sum(self, weights: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `{name: Σᵢ wᵢ gᵢ}` in the parameters' shapes, in float32 or wider.

        Args:
            weights: `(n,)`, or `{name: (n,)}`. An example of weight 0 takes no part in the arithmetic, so that its NaN
                or Inf cannot reach the sum.
        """
        if isinstance(weights, Tensor):
            kept = _nonzero(weights)
            with sharing():
                return {name: self._weighted_sum(name, weights, kept) for name in self.parameters}
        return {name: self._weighted_sum(name, weights[name], _nonzero(weights[name])) for name in self.parameters}

    def _sq_norm(self, name: str) -> Tensor:
        factors = self.factors.get(name, ())
        if not factors:
            return self._zeros(name, (self.examples,)).abs()
        terms = sum((grad.sq_norm() for grad in factors[1:]), factors[0].sq_norm())
        if len(factors) == 1:
            return terms
        total = sum((2 * inner(a, b) for a, b in combinations(factors, 2)), terms)
        kept_in = terms + sum(grad.factors_sq_norm() for grad in factors)
        numbers = sum(grad.factors_size + grad.size for grad in factors)
        return rounded_up(total, terms) + underflow(numbers, kept_in)

    def _weighted_sum(self, name: str, weights: Tensor, kept: Tensor | None) -> Tensor:
        shape, factors = self.parameters[name].shape, self.factors.get(name, ())
        if kept is not None:
            factors, weights = [grad.select(kept) for grad in factors], weights[kept]
        if not factors:
            return self._zeros(name, shape)
        total = factors[0].weighted_sum(weights).view(shape)
        for grad in factors[1:]:
            grad.add_weighted(total, weights)
        return total

    def _zeros(self, name: str, shape: tuple[int, ...]) -> Tensor:
        parameter = self.parameters[name]
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        return torch.zeros(shape, dtype=dtype, device=parameter.device)


def _is_sparse(grad: FactoredGrad) -> bool:
    """Sort gradients that add to a few rows last, when there is a sum to add them to."""
    return isinstance(grad, RowSparseGrad)


def _nonzero(weights: Tensor) -> Tensor | None:
    """Return the indices of the examples whose weight is not zero, or None where that is all of them."""
    nonzero = weights != 0
    return None if bool(nonzero.all()) else nonzero.nonzero().flatten()


def _tensors(grad: FactoredGrad) -> Iterator[Tensor]:
    """Yield the tensors that a gradient is kept in."""
    values = [getattr(grad, f.name) for f in fields(grad)] if is_dataclass(grad) else list(vars(grad).values())
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, FactoredGrad):
            yield from _tensors(value)
