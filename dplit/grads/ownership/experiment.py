"""Owner maps by experiment, for operations without a rule: what changes when the numbers of one example do?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dplit.grads.coupling.generators import seed_torch
from dplit.grads.ownership.call import Call, tensors_of
from dplit.grads.ownership.owner_map import NONE, Owned, compact, joined_over

TRIALS = 12
"""How often numbers are drawn, for chance may hide a change."""

MOST = 100_000_000
"""Most numbers that an experiment computes: those of the arguments, for each example and trial."""


def owners(call: Call, untouched: Mapping[str, Any], examples: int) -> list[Owned]:
    """Run an operation on random numbers of the same shapes, then with one example's numbers drawn anew, for each example.

    Constants keep their values. Numbers that depend on several examples are drawn anew for each of them.

    Args:
        call: the operation.
        untouched: its arguments before it was carried out.
        examples: n.

    Raises:
        NotImplementedError: rows are in an order that records decide, or the experiment would be too large.
        RuntimeError: the operation does not accept random numbers.
    """
    given = list(tensors_of(list(untouched.values())))
    maps = [call.owned(v) for v in call.tensors()]
    if any(m.sized for m in maps):
        raise NotImplementedError("records decide the order of its rows")
    if sum(v.numel() for v in given) * examples * TRIALS > MOST:
        raise NotImplementedError("it has no rule, and its tensors are too large to try it out")
    involved = sorted({int(o) for m in maps for o in compact(m.owner).unique().tolist() if o != NONE})
    found = [torch.full(r.shape, NONE, dtype=torch.int32) for r in call.results]
    with torch.random.fork_rng(devices=[]):
        for trial in range(TRIALS):
            base = [v if m.is_constant else _drawn(v, trial, trial % 2 == 1) for v, m in zip(given, maps, strict=True)]
            before = _run(call, untouched, base)
            for code in involved:
                changed = _changed(call, untouched, base, given, maps, code, trial, before)
                for owner, differs in zip(found, changed, strict=True):
                    _mark(owner, differs, code, call.mixed)
    return [_by_slices(call, owner) for owner in found]


def _by_slices(call: Call, owner: Tensor) -> Owned:
    """Return a map in which each slice along some dimension is one example's, all of it, for chance may hide some of its changes.

    Where there is no such dimension, any number may depend on all.
    """
    for dim in range(owner.dim()):
        whole = joined_over(owner, [d for d in range(owner.dim()) if d != dim], call.mixed)
        if not bool((compact(whole) < NONE).any()):
            return Owned(whole.expand(owner.shape))
    return Owned(owner) if not owner.dim() else call.all_mixed(owner, "it has no rule, and mixes examples in a trial")


def _changed(
    call: Call,
    untouched: Mapping[str, Any],
    base: list[Tensor],
    given: list[Tensor],
    maps: list[Owned],
    code: int,
    trial: int,
    before: list[Tensor],
) -> list[Tensor]:
    """Return which numbers of the results change when the numbers of one owner do."""
    inputs = []
    for k, (value, drawn, owned) in enumerate(zip(given, base, maps, strict=True)):
        theirs = (owned.owner == code) | (owned.owner < NONE)
        again = _drawn(value, TRIALS + trial + k, trial % 2 == 1)
        inputs.append(torch.where(theirs.to(value.device), again, drawn) if bool(theirs.any()) else drawn)
    return [~_same(a, b) for a, b in zip(before, _run(call, untouched, inputs), strict=True)]


def _mark(owner: Tensor, differs: Tensor, code: int, mixed: int) -> None:
    """Write an owner where numbers change with it; where they change with another, too, write that they are mixed."""
    differs = differs.cpu()
    other = differs & (owner != NONE) & (owner != code)
    owner[differs & (owner == NONE)] = code
    owner[other] = code if code < NONE else mixed


def _run(call: Call, untouched: Mapping[str, Any], inputs: list[Tensor]) -> list[Tensor]:
    """Return what the operation gives for other tensors, with the same random numbers each time."""
    following = iter(inputs)

    def replaced(value: Any) -> Any:
        if isinstance(value, Tensor):
            return next(following).clone()
        return [replaced(v) for v in value] if isinstance(value, list | tuple) else value

    arguments = {name: replaced(value) for name, value in untouched.items()}
    seed_torch(0)
    result = call.operation(**arguments)
    return list(tensors_of(result if not isinstance(result, tuple) else list(result)))


def _drawn(like: Tensor, seed: int, tame: bool) -> Tensor:
    """Return random numbers of a tensor's kind: bits, normal numbers, or whole ones among its own; `tame` ones are positive."""
    generator = torch.Generator().manual_seed(seed)
    if like.dtype == torch.bool:
        return (torch.rand(like.shape, generator=generator) < 0.5).to(like.device)
    if like.is_complex():
        drawn = torch.complex(
            torch.randn(like.shape, generator=generator), torch.randn(like.shape, generator=generator)
        )
        return drawn.to(like.dtype).to(like.device)
    if not like.dtype.is_floating_point:
        own = like.detach().cpu().unique() if like.numel() else torch.zeros(1, dtype=like.dtype)
        own = torch.arange(int(own.min()), int(own.max()) + 1)
        return own[torch.randint(len(own), like.shape, generator=generator)].to(like.dtype).to(like.device)
    drawn = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return (drawn.abs() % 1 if tame else drawn).to(like.dtype).to(like.device)


def _same(a: Tensor, b: Tensor) -> Tensor:
    if a.shape != b.shape:
        return torch.ones_like(a, dtype=torch.bool)
    return (a == b) | ((a != a) & (b != b))
