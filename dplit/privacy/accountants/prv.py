"""Accounting by privacy random variables: the privacy loss itself is composed, in both directions.

Each direction's privacy loss is put on a mesh and composed by prv_accountant's Fourier composer; what the mesh, the
cut tails and wrap-around can do to δ is bounded and added, so that `Bound.upper` is a guarantee. Method: Gopi, Lee and
Wutschitz 2021, arXiv:2106.02848, with three changes: the mesh is scaled to the answer, the mean that it must keep is
computed to full precision, and losses are tilted towards ε, so that float64 suffices at any δ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import metadata
from typing import NamedTuple

import numpy as np
from prv_accountant.composers import Heterogeneous
from prv_accountant.discrete_privacy_random_variable import DiscretePrivacyRandomVariable
from prv_accountant.domain import Domain
from scipy.fft import next_fast_len
from scipy.signal import lfilter

from dplit import validation
from dplit.privacy.accountants.base import Accountant, Bound, Composition, Part, parts
from dplit.privacy.accountants.gaussian import gaussian_epsilon
from dplit.privacy.accountants.privacy_loss import Add, Array, Loss, Remove, log_sum_exp
from dplit.privacy.accountants.rdp import (
    Moments,
    has_moments,
    inclusion_probability,
    moments,
    rough_epsilon,
    upper_epsilon,
)

DIRECTIONS: tuple[type[Loss], ...] = (Remove, Add)
_MESH = 0.002
"""Error of the mesh as a share of ε."""
_LEAST = 1e-3
"""An ε below this is resolved as if it were this."""
_SPARE = 0.002
"""Share of δ set aside for what the mesh does not hold."""
_LARGEST_MESH = 2**21


class _Unresolved(Exception):
    """The mesh cannot hold the loss in floating point."""


class PRV(Accountant):
    """Privacy random variables, as a rule less than 0.5 % above the true value; the default.

    Where the mesh cannot be built (noise multipliers under 0.02, meshes beyond memory) the answer is the wider one of
    `RDP`. Without sampling it is the closed form.

    Source: Gopi, Lee and Wutschitz 2021, arXiv:2106.02848.
    """

    name = "prv"

    @property
    def description(self) -> str:
        """One line for privacy statements."""
        return f"privacy random variables (prv-accountant {_version()}), add and remove, upper bound"

    def epsilon(self, composition: Composition, delta: float) -> Bound:
        """Return `Bound` as every accountant does."""
        return _bound(parts(composition), validation.delta(delta))

    def quick_epsilon(self, composition: Composition, delta: float) -> float:
        """Return the upper bound of `RDP`, in milliseconds."""
        return upper_epsilon(parts(composition), validation.delta(delta))


@cache
def _version() -> str:
    return metadata.version("prv-accountant")


@lru_cache(maxsize=4096)
def _bound(composition: tuple[Part, ...], delta: float) -> Bound:
    if inclusion_probability(composition) <= delta:
        return Bound(0.0, 0.0, 0.0)
    renyi = upper_epsilon(composition, delta)
    if composition[0].rate == 1:
        return gaussian_epsilon(composition[0].noise_multiplier, delta)
    for small in (None, delta):
        try:
            guess = renyi if small else rough_epsilon(composition, delta)
            lower, estimate, upper = _certified(composition, delta, guess if math.isfinite(guess) else renyi, small)
        except _Unresolved:
            continue
        return Bound(lower, min(estimate, renyi), min(upper, renyi))
    return Bound(0.0, renyi, renyi)


def _certified(composition: tuple[Part, ...], delta: float, guess: float, small: float | None = None) -> Bound:
    """Compose both directions, with a mesh first scaled to `guess`, then to the answer where that is much smaller.

    Losses are tilted by the usual orders, or by those for a very small δ.
    """
    if not has_moments(composition):
        raise _Unresolved
    both = [moments(kind, composition, small) for kind in DIRECTIONS]
    for _ in range(3):
        meshes = [_mesh(direction, both, delta, guess) for direction in both]
        bound = _larger([_composed(direction, mesh, delta) for direction, mesh in zip(both, meshes, strict=True)])
        resolved = all(d.resolves(delta, bound.estimate, mesh.tilt) for d, mesh in zip(both, meshes, strict=True))
        finest = max(mesh.error for mesh in meshes) > 1.01 * _MESH * guess
        if resolved and (guess <= 2 * max(bound.estimate, _LEAST) or finest):
            break
        guess = max(bound.estimate, guess / 100, _LEAST)
    if not resolved:
        raise _Unresolved
    return bound


def _larger(bounds: Sequence[Bound]) -> Bound:
    """Return what holds in both directions: the costlier one's bound, whose upper end covers the other's too."""
    costlier = max(bounds, key=lambda bound: bound.estimate)
    return costlier._replace(upper=max(bound.upper for bound in bounds))


class _Mesh(NamedTuple):
    width: float
    """Distance of the nodes."""
    reach: float
    """The sum leaves ±reach with negligible probability."""
    error: float
    """The mesh moves the sum further than this with negligible probability, by Hoeffding's inequality."""
    tilt: float
    """Order of the exponential tilt."""


def _mesh(direction: Moments, both: Sequence[Moments], delta: float, guess: float) -> _Mesh:
    """Choose a mesh for an ε of about `guess`.

    Of k parts, 2k - 1 sums are formed, each of which may leave the mesh or be moved too far, and each part is
    clipped; at `share` of δ for each such event in each tail, they add up to less than `_SPARE` δ. The lower tail of
    one direction lies under the upper tail of the other: P(S ≤ -L) = E' e^(-S') [S' ≥ L] ≤ P'(S' ≥ L).
    """
    share, tilt = _SPARE * delta / (16 * len(direction.losses)), direction.tilt(delta, guess)
    tails = [either.reach(share, 0.0) for either in both]
    reach = max(direction.reach(share, tilt), *tails) + _MESH * guess
    spread = math.sqrt(sum(direction.times) * -math.log(share) / 2)
    width = max(_MESH * guess / spread, 2.5 * reach / _LARGEST_MESH)
    return _Mesh(width, reach + (width * spread - _MESH * guess), width * spread, tilt)


def _composed(direction: Moments, mesh: _Mesh, delta: float) -> Bound:
    discrete = _on_mesh(direction, mesh.reach, mesh.width)
    nodes, mass = _compose(discrete, direction.times, mesh.tilt)
    low, middle, high = (_invert(nodes, mass, delta * factor) for factor in (1 + _SPARE, 1, 1 - _SPARE))
    return Bound(max(low - mesh.error, 0.0), middle, high + mesh.error)


def _on_mesh(direction: Moments, reach: float, width: float) -> list[DiscretePrivacyRandomVariable]:
    """Discretise every loss, with room for what the shifts that keep the means add up to."""
    slack = min(sum(direction.times) * width / 2, reach / 4)
    for _ in range(2):
        discrete = [_discretise(loss, _domain(reach + slack, width)) for loss in direction.losses]
        shifted = sum(n * abs(loss.domain.shifts()) for n, loss in zip(direction.times, discrete, strict=True))
        if shifted <= slack:
            return discrete
        slack = 1.1 * shifted
    raise _Unresolved


def _domain(reach: float, width: float) -> Domain:
    """Return a mesh over ±reach, with zero a node, of an even length that Fourier transforms well."""
    if not reach / width < _LARGEST_MESH:
        raise _Unresolved
    half = next_fast_len(math.ceil(reach / width) + 1)
    return Domain(-(half - 1) * width, half * width, 2 * half)


def _nodes(domain: Domain) -> Array:
    nodes: Array = domain.t_min() + domain.dt() * np.arange(len(domain))
    return nodes


def _discretise(loss: Loss, domain: Domain) -> DiscretePrivacyRandomVariable:
    """Move the loss to the nearest node, tails to the last ones, and shift all nodes so that the mean is kept."""
    nodes = _nodes(domain)
    below, above = loss.tails((nodes[:-1] + nodes[1:]) / 2)
    below, above = np.concatenate([[0.0], below, [1.0]]), np.concatenate([[1.0], above, [0.0]])
    mass = np.where(below[1:] < 0.5, np.diff(below), -np.diff(above))
    shift = loss.clipped_mean(nodes[0], nodes[-1]) - float(nodes @ mass)
    if not abs(shift) <= domain.dt():
        raise _Unresolved
    return DiscretePrivacyRandomVariable(mass, domain.shift_right(shift))


def _compose(
    discrete: Sequence[DiscretePrivacyRandomVariable], times: Sequence[int], order: float
) -> tuple[Array, Array]:
    """Return nodes and masses of the composed loss around and above ε.

    The losses are composed under the tilt e^(order · loss), which is undone at the end, so rounding is relative to
    the mass near ε instead of to 1.
    """
    tilted, log_scale = zip(*(_tilt(loss, order) for loss in discrete), strict=True)
    composed = Heterogeneous(list(tilted)).compute_composition(list(times))
    nodes = _nodes(composed.domain)
    exponent = float(np.dot(times, log_scale)) - order * nodes
    kept = (nodes > -2 * composed.domain.dt()) & (exponent < 300)
    mass = np.maximum(composed.pmf[kept], 0.0) * np.exp(exponent[kept])
    if not (np.isfinite(mass).all() and mass.any()):
        raise _Unresolved
    return nodes[kept], mass


def _tilt(loss: DiscretePrivacyRandomVariable, order: float) -> tuple[DiscretePrivacyRandomVariable, float]:
    """Return the loss under the tilt e^(order · loss), and the logarithm of what its masses were divided by."""
    with np.errstate(divide="ignore"):
        weight = np.log(np.maximum(loss.pmf, 0.0)) + order * _nodes(loss.domain)
    log_scale = log_sum_exp(weight)
    return DiscretePrivacyRandomVariable(np.exp(weight - log_scale), loss.domain), log_scale


def _invert(nodes: Array, mass: Array, delta: float) -> float:
    """Return the ε ≥ 0 at which Σ mass (1 - e^(ε - node))⁺ falls to `delta`; exact between nodes."""
    width = (nodes[-1] - nodes[0]) / (len(nodes) - 1)
    above = np.cumsum(mass[::-1])[::-1]
    damped = lfilter([1.0], [1.0, -math.exp(-width)], mass[::-1])[::-1]
    over = np.flatnonzero(above - damped > delta)
    if not len(over):
        return 0.0
    last = int(over[-1]) + 1
    return max(float(nodes[last] + math.log((above[last] - delta) / damped[last])), 0.0)
