"""The law of a rule: what it says that a number depends on, against what changes when one example's numbers do."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dplit.grads.ownership import registry
from dplit.grads.ownership.call import Call, tensors_of
from dplit.grads.ownership.owner_map import NONE, Owned, constant, of_dim
from dplit.grads.ownership.ownership import Ownership
from tests.grads.ownership.rules.draws import CALLS, Draws, Given

TRIALS = 3
"""How often an example's numbers are drawn anew, for each base drawn."""

CLOSE = 1e-9
"""Relative differences up to which numbers are the same, in float64; of numbers in float32, 1e-4."""


class Watching(Ownership):
    """Also notes which operations were followed, and by a rule or not."""

    def __init__(self, examples: int) -> None:
        super().__init__(examples)
        self.followed: dict[str, bool] = {}

    def _note(self, call: Call, rule: Any, *rest: Any) -> None:
        self.followed[call.name.removesuffix("_")] = rule is not None
        super()._note(call, rule, *rest)


@contextmanager
def below_autograd() -> Iterator[None]:
    """Operations reach the mode as they are, not in the parts that autograd sees."""
    with torch._C._AutoDispatchBelowAutograd(), torch._C.DisableTorchFunction(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass
class Result:
    """What a call gave, and what was said of it."""

    values: list[Tensor]
    maps: list[Owned]
    followed: dict[str, bool]


@dataclass
class Fault:
    """A number said to be of one example, or of none, that changes with another."""

    result: int
    example: int
    said: str

    def __str__(self) -> str:
        return f"result {self.result} changes with example {self.example}, and was said to be {self.said}"


def ordinary(draws: Draws) -> list[Owned]:
    """The maps of an ordinary call: the examples' slices along one dimension, or the same for all."""
    return [_ordinary(g, draws.n) for g in draws.given]


def _ordinary(given: Given, n: int) -> Owned:
    if given.owners is not None:
        return of_dim(given.value.shape, 0, given.owners)
    if given.rows is None or not given.value.dim() or given.value.shape[given.rows] != n:
        return constant(given.value.shape)
    return of_dim(given.value.shape, given.rows, torch.arange(n))


def general(draws: Draws) -> list[Owned]:
    """Maps of any sort: slices along any dimension, flattened rows, single numbers, nobody's."""
    return [Owned(_any_map(draws, g.value)) for g in draws.given]


def _any_map(draws: Draws, value: Tensor) -> Tensor:
    n, shape, total = draws.n, list(value.shape), value.numel()
    sort = draws.one_of("nobody", "slices", "slices", "runs", "turns", "numbers", "one")
    if sort == "nobody" or not total:
        return torch.full(shape, NONE, dtype=torch.int32)
    if sort == "one" or not shape:
        return torch.tensor(draws.size(0, n - 1), dtype=torch.int32).expand(shape)
    if sort == "slices":
        d = draws.size(0, len(shape) - 1)
        owners = torch.randint(NONE, n, (shape[d],), generator=draws.generator) if draws.chance(0.3) else None
        return of_dim(shape, d, torch.arange(shape[d]) % n if owners is None else owners).owner
    places = torch.arange(total)
    if sort == "runs":
        return (places * n // total).to(torch.int32).reshape(shape)
    if sort == "turns":
        return (places % n).to(torch.int32).reshape(shape)
    return torch.randint(NONE, n, shape, generator=draws.generator, dtype=torch.int32)


def ran(call: Any, values: Sequence[Tensor], maps: Sequence[Owned], examples: int) -> Result:
    """Carry a call out with every operation followed."""
    copies = [v.clone() for v in values]
    with below_autograd(), Watching(examples) as ownership:
        for value, owned in zip(copies, maps, strict=True):
            ownership.own(value, owned)
        torch.manual_seed(0)
        results = list(tensors_of(_listed(call(*copies))))
        found = [ownership.of(v) for v in results]
    return Result(results, found, ownership.followed)


def plain(call: Any, values: Sequence[Tensor]) -> list[Tensor]:
    with below_autograd():
        torch.manual_seed(0)
        return list(tensors_of(_listed(call(*[v.clone() for v in values]))))


def _listed(result: Any) -> Any:
    return list(result) if isinstance(result, list | tuple) else [result]


def redrawn(draws: Draws, maps: Sequence[Owned], example: int) -> list[Tensor]:
    """The arguments with the numbers of one example drawn anew."""
    values = []
    for given, owned in zip(draws.given, maps, strict=True):
        theirs = owned.owner == example
        values.append(torch.where(theirs, given.again(), given.value) if bool(theirs.any()) else given.value)
    return values


def differ(a: Tensor, b: Tensor) -> Tensor:
    """Where two results differ by more than rounding."""
    if not (a.is_floating_point() or a.is_complex()):
        return a != b
    close = 1e-4 if a.dtype in (torch.float32, torch.complex64) else CLOSE
    scale = torch.maximum(a.abs(), b.abs()).nan_to_num(0, 0, 0)
    whole = float(scale.max()) if scale.numel() else 0.0
    same = (a == b) | ((a != a) & (b != b)) | ((a - b).abs() <= close * max(1.0, whole) * 1e-3 + close * scale)
    return ~same


@dataclass
class Verdict:
    """What came of one call."""

    faults: list[Fault]
    several: bool
    """Whether the rule said somewhere that several examples met."""
    met: bool
    """Whether the trials saw a number change with several examples."""
    followed: dict[str, bool]


def judged(draws: Draws, call: Any, maps: Sequence[Owned]) -> Verdict:
    """Run a call; for each example, draw its numbers anew, and compare with what was said."""
    values = [g.value for g in draws.given]
    base = ran(call, values, maps, draws.n)
    faults, seen = [], [torch.zeros(v.shape, dtype=torch.int64) for v in base.values]
    for example in range(draws.n):
        changed = [torch.zeros(v.shape, dtype=torch.bool) for v in base.values]
        for _ in range(TRIALS):
            other_values = redrawn(draws, maps, example)
            other = plain(call, other_values)
            for k, (a, b, said) in enumerate(zip(base.values, other, base.maps, strict=True)):
                if any(order is not None for order in said.orders):
                    faults += _by_rows(draws, call, other_values, maps, base, k, example)
                elif a.shape != b.shape:
                    faults.append(Fault(k, example, "of the same size for all"))
                else:
                    changed[k] |= differ(a, b)
        for k, (said, where) in enumerate(zip(base.maps, changed, strict=True)):
            wrong = where & (said.owner >= NONE) & (said.owner != example)
            if bool(wrong.any()):
                faults.append(Fault(k, example, f"of {said.owner[wrong].unique().tolist()}"))
            seen[k] += where
    several = any(bool((m.owner < NONE).any()) for m in base.maps)
    return Verdict(faults, several, any(bool((s > 1).any()) for s in seen), base.followed)


def _by_rows(
    draws: Draws, call: Any, values: list[Tensor], maps: Sequence[Owned], base: Result, k: int, example: int
) -> list[Fault]:
    """The law of rows in an order that records decide: those of each other example stay as they are, in their own order."""
    other = ran(call, values, maps, draws.n)
    a, b, said, now = base.values[k], other.values[k], base.maps[k], other.maps[k]
    faults = []
    for j in range(draws.n):
        if j == example or bool((said.owner < NONE).any()) or bool((now.owner < NONE).any()):
            continue
        before, after = a[said.owner == j], b[now.owner == j]
        if before.shape != after.shape or bool(differ(before, after).any()):
            faults.append(Fault(k, example, f"rows of {j}"))
    return faults


def drawn_call(name: str, seed: int) -> tuple[Draws, Any]:
    draws = Draws(seed)
    return draws, CALLS[name](draws, operation(name))


def operation(name: str) -> Any:
    return getattr(torch.ops.dplit if hasattr(torch.ops.dplit, name) else torch.ops.aten, name)


def ruled() -> list[str]:
    """The names of the operations that have a rule."""
    return sorted(registry.RULES)
