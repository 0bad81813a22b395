"""What clipping does to each group's gradients: norms, weights and directions of a sample of records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dplit.clipping import ClippingPolicy
from dplit.fairness.metrics.metric import Row
from dplit.grads.per_example import PerExample
from dplit.training.step import norms_for

ROUNDING = 1e-6
"""A weight is below another one if it is below by more than this fraction of it."""

Vector = dict[str, Tensor]
"""One gradient: `{parameter name: its part}`."""


class Records(NamedTuple):
    """What is kept of each of n records, on the CPU, floats in float64."""

    norm: Tensor
    """`(n,)` ‖gᵢ‖ over all parameters; Inf where it is not finite."""
    contribution: Tensor
    """`(n,)` norm of the clipped gradient, wᵢ‖gᵢ‖."""
    clipped: Tensor
    """`(n,)` 1.0 where wᵢ is below the weight that the policy gives a gradient of norm 0 in the same group, else 0.0."""
    group: Tensor
    """`(n,)` int64 ids."""

    def of_group(self, group: int) -> Records:
        """Return the records of one group."""
        return Records(*(column[self.group == group] for column in self))

    @classmethod
    def joined(cls, parts: Sequence[Records]) -> Records:
        """Return the records of all parts; of no parts, no records."""
        none = torch.zeros(0, dtype=torch.float64)
        empty = cls(none, none, none, none.long())
        return cls(*(torch.cat(column) for column in zip(empty, *parts, strict=True)))


class PolicyWeights(NamedTuple):
    """A policy's weights for n records and p parameters, p = 1 where it gives one weight to all parameters."""

    norms: Tensor
    """`(p, n)`, what the weights were made from."""
    weights: Tensor
    """`(p, n)`, 0 for a record whose gradient is not finite."""
    unclipped: Tensor
    """`(p, n)`, the weights at norm 0 in the record's group."""


class Tally:
    """Adds up the gradients of a sample by group: as they are, and as the policy weighs them.

    Of the policy only `weights` and `rates` are called; it is not asked for queries and told no answers. Memory: two sums
    of the size of the trainable parameters for each group that is present.

    Args:
        policy: declared for `groups`, in its present state.
        groups: the declared list.
        rate: q, from which a policy with rates by group makes its rates.

    Raises:
        ConfigurationError: the rate is too high for the policy's rates by group.
    """

    def __init__(self, policy: ClippingPolicy, groups: Sequence[str], rate: float = 1.0) -> None:
        self.policy, self.groups = policy, tuple(groups)
        policy_rates = policy.rates(rate) or {}
        self._rates = [policy_rates.get(name, rate) for name in self.groups]
        self._records: list[Records] = []
        self._sums: list[Vector] = [{} for _ in self.groups]
        self._clipped_sums: list[Vector] = [{} for _ in self.groups]

    def add(self, gradients: PerExample, group: Tensor) -> None:
        """Add the gradients of n records with the group ids `group`, `(n,)`.

        A record whose gradient is not finite counts as clipped with contribution 0, as in a private step, and is left
        out of norms and sums.
        """
        norms = gradients.norms().nan_to_num(nan=math.inf, posinf=math.inf)
        group, finite = group.to(norms.device), norms.isfinite()
        weights = weigh(self.policy, gradients, norms, group, len(self.groups))
        self._records.append(_records(weights, norms, group))
        for k in torch.unique(group).tolist():
            members = (finite & (group == k)).to(norms.dtype)
            _add(self._sums[k], gradients.weighted_sum(members))
            _add(self._clipped_sums[k], _weighted_sum(gradients, weights.weights * members))

    def rows(self) -> list[Row]:
        """Return every figure: for each declared group, and under the group "" for all records together.

        With m records of finite gradient in the group, g = Σgᵢ/m, c = Σwᵢgᵢ/m, and t = Σqᵢwᵢgᵢ over the records of all
        groups, qᵢ the rate at which record i is drawn (t is c, up to its length, for all records together):

        * n: records in the sample; not_finite: the fraction of them whose gradient is not finite.
        * norm_mean, norm_q1, norm_median, norm_q3: of ‖gᵢ‖, quartiles interpolated linearly.
        * clipped: fraction with a weight below the one that the policy gives a gradient of norm 0 in the same group.
        * contribution: mean of wᵢ‖gᵢ‖.
        * direction_cosine: ⟨g, c⟩ / (‖g‖‖c‖).
        * direction_error: min over s ≥ 0 of ‖s·c − g‖ / ‖g‖, the error that no step size removes: 0 for the same
          direction, 1 for a right angle or worse. The best s is max(⟨g, c⟩, 0)/‖c‖².
        * steering_cosine: ⟨t, g⟩ / (‖t‖‖g‖), how far the step follows this group.

        What is not defined, as every figure but n of an absent group, is NaN.
        """
        records, sums = Records.joined(self._records), _sum(self._sums)
        total = _sum(self._clipped_sums, self._rates)
        by_group = {
            name: (records.of_group(k), self._sums[k], self._clipped_sums[k]) for k, name in enumerate(self.groups)
        }
        return [
            Row(metric, name, value)
            for name, (members, true, clipped) in {**by_group, "": (records, sums, total)}.items()
            for metric, value in {**_norm_figures(members), **directions(true, clipped, total)}.items()
        ]


def weigh(policy: ClippingPolicy, gradients: PerExample, norms: Tensor, group: Tensor, groups: int) -> PolicyWeights:
    """Return a policy's weights, of whole gradients or, where it clips by parameter, of each parameter's part.

    Args:
        policy: as for `Tally`.
        gradients: of n records.
        norms: `(n,)`, Inf where a gradient is not finite.
        group: `(n,)` ids.
        groups: K, how many are declared.
    """
    policy_norms, all_groups = norms_for(policy, gradients), torch.arange(groups, device=norms.device)
    weights = torch.where(norms.isfinite(), policy.weights(policy_norms, group), 0.0)
    zero_norms = policy_norms.new_zeros(*policy_norms.shape[:-1], groups)
    unclipped = policy.weights(zero_norms, all_groups)[..., group]
    return PolicyWeights(*(rows.view(-1, len(norms)) for rows in (policy_norms, weights, unclipped)))


def directions(true: Vector, clipped: Vector, total: Vector) -> dict[str, float]:
    """Return direction_cosine, direction_error and steering_cosine of `Tally.rows`; scales of the sums do not matter."""
    square, product = _inner(true, true), _inner(true, clipped)
    explained = max(product, 0.0) ** 2 / (_inner(clipped, clipped) or 1.0)
    error_square = max(square - explained, 0.0) / square if square else math.nan
    return {
        "direction_cosine": cosine(true, clipped),
        "direction_error": math.sqrt(error_square),
        "steering_cosine": cosine(total, true),
    }


def cosine(a: Vector, b: Vector) -> float:
    """Return ⟨a, b⟩ / (‖a‖‖b‖), computed in float64; NaN where one of them is zero or empty.

    >>> cosine({"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 2.0])})
    0.0
    """
    size = math.sqrt(_inner(a, a)) * math.sqrt(_inner(b, b))
    return max(-1.0, min(1.0, _inner(a, b) / size)) if size else math.nan


def _records(weights: PolicyWeights, norms: Tensor, group: Tensor) -> Records:
    parts = torch.where(weights.weights > 0, weights.weights * weights.norms, 0.0).double()
    clipped = (weights.weights < weights.unclipped * (1 - ROUNDING)).any(0)
    columns = (norms.double(), parts.square().sum(0).sqrt(), clipped.double(), group)
    return Records(*(column.cpu() for column in columns))


def _norm_figures(records: Records) -> dict[str, float]:
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
    return float(torch.stack([(_numbers(a[name]) * _numbers(b[name])).sum() for name in a]).sum())


def _numbers(x: Tensor) -> Tensor:
    """Return x in float64; a complex number is two numbers."""
    return (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).double()
