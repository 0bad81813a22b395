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
        ConfigurationError: an empty list, or a prefix that stands in it twice.

    >>> blocks = Blocks(["encoder", ""])
    >>> blocks.prepare(["encoder.weight", "encoder.bias", "head"])
    >>> blocks.norms(torch.tensor([[3.0], [4.0], [2.0]])).tolist()
    [[5.0], [2.0]]
    """

    def __init__(self, prefixes: Sequence[str] | None) -> None:
        self.prefixes = None if prefixes is None else tuple(str(prefix) for prefix in prefixes)
        if self.prefixes is not None and (not self.prefixes or len(set(self.prefixes)) < len(self.prefixes)):
            raise ConfigurationError(f"blocks={list(self.prefixes)} must be distinct prefixes of parameter names")
        self.names: tuple[str, ...] = ()
        self._block_of_parameter = torch.empty(0, dtype=torch.int64)

    def prepare(self, parameters: Sequence[str]) -> None:
        """Find the block of each parameter.

        Raises:
            ConfigurationError: a parameter that no prefix fits, or a prefix without parameters.
        """
        blocks = [self._block(name) for name in parameters]
        self.names = tuple(dict.fromkeys(blocks)) if self.prefixes is None else self.prefixes
        if empty := set(self.names) - set(blocks):
            raise ConfigurationError(f"block {min(empty)!r} has no trainable parameter; leave it out of blocks")
        self._block_of_parameter = torch.tensor([self.names.index(block) for block in blocks], dtype=torch.int64)

    def norms(self, norms: Tensor) -> Tensor:
        """Return `(L, n)` float64 norms of the blocks from `(p, n)` norms of the parameters.

        Raises:
            ConfigurationError: other parameters are trained than those of `prepare`.
        """
        if norms.shape[0] != len(self._block_of_parameter):
            raise ConfigurationError(
                f"{norms.shape[0]} parameters are trained where {len(self._block_of_parameter)} were at the start of the fit; "
                "clipping by parameter needs the same ones throughout"
            )
        squares = torch.zeros(len(self.names), norms.shape[1], dtype=torch.float64, device=norms.device)
        return squares.index_add_(0, self._block_of_parameter.to(norms.device), norms.double() ** 2).sqrt_()

    def spread(self, weights: Tensor, norms: Tensor) -> Tensor:
        """Return `(p, n)` weights from `(L, n)`, all 0 for an example with a norm that is not finite."""
        of_parameters = weights[self._block_of_parameter.to(weights.device)].to(norms.dtype)
        return torch.where(norms.isfinite().all(0), of_parameters, 0.0)

    def _block(self, name: str) -> str:
        if self.prefixes is None:
            return name
        fitting = [prefix for prefix in self.prefixes if name.startswith(prefix)]
        if not fitting:
            raise ConfigurationError(
                f"parameter {name} is in none of the blocks {', '.join(self.prefixes)}; add a prefix that it starts with"
            )
        return max(fitting, key=len)
