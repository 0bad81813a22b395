"""The table of a comparison: one line for each variant and target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dplit.compare.analysis.quality import TERMS
from dplit.compare.analysis.results import Results, columns
from dplit.compare.run.plan import VariantAtEpsilon, exact


@dataclass(frozen=True)
class Line:
    """One line of the table, as texts.

    Attributes:
        epsilon: the target, or "none".
        variant: its name.
        point: the chosen value of each grid key.
        figures: means with intervals, in the order of `shown`.
        seeds: how many runs the means are taken over.
    """

    epsilon: str
    variant: str
    point: tuple[str, ...]
    figures: tuple[str, ...]
    seeds: int


def shown(results: Results) -> dict[str, str]:
    """Return the figures that the table shows, with their column heads."""
    return results.quality.columns | ({TERMS: "term FPR diff."} if TERMS in results.metrics else {})


def lines(results: Results, epsilon: float | None) -> Iterator[Line]:
    """Yield the lines of one target; for None, the line of the runs without privacy."""
    for contender in results.contenders:
        if contender.epsilon == epsilon:
            yield _line(results, contender)


def _line(results: Results, contender: VariantAtEpsilon) -> Line:
    point = dict(results.chosen[contender])
    return Line(
        "none" if contender.epsilon is None else exact(contender.epsilon),
        contender.variant,
        tuple(str(point.get(key, "–")) for key in columns(results.comparison)),
        tuple(results.mean(contender, metric, None).text() for metric in shown(results)),
        len(results.of(contender)),
    )


def show(console: Console, results: Results) -> None:
    """Print the table, what failed and what is missing."""
    if results.contenders:
        console.print(_table(results))
        console.print(_note(results), highlight=False)
    for run, reason in results.failed.items():
        console.print(f"[red]failed[/red] {escape(str(run))}: {escape(reason)}", soft_wrap=True, highlight=False)
    if results.missing:
        console.print(f"{len(results.missing)} runs are still to be made")


def _table(results: Results) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=f"{results.split} figures, mean ± 95 % interval", title_justify="left")
    table.add_column("ε")
    table.add_column("variant", min_width=8)
    for head in columns(results.comparison).values():
        table.add_column(head.replace("_", " "), justify="right")
    for head in shown(results).values():
        table.add_column(head, justify="right", min_width=13)
    table.add_column("seeds", justify="right")
    for epsilon in (*results.comparison.epsilons, None):
        for line in lines(results, epsilon):
            table.add_row(line.epsilon, escape(line.variant), *line.point, *line.figures, str(line.seeds))
        table.add_section()
    return table


def _note(results: Results) -> str:
    note = f"δ = {results.comparison.delta:g}; grid points were chosen by {results.chosen_by} on the validation split"
    one_seed = min(len(results.of(contender)) for contender in results.contenders) < 2
    return f"{note}; one seed gives no interval" if one_seed else note
