"""Put the tables of finished comparisons into docs/results.md: python scripts/results.py RECIPE [--out DIR] [--write FILE]."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from dplit.compare.analysis.results import Results
from dplit.compare.config.recipe import load
from dplit.compare.report.table import lines, shown
from dplit.compare.run.plan import exact
from dplit.compare.run.runner import chosen
from dplit.errors import DplitError


def rows(results: Results) -> Iterator[list[str]]:
    """Yield the head, the rule and a line for each target and variant."""
    costs = [f"cost, {group}" for group in results.groups]
    own = [f"ε, {group}" for group in results.groups]
    head = ["ε", "variant", "grid point", *shown(results).values(), *costs, "cost gap", *own, "seeds"]
    yield head
    yield ["---", "---", "---", *["---:"] * (len(head) - 3)]
    for epsilon in (*results.comparison.epsilons, None):
        for line in lines(results, epsilon):
            cell = (line.variant, epsilon)
            scale = results.quality.scale
            taken = [results.cost(cell, group).text(2, scale) for group in results.groups]
            gap = results.cost_gap(cell).text(2, scale)
            point = ", ".join(line.point)
            plain = [line.epsilon, line.variant, point, *line.figures]
            yield [
                *plain,
                *(["–"] * (len(taken) + 1) if epsilon is None else [*taken, gap]),
                *spent(results, cell),
                str(line.seeds),
            ]


def spent(results: Results, cell: tuple[str, float | None]) -> list[str]:
    """Return each group's ε, or what holds in its place."""
    if cell[1] is None:
        return ["–"] * len(results.groups)
    found = results.spent_by_group(cell)
    return ["headline" if found is None else exact(round(found[group], 3)) for group in results.groups]


def table(results: Results) -> str:
    """Return the Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows(results))


def replaced(text: str, name: str, found: str) -> str:
    """Return the page with the table between the marks of `name` replaced."""
    marks = re.compile(rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not marks.search(text):
        raise DplitError(f"the page has no '<!-- table: {name} -->' ... '<!-- end -->'; add the two lines")
    return marks.sub(lambda match: f"{match[1]}{found}\n{match[2]}", text)


def main() -> int:
    line = argparse.ArgumentParser(description="The tables of a finished comparison, in Markdown.")
    line.add_argument("recipe", help="a comparison's recipe")
    line.add_argument("--out", type=Path, help="its output folder (runs/RECIPE)")
    line.add_argument("--write", type=Path, help="put the table into this page, between its marks")
    options = line.parse_args()
    try:
        comparison = load(options.recipe)
        out = options.out or Path("runs") / comparison.name
        found = table(Results(comparison, out, chosen(comparison, out)))
        if options.write is None:
            print(found)
            return 0
        options.write.write_text(
            replaced(options.write.read_text(encoding="utf-8"), comparison.name, found), encoding="utf-8"
        )
    except DplitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
