"""Put the tables of finished comparisons into docs/results.md: python scripts/results.py RECIPE [--out DIR] [--write FILE]."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from dplit.compare.analysis.results import Results
from dplit.compare.config.recipe import load
from dplit.compare.report.report import OVERALL_ONLY
from dplit.compare.report.table import lines, shown
from dplit.compare.run.plan import VariantAtEpsilon, exact
from dplit.compare.run.runner import chosen
from dplit.errors import DplitError


def rows(results: Results) -> Iterator[list[str]]:
    """Yield the head, the rule and a line for each target and variant."""
    costs = [f"cost, {group}" for group in results.groups]
    epsilons = [f"ε, {group}" for group in results.groups]
    head = ["ε", "variant", "grid point", *shown(results).values(), *costs, "cost gap", *epsilons, "seeds"]
    yield head
    yield ["---", "---", "---", *["---:"] * (len(head) - 3)]
    for epsilon in (*results.comparison.epsilons, None):
        for line in lines(results, epsilon):
            contender = VariantAtEpsilon(line.variant, epsilon)
            yield [
                *(line.epsilon, line.variant, ", ".join(line.point), *line.figures),
                *costs_of(results, contender),
                *spent(results, contender),
                str(line.seeds),
            ]


def costs_of(results: Results, contender: VariantAtEpsilon) -> list[str]:
    """Return the privacy cost of each group, then their gap; dashes for the runs without privacy."""
    if contender.epsilon is None:
        return ["–"] * (len(results.groups) + 1)
    intervals = [results.cost(contender, group) for group in results.groups]
    return [interval.text(2, results.quality.scale) for interval in (*intervals, results.cost_gap(contender))]


def spent(results: Results, contender: VariantAtEpsilon) -> list[str]:
    """Return ε of each group, `overall only` where only the overall ε is stated, dashes without privacy."""
    if contender.epsilon is None:
        return ["–"] * len(results.groups)
    by_group = results.spent_by_group(contender)
    return [OVERALL_ONLY if by_group is None else exact(round(by_group[group], 3)) for group in results.groups]


def table(results: Results) -> str:
    """Return the Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows(results))


def replaced(page: str, name: str, new_table: str) -> str:
    """Return a page with another table between the marks of `name`.

    Raises:
        DplitError: the page has no such marks.
    """
    marks = re.compile(rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not marks.search(page):
        raise DplitError(f"the page has no '<!-- table: {name} -->' ... '<!-- end -->'; add the two lines")
    return marks.sub(lambda match: f"{match[1]}{new_table}\n{match[2]}", page)


def main() -> int:
    line = argparse.ArgumentParser(description="The tables of a finished comparison, in Markdown.")
    line.add_argument("recipe", help="a comparison's recipe")
    line.add_argument("--out", type=Path, help="its output folder (runs/RECIPE)")
    line.add_argument("--write", type=Path, help="put the table into this page, between its marks")
    options = line.parse_args()
    try:
        comparison = load(options.recipe)
        out = options.out or Path("runs") / comparison.name
        new_table = table(Results(comparison, out, chosen(comparison, out)))
        if options.write is None:
            print(new_table)
            return 0
        options.write.write_text(
            replaced(options.write.read_text(encoding="utf-8"), comparison.name, new_table), encoding="utf-8"
        )
    except DplitError as error:
        print(f"dplit: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
