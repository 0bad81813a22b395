"""What clipping does to each group's gradients: norms, weights and directions of a sample of records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dplit.clipping import ClippingPolicy
from dplit.fairness.metrics.rates import Row
from dplit.grads.per_example import PerExample
from dplit.training.step import norms_for

ROUNDING = 1e-6
"""A weight is below another one if it is so by more than this, relative to it."""

Vector = dict[str, Tensor]
"""One gradient: `{parameter name: its part}`."""


class Records(NamedTuple):
    """What is kept of each of n records, on the CPU, floats in float64."""

    norm: Tensor
    """`(n,)` ‖gᵢ‖ over all parameters; Inf where it is not finite."""
    contribution: Tensor
    """`(n,)` norm of the clipped gradient, wᵢ‖gᵢ‖."""
    clipped: Tensor
    """`(n,)` whether wᵢ is below the weight that the policy gives a gradient of norm 0 in the same group."""
    group: Tensor
    """`(n,)` int64 ids."""

    def of(self, group: int) -> Records:
        """Return the records of one group."""
        return Records(*(column[self.group == group] for column in self))

    @classmethod
    def joined(cls, parts: Sequence[Records]) -> Records:
        """Return several runs of records as one; of none, no records."""
        none = torch.zeros(0, dtype=torch.float64)
        empty = cls(none, none, none, none.long())
        return cls(*(torch.cat(column) for column in zip(empty, *parts, strict=True)))


class Weighed(NamedTuple):
    """A policy's weights for n records and p parameters, p = 1 where it gives one weight to all parameters."""

    norms: Tensor
    """`(p, n)`, what the weights were made from."""
    weights: Tensor
    """`(p, n)`, 0 for a record whose gradient is not finite."""
    unclipped: Tensor
    """`(p, n)`, the weights at norm 0 in the record's group."""


class Tally:
    """Adds up the gradients of a sample, by group, as they are and as the policy weighs them.

    Only the policy's `weights` is called: it is neither asked nor told anything. Memory: two sums of the size of the
    trainable parameters for each group that is present.

    Args:
        policy: declared for `groups`, at its present state.
        groups: the declared list.
        rate: q, which a policy with rates by group makes those of.

    Raises:
        ConfigurationError: the rate is too high for the policy's rates by group.
    """

    def __init__(self, policy: ClippingPolicy, groups: Sequence[str], rate: float = 1.0) -> None:
        self.policy, self.groups = policy, tuple(groups)
        rates = policy.rates(rate) or {}
        self._rates = [rates.get(name, rate) for name in self.groups]
        self._seen: list[Records] = []
        self._true: list[Vector] = [{} for _ in self.groups]
        self._clipped: list[Vector] = [{} for _ in self.groups]

    def add(self, gradients: PerExample, group: Tensor) -> None:
        """Add the gradients of n records with the group ids `group`, `(n,)`.

        A record whose gradient is not finite counts as clipped with contribution 0, as in a private step, and is left
        out of norms and sums.
        """
        norms = gradients.norms().nan_to_num(nan=math.inf, posinf=math.inf)
        group, finite = group.to(norms.device), norms.isfinite()
        weighed = weigh(self.policy, gradients, norms, group, len(self.groups))
        self._seen.append(_records(weighed, norms, group))
        for k in torch.unique(group).tolist():
            mine = (finite & (group == k)).to(norms.dtype)
            _add(self._true[k], gradients.weighted_sum(mine))
            _add(self._clipped[k], _weighted_sum(gradients, weighed.weights * mine))

    def rows(self) -> list[Row]:
        """Return every figure: for each declared group, and under the group "" for all records together.

        With m records of finite gradient in the group, g = Σgᵢ/m, c = Σwᵢgᵢ/m, and t = Σqᵢwᵢgᵢ over the records of all
        groups, qᵢ the rate at which record i is drawn (t is c, up to its length, for all records together):

        * n: records in the sample; not_finite: the fraction of them whose gradient is not finite.
        * norm_mean, norm_q1, norm_median, norm_q3: of ‖gᵢ‖, quartiles interpolated linearly.
        * clipped: fraction with a weight below the one that the policy gives a gradient of norm 0 in the same group.
        * contribution: mean of wᵢ‖gᵢ‖.
        * direction_cosine: ⟨g, c⟩ / (‖g‖‖c‖).
        * direction_error: min over s ≥ 0 of ‖s·c − g‖ / ‖g‖, what no step size mends: 0 for the same direction, 1 for a
          right angle or worse. The best s is max(⟨g, c⟩, 0)/‖c‖².
        * steering_cosine: ⟨t, g⟩ / (‖t‖‖g‖), how far the step follows this group.

        What is not defined, as every figure but n of an absent group, is NaN.
        """
        seen, true, total = Records.joined(self._seen), _sum(self._true), _sum(self._clipped, self._rates)
        parts = {name: (seen.of(k), self._true[k], self._clipped[k]) for k, name in enumerate(self.groups)}
        return [
            Row(metric, name, value)
            for name, (records, whole, clipped) in {**parts, "": (seen, true, total)}.items()
            for metric, value in {**_of_norms(records), **directions(whole, clipped, total)}.items()
        ]


def weigh(policy: ClippingPolicy, gradients: PerExample, norms: Tensor, group: Tensor, groups: int) -> Weighed:
    """Ask a policy for its weights, of whole gradients or, where it is per parameter, of each parameter's part.

    Args:
        policy: as for `Tally`.
        gradients: of n records.
        norms: `(n,)`, Inf where a gradient is not finite.
        group: `(n,)` ids.
        groups: K, how many are declared.
    """
    given, every = norms_for(policy, gradients), torch.arange(groups, device=norms.device)
    weights = torch.where(norms.isfinite(), policy.weights(given, group), 0.0)
    unclipped = policy.weights(given.new_zeros(*given.shape[:-1], groups), every)[..., group]
    return Weighed(*(one.view(-1, len(norms)) for one in (given, weights, unclipped)))


def directions(true: Vector, clipped: Vector, total: Vector) -> dict[str, float]:
    """Return direction_cosine, direction_error and steering_cosine of `Tally.rows`; scales of the sums do not matter."""
    square, along = _inner(true, true), _inner(true, clipped)
    fitted = max(along, 0.0) ** 2 / (_inner(clipped, clipped) or 1.0)
    left = max(square - fitted, 0.0) / square if square else math.nan
    return {
        "direction_cosine": cosine(true, clipped),
        "direction_error": math.sqrt(left),
        "steering_cosine": cosine(total, true),
    }


def cosine(a: Vector, b: Vector) -> float:
    """Return ⟨a, b⟩ / (‖a‖‖b‖), computed in float64; NaN where one of them is zero or empty."""
    size = math.sqrt(_inner(a, a)) * math.sqrt(_inner(b, b))
    return max(-1.0, min(1.0, _inner(a, b) / size)) if size else math.nan


def _records(weighed: Weighed, norms: Tensor, group: Tensor) -> Records:
    parts = torch.where(weighed.weights > 0, weighed.weights * weighed.norms, 0.0).double()
    clipped = (weighed.weights < weighed.unclipped * (1 - ROUNDING)).any(0)
    columns = (norms.double(), parts.square().sum(0).sqrt(), clipped.double(), group)
    return Records(*(column.cpu() for column in columns))


def _of_norms(records: Records) -> dict[str, float]:
    n, norm = len(records.norm), records.norm[records.norm.isfinite()]
    levels = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    quartiles = norm.quantile(levels).tolist() if len(norm) else [math.nan] * 3
    return {
        "n": float(n),
        "not_finite": 1 - len(norm) / n if n else math.nan,
        "norm_mean": float(norm.mean()),
        **dict(zip(("norm_q1", "norm_median", "norm_q3"), quartiles, strict=True)),
        "clipped": float(records.clipped.mean()),
        "contribution": float(records.contribution.mean()),
    }


def _weighted_sum(gradients: PerExample, weights: Tensor) -> Vector:
    if len(weights) == 1:
        return gradients.weighted_sum(weights[0])
    return gradients.weighted_sum(dict(zip(gradients.parameters, weights, strict=True)))


def _add(total: Vector, part: Mapping[str, Tensor], factor: float = 1.0) -> None:
    for name, value in part.items():
        total[name] = total[name].add_(value, alpha=factor) if name in total else value * factor


def _sum(parts: Sequence[Vector], factors: Sequence[float] | None = None) -> Vector:
    total: Vector = {}
    for part, factor in zip(parts, factors or [1.0] * len(parts), strict=True):
        _add(total, part, factor)
    return total


def _inner(a: Vector, b: Vector) -> float:
    if not a or not b:
        return 0.0
    return float(torch.stack([(a[name].double() * b[name].double()).sum() for name in a]).sum())
