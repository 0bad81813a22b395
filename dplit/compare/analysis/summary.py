"""The answer in short: who is best in what at each target, and whether these seeds can tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dplit.compare.analysis.intervals import Interval
from dplit.compare.analysis.quality import TERMS
from dplit.compare.analysis.results import Results
from dplit.compare.run.plan import VariantAtEpsilon, exact

Ask = Callable[[Results, VariantAtEpsilon], Interval]


def _figure(metric: str) -> Ask:
    return lambda results, cell: results.mean(cell, metric, None)


def questions(results: Results) -> Mapping[str, tuple[Ask, Any, float]]:
    """Return what is asked, how it is figured, which end is best, and the scale it is written in."""
    one = results.quality
    end, unit, points = ("highest", " (share)", " (points)") if one.share else ("lowest", "", f" ({one.name})")
    small = {**one.disparities, **({TERMS: TERMS.replace("_", " ")} if TERMS in results.metrics else {})}
    return {
        f"{end} {one.name}{unit}": (_figure(f"overall_{one.name}"), one.best, 1.0),
        f"{end} {one.name} of the worst group{unit}": (_figure(f"worst_group_{one.name}"), one.best, 1.0),
        **{f"smallest {title}": (_figure(metric), min, 1.0) for metric, title in small.items()},
        f"smallest gap of privacy costs{points}": (lambda results, cell: results.cost_gap(cell), min, one.scale),
    }


def answers(results: Results) -> list[tuple[str, list[dict[str, str]]]]:
    """Return each question with an answer for each target: who, the figure, and how many others overlap with it."""
    asked = {
        what: (figure, best, scale)
        for what, (figure, best, scale) in questions(results).items()
        if results.reference or "privacy costs" not in what
    }
    told = [(what, [_answer(results, e, *how) for e in results.comparison.epsilons]) for what, how in asked.items()]
    last = f"costliest for any group ({'points' if results.quality.share else results.quality.name})"
    return [*told, *([(last, _costliest(results))] if results.reference else [])]


def _answer(results: Results, epsilon: float, figure: Ask, best: Any, scale: float) -> dict[str, str]:
    found = {cell: figure(results, cell) for cell in results.cells if cell[1] == epsilon}
    known = {cell: each for cell, each in found.items() if each.mean == each.mean}
    if not known:
        return {"who": "–", "figure": "", "sure": ""}
    top = best(each.mean for each in known.values())
    ties = [cell for cell, each in known.items() if each.mean == top]
    leader = known[ties[0]]
    digits = 3 if scale == 1.0 else 2
    who = ", ".join(name for name, _ in ties)
    others = [each for cell, each in known.items() if cell not in ties]
    return {"who": who, "figure": leader.text(digits, scale), "sure": _sure(leader, others)}


def _sure(leader: Interval, others: list[Interval]) -> str:
    if leader.half != leader.half:
        return "one seed: no interval"
    near = sum(overlap(leader, each) for each in others)
    return f"{near} of {len(others)} others overlap" if others else ""


def overlap(one: Interval, other: Interval) -> bool:
    """Whether two intervals share a point; what has no interval is told apart from nothing."""
    return not abs(one.mean - other.mean) > one.half + other.half


def _costliest(results: Results) -> list[dict[str, str]]:
    found = []
    for epsilon in results.comparison.epsilons:
        costs = {
            (name, group): cost
            for name, at in results.cells
            if at == epsilon
            for group in results.groups
            if (cost := results.cost((name, at), group)).mean == cost.mean
        }
        found.append(_named(costs, results.quality.scale))
    return found


def _named(costs: Mapping[tuple[str, str], Interval], scale: float) -> dict[str, str]:
    if not costs:
        return {"who": "–", "figure": "", "sure": ""}
    name, group = max(costs, key=lambda pair: costs[pair].mean)
    return {"who": f"{name}, for {group}", "figure": costs[name, group].text(2, scale), "sure": ""}


def heads(results: Results) -> list[str]:
    """Return the columns' heads."""
    return [f"ε = {exact(epsilon)}" for epsilon in results.comparison.epsilons]
