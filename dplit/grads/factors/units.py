"""Examples that are clipped as one: all records of a person, or all copies of a record."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from dplit.errors import ConfigurationError


class Units:
    """Which unit each of n examples belongs to.

    The gradient of a unit is the mean of its examples', so that one with many weighs no more than one with few. Its positions
    are theirs, one after the other: what is known of an example with t positions is known of a unit of k with k·t.

    Source: augmentation multiplicity, De et al. 2022, arXiv:2204.13650; user-level DP, McMahan et al. 2018, arXiv:1710.06963.

    Args:
        of: `(n,)` unit of each example, each in `[0, count)`.
        count: u, the number of units.

    Raises:
        ConfigurationError: a unit out of range, or one without examples.
    """

    def __init__(self, of: Tensor, count: int) -> None:
        self.of, self.count = of, count
        self._sizes = torch.bincount(of, minlength=count)
        if len(self._sizes) != count or bool((self._sizes == 0).any()):
            raise ConfigurationError(f"each of {count} units needs at least one example, got the units {of.tolist()}")

    @cached_property
    def shares(self) -> Tensor:
        """`(n,)`: one over the number of examples in the unit of each, float64."""
        return 1 / self._sizes[self.of].double()

    @cached_property
    def _slots(self) -> Tensor:
        """`(u, k)`: the examples of each unit, and n where it has fewer than k."""
        order = torch.argsort(self.of, stable=True)
        starts = torch.cumsum(self._sizes, 0) - self._sizes
        place = torch.arange(len(order), device=order.device) - starts[self.of[order]]
        slots = torch.full((self.count, int(self._sizes.max())), len(order), device=order.device)
        slots[self.of[order], place] = order
        return slots

    def stacked(self, x: Tensor) -> Tensor:
        """Return `(u, k·t, *r)` from `(n, t, *r)`: each unit's positions, zeros after the last."""
        padded = torch.cat([x, x.new_zeros(1, *x.shape[1:])])
        return padded[self._slots].flatten(1, 2)

    def shared(self, x: Tensor) -> Tensor:
        """Return `(n, *r)` with each example's row times its share of the unit, in float32 or wider."""
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        return x * self.shares.to(x.dtype).view(-1, *[1] * (x.dim() - 1))

    def meant(self, x: Tensor) -> Tensor:
        """Return `(u, *r)` means over each unit's examples of `(n, *r)`, in float32 or wider."""
        x = self.shared(x)
        return x.new_zeros(self.count, *x.shape[1:]).index_add_(0, self.of, x)
