"""Per-example gradients of one physical batch, kept as uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from dplit.grads.factors.base import FactoredGrad, at_least, inner
from dplit.grads.factors.ghost_norm import sharing
from dplit.grads.factors.outer_product import added_up
from dplit.grads.factors.row_sparse import RowSparseGrad
from dplit.grads.factors.units import Units
from dplit.grads.precision import full_precision


class PerExample:
    """The gradient of each of n examples for each tracked parameter, never built.

    A parameter that took no part has gradient zero for every example.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], uses: Mapping[str, Sequence[FactoredGrad]], examples: int
    ) -> None:
        self.parameters = parameters
        self.uses = {name: sorted(added_up(found), key=_sparse) for name, found in uses.items()}
        self.examples = examples
        self._sq_norms: dict[str, Tensor] | None = None

    @full_precision()
    def together(self, units: Units) -> PerExample:
        """Return the gradients of units instead: each the mean of its examples' gradients."""
        uses = {name: [use.together(units) for use in found] for name, found in self.uses.items()}
        return PerExample(self.parameters, uses, units.count)

    @full_precision()
    def sq_norms(self) -> dict[str, Tensor]:
        """Return `{name: (n,)}` squared L2 norms, in float32 or wider. NaN and Inf mean what they say."""
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
        """Return `{name: Σᵢ wᵢ gᵢ}`.

        Args:
            weights: `(n,)`, or `{name: (n,)}`. An example of weight 0 is left out of the arithmetic altogether,
                so that its NaN or Inf cannot reach the sum.
        """
        if isinstance(weights, Tensor):
            kept = _kept(weights)
            with sharing():
                return {name: self._weighted_sum(name, weights, kept) for name in self.parameters}
        return {name: self._weighted_sum(name, weights[name], _kept(weights[name])) for name in self.parameters}

    def _sq_norm(self, name: str) -> Tensor:
        uses = self.uses.get(name, ())
        if not uses:
            return self._zeros(name, (self.examples,))
        parts = sum((use.sq_norm() for use in uses[1:]), uses[0].sq_norm())
        if len(uses) == 1:
            return parts
        total = sum((2 * inner(a, b) for a, b in combinations(uses, 2)), parts)
        return at_least(total, parts)

    def _weighted_sum(self, name: str, weights: Tensor, kept: Tensor | None) -> Tensor:
        shape, uses = self.parameters[name].shape, self.uses.get(name, ())
        if kept is not None:
            uses, weights = [use.select(kept) for use in uses], weights[kept]
        if not uses:
            return self._zeros(name, shape)
        total = uses[0].weighted_sum(weights).view(shape)
        for use in uses[1:]:
            use.add_weighted(total, weights)
        return total

    def _zeros(self, name: str, shape: tuple[int, ...]) -> Tensor:
        parameter = self.parameters[name]
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        return torch.zeros(shape, dtype=dtype, device=parameter.device)


def _sparse(use: FactoredGrad) -> bool:
    """Uses that add to a few rows come last, when there is something to add to."""
    return isinstance(use, RowSparseGrad)


def _kept(weights: Tensor) -> Tensor | None:
    """Return the positions of the examples with a weight, or None where all have one."""
    kept = weights != 0
    return None if bool(kept.all()) else kept.nonzero().flatten()
