"""Examples that are clipped as one: all records of a person, or all copies of a record."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from dplit.errors import ConfigurationError


class Units:
    """Which unit each of n examples belongs to.

    A unit's gradient is the mean of its examples' gradients, so that a unit of many examples weighs no more than a unit of
    few. A unit of k examples with t positions each is treated like one example with k·t positions: whatever holds for the
    gradient of such an example holds for the unit's.

    Source: augmentation multiplicity, De et al. 2022, arXiv:2204.13650; user-level DP, McMahan et al. 2018, arXiv:1710.06963.

    Args:
        of: `(n,)` unit of each example, each in `[0, count)`.
        count: u, the number of units.

    Raises:
        ConfigurationError: a unit is out of range or has no examples.
    """

    def __init__(self, of: Tensor, count: int) -> None:
        self.of, self.count = of, count
        self._sizes = torch.bincount(of, minlength=count)
        if len(self._sizes) != count or bool((self._sizes == 0).any()):
            raise ConfigurationError(f"each of {count} units needs at least one example, got the units {of.tolist()}")

    @cached_property
    def shares(self) -> Tensor:
        """`(n,)` float64: one over the number of examples in each example's unit."""
        return 1 / self._sizes[self.of].double()

    @cached_property
    def _slots(self) -> Tensor:
        """`(u, k)`: the examples of each unit, filled up with n where a unit has fewer than k."""
        order = torch.argsort(self.of, stable=True)
        starts = torch.cumsum(self._sizes, 0) - self._sizes
        rank = torch.arange(len(order), device=order.device) - starts[self.of[order]]
        slots = torch.full((self.count, int(self._sizes.max())), len(order), device=order.device)
        slots[self.of[order], rank] = order
        return slots

    def stacked(self, x: Tensor) -> Tensor:
        """Return `(u, k·t, *r)` from `(n, t, *r)`: the positions of a unit's examples one after the other, then zeros."""
        padded = torch.cat([x, x.new_zeros(1, *x.shape[1:])])
        return padded[self._slots].flatten(1, 2)

    def times_share(self, x: Tensor) -> Tensor:
        """Return `(n, *r)` with each example's row multiplied by its share of the unit, in float32 or wider."""
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        return x * self.shares.to(x.dtype).view(-1, *[1] * (x.dim() - 1))

    def means(self, x: Tensor) -> Tensor:
        """Return `(u, *r)` from `(n, *r)`: the mean over each unit's examples, in float32 or wider.

        Example:
            >>> Units(torch.tensor([0, 1, 0]), 2).means(torch.tensor([1.0, 5.0, 3.0]))
            tensor([2., 5.])
        """
        x = self.times_share(x)
        return x.new_zeros(self.count, *x.shape[1:]).index_add_(0, self.of, x)
