"""The result in short: which variant is best in what at each target, and whether these seeds can tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from dplit.compare.analysis.intervals import Interval
from dplit.compare.analysis.quality import TERMS
from dplit.compare.analysis.results import Results
from dplit.compare.run.plan import VariantAtEpsilon, exact

PRIVACY_COSTS = "smallest gap of privacy costs"


class Question(NamedTuple):
    """What is asked of all variants at one target."""

    figure: Callable[[Results, VariantAtEpsilon], Interval]
    """What they are compared by."""
    best: Callable[[Iterable[float]], float]
    """`max` or `min`."""
    scale: float = 1.0
    """By what the figure is multiplied where it is written."""


class Answer(NamedTuple):
    """The answer to a question at one target; a dash where no variant has the figure."""

    who: str = "–"
    """The best variant; several, where they are equal."""
    figure: str = ""
    """Its mean and interval."""
    certainty: str = ""
    """With how many of the others its interval overlaps."""


def questions(results: Results) -> Mapping[str, Question]:
    """Return what is asked about a comparison, by its wording."""
    quality = results.quality
    end, unit, cost_unit = (
        ("highest", " (share)", " (points)") if quality.share else ("lowest", "", f" ({quality.name})")
    )
    disparities = {**quality.disparities, **({TERMS: TERMS.replace("_", " ")} if TERMS in results.metrics else {})}
    asked = {
        f"{end} {quality.name}{unit}": Question(_mean_of(f"overall_{quality.name}"), quality.best),
        f"{end} {quality.name} of the worst group{unit}": Question(
            _mean_of(f"worst_group_{quality.name}"), quality.best
        ),
        **{f"smallest {title}": Question(_mean_of(metric), min) for metric, title in disparities.items()},
    }
    if results.reference:
        asked[f"{PRIVACY_COSTS}{cost_unit}"] = Question(Results.cost_gap, min, quality.scale)
    return asked


def _mean_of(metric: str) -> Callable[[Results, VariantAtEpsilon], Interval]:
    return lambda results, contender: results.mean(contender, metric, None)


def answers(results: Results) -> list[tuple[str, list[Answer]]]:
    """Return each question with an answer for each target."""
    epsilons, quality = results.comparison.epsilons, results.quality
    answered = [
        (wording, [_answer(results, epsilon, question) for epsilon in epsilons])
        for wording, question in questions(results).items()
    ]
    if results.reference:
        wording = f"costliest for any group ({'points' if quality.share else quality.name})"
        answered.append((wording, [_costliest(results, epsilon) for epsilon in epsilons]))
    return answered


def _answer(results: Results, epsilon: float, question: Question) -> Answer:
    figures = {
        contender: figure
        for contender in results.contenders
        if contender.epsilon == epsilon
        and (figure := question.figure(results, contender)).mean == figure.mean  # not NaN
    }
    if not figures:
        return Answer()
    best = question.best(figure.mean for figure in figures.values())
    leaders = [contender for contender, figure in figures.items() if figure.mean == best]
    leading = figures[leaders[0]]
    others = [figure for contender, figure in figures.items() if contender not in leaders]
    return Answer(
        who=", ".join(leader.variant for leader in leaders),
        figure=leading.text(3 if question.scale == 1.0 else 2, question.scale),
        certainty=_certainty(leading, others),
    )


def _certainty(leading: Interval, others: list[Interval]) -> str:
    if leading.half != leading.half:  # NaN
        return "one seed: no interval"
    overlapping = sum(overlap(leading, other) for other in others)
    return f"{overlapping} of {len(others)} others overlap" if others else ""


def overlap(first: Interval, second: Interval) -> bool:
    """Whether two intervals share a point; a figure without an interval counts as overlapping with every other.

    Example:
        >>> overlap(Interval(0.5, 0.1, 3), Interval(0.65, 0.1, 3)), overlap(Interval(0.5, 0.1, 3), Interval(0.9, 0.1, 3))
        (True, False)
    """
    return not abs(first.mean - second.mean) > first.half + second.half


def _costliest(results: Results, epsilon: float) -> Answer:
    costs = {
        (contender.variant, group): cost
        for contender in results.contenders
        if contender.epsilon == epsilon
        for group in results.groups
        if (cost := results.cost(contender, group)).mean == cost.mean  # not NaN
    }
    if not costs:
        return Answer()
    variant, group = max(costs, key=lambda pair: costs[pair].mean)
    return Answer(f"{variant}, for {group}", costs[variant, group].text(2, results.quality.scale))


def heads(results: Results) -> list[str]:
    """Return the heads of the columns, one for each target."""
    return [f"ε = {exact(epsilon)}" for epsilon in results.comparison.epsilons]
