"""Which parameters are clipped together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dplit.errors import ConfigurationError


class Blocks:
    """A partition of the trainable parameters by prefixes of their names.

    Args:
        prefixes: a parameter belongs to the longest one it starts with; None makes each parameter a block.

    Raises:
        ConfigurationError: an empty list, or one prefix twice.
    """

    def __init__(self, prefixes: Sequence[str] | None) -> None:
        self.prefixes = None if prefixes is None else tuple(str(prefix) for prefix in prefixes)
        if self.prefixes is not None and (not self.prefixes or len(set(self.prefixes)) < len(self.prefixes)):
            raise ConfigurationError(f"blocks={list(self.prefixes)} must be distinct prefixes of parameter names")
        self.names: tuple[str, ...] = ()
        self._of = torch.empty(0, dtype=torch.int64)

    def prepare(self, parameters: Sequence[str]) -> None:
        """Find each parameter's block.

        Raises:
            ConfigurationError: a parameter that no prefix fits, or a prefix without parameters.
        """
        found = [self._block(name) for name in parameters]
        self.names = tuple(dict.fromkeys(found)) if self.prefixes is None else self.prefixes
        if empty := set(self.names) - set(found):
            raise ConfigurationError(f"block {min(empty)!r} has no trainable parameter; leave it out of blocks")
        self._of = torch.tensor([self.names.index(block) for block in found], dtype=torch.int64)

    def norms(self, norms: Tensor) -> Tensor:
        """Return `(L, n)` float64 norms of the blocks from `(p, n)` norms of the parameters."""
        if norms.shape[0] != len(self._of):
            raise ConfigurationError(
                f"{norms.shape[0]} parameters are trained where {len(self._of)} were at the start of the fit; "
                "clipping by parameter needs the same ones throughout"
            )
        squares = torch.zeros(len(self.names), norms.shape[1], dtype=torch.float64, device=norms.device)
        return squares.index_add_(0, self._of.to(norms.device), norms.double() ** 2).sqrt_()

    def spread(self, weights: Tensor, norms: Tensor) -> Tensor:
        """Return `(p, n)` weights from `(L, n)`, all 0 for an example with a norm that is not finite."""
        wide = weights[self._of.to(weights.device)].to(norms.dtype)
        return torch.where(norms.isfinite().all(0), wide, 0.0)

    def _block(self, name: str) -> str:
        if self.prefixes is None:
            return name
        fits = [prefix for prefix in self.prefixes if name.startswith(prefix)]
        if not fits:
            raise ConfigurationError(
                f"parameter {name} is in none of the blocks {', '.join(self.prefixes)}; add a prefix that it starts with"
            )
        return max(fits, key=len)
