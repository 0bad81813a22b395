"""One self-contained HTML page about a comparison."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median_high

from jinja2 import Environment, PackageLoader, StrictUndefined

from dplit.cli.yaml import Config
from dplit.compare.analysis import search_cost, summary
from dplit.compare.analysis.quality import TERMS
from dplit.compare.analysis.results import Results, columns, statement
from dplit.compare.config.variant import Variant
from dplit.compare.report import by_group, drawing, learning_curves, pareto, table
from dplit.compare.run import run_folder
from dplit.compare.run.plan import VariantAtEpsilon, exact
from dplit.files import write_atomically
from dplit.privacy.statement import rounded_up, versions

OVERALL_ONLY = "overall only"
"""Stands in the place of a group's ε where only the ε of all groups together is stated."""


def write(results: Results) -> Path:
    """Write `report.html` and return its path."""
    page = Environment(
        loader=PackageLoader("dplit.compare.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html")
    write_atomically(results.out / "report.html", page.render(**content(results)))
    return results.out / "report.html"


def content(results: Results) -> Config:
    """Return everything that the page shows, as texts, by the names that its template uses."""
    comparison = results.comparison
    private = [contender for epsilon in comparison.epsilons for contender in drawing.contenders_at(results, epsilon)]
    return {
        "comparison": comparison,
        "epsilons": ", ".join(exact(epsilon) for epsilon in comparison.epsilons),
        "variants": [(variant.name, _settings(variant), _grid(variant)) for variant in comparison.all_variants],
        "sizes": _sizes(results),
        "versions": versions(),
        "counts": {"done": len(results.done), "failed": len(results.failed), "missing": len(results.missing)},
        "seconds": _seconds(results),
        "split": results.split,
        "groups": results.groups,
        "heads": [*columns(comparison).values(), *table.shown(results).values()],
        "quality": results.quality,
        "chosen_by": results.chosen_by,
        "terms": results.terms,
        "by_term": [_by_term(results, contender) for contender in results.contenders] if results.terms else [],
        "tables": _tables(results),
        "short": summary.answers(results) if private else [],
        "short_heads": summary.heads(results),
        "costs": [_cost(results, contender) for contender in private] if results.reference else [],
        "overall_only": OVERALL_ONLY,
        "budgets": [_budget(results, contender) for contender in private],
        "pictures": list(_pictures(results)) if private else [],
        "search": [_search_cost(cost) for cost in search_cost.search_costs(results, private)],
        "overall": _overall(results),
        "failed": {str(run): reason for run, reason in results.failed.items()},
        "missing": [str(run) for run in results.missing],
        "one_seed": any(len(results.of(contender)) < 2 for contender in results.contenders),
    }


def _pictures(results: Results) -> Iterator[drawing.Picture]:
    yield pareto.pareto(results)
    yield by_group.quality_bars(results)
    if results.reference:
        yield by_group.cost_bars(results)
    yield pareto.disparity_by_epsilon(results)
    yield by_group.group_budgets(results)
    for epsilon in drawing.epsilons_of(results):
        yield learning_curves.learning_curves(results, epsilon)


def _settings(variant: Variant) -> str:
    settings = (
        f"{key.removeprefix('trainer.strategy.init_args.')}: {_short_form(value)}"
        for key, value in variant.overrides.items()
    )
    return "; ".join(settings) or "as the base recipe"


def _short_form(value: object) -> str:
    """Return a class with arguments as `Class(argument=value)`, without its module; any other value as it is."""
    if isinstance(value, Mapping) and "class_path" in value:
        arguments = ", ".join(f"{name}={argument}" for name, argument in value.get("init_args", {}).items())
        return f"{value['class_path'].rsplit('.', 1)[-1]}({arguments})"
    return str(value)


def _grid(variant: Variant) -> str:
    values: dict[str, dict[str, None]] = {}
    for point in variant.points:
        for key, value in point:
            values.setdefault(key.rsplit(".", 1)[-1], {})[str(value)] = None
    return "; ".join(f"{name} {', '.join(tried)}" for name, tried in values.items()) or "one point"


def _sizes(results: Results) -> list[tuple[str, int, str]]:
    """Return each split with its records, and those of each group where they were counted."""
    if not results.done:
        return []
    run = next((run for run in results.done if run.epsilon is not None), results.done[0])
    stated = statement(results.out / run.path)
    train = None if stated is None else stated.get("dataset_size")
    sizes = [("train", int(train), "–")] if train else []
    for split, figures in results.figures[run].items():
        counts = {
            group: int(value) for (metric, group), value in figures.items() if metric == "n" and not math.isnan(value)
        }
        sizes.append((split, sum(counts.values()), ", ".join(f"{group} {n}" for group, n in counts.items())))
    return sizes


def _seconds(results: Results) -> str:
    """Return the median duration of a run."""
    marks = [run_folder.finished(results.out / run.path) for run in results.done]
    seconds = [mark["seconds"] for mark in marks if mark]
    known = [duration for duration in seconds if isinstance(duration, int | float)]
    return f"{median_high(known):.1f}" if known else "–"


def _tables(results: Results) -> list[Config]:
    """Return a table for each target that has finished runs, then one of the runs without privacy."""
    tables: list[Config] = []
    for epsilon in (*results.comparison.epsilons, None):
        title = "without privacy" if epsilon is None else f"ε = {exact(epsilon)}"
        if lines := [asdict(line) for line in table.lines(results, epsilon)]:
            tables.append({"title": title, "lines": lines})
    return tables


def _contender(contender: VariantAtEpsilon) -> Config:
    """Return what the first columns of every table show."""
    epsilon = "none" if contender.epsilon is None else exact(contender.epsilon)
    return {"epsilon": epsilon, "variant": contender.variant}


def _cost(results: Results, contender: VariantAtEpsilon) -> Config:
    gap, scale = results.cost_gap(contender), results.quality.scale
    return {
        **_contender(contender),
        "groups": [results.cost(contender, group).text(2, scale) for group in results.groups],
        "gap": gap.text(2, scale),
        "pairs": gap.n,
    }


def _by_term(results: Results, contender: VariantAtEpsilon) -> Config:
    return {
        **_contender(contender),
        "all": results.mean(contender, "overall_fpr").text(),
        "terms": [results.mean(contender, "term_fpr", term).text() for term in results.terms],
        "sum": results.mean(contender, TERMS).text(),
    }


def _budget(results: Results, contender: VariantAtEpsilon) -> Config:
    spent = results.spent_by_group(contender)
    stated = [rounded_up(spent[group], 4) if spent else OVERALL_ONLY for group in results.groups]
    quality = [results.mean(contender, results.quality.name, group).text() for group in results.groups]
    return {
        **_contender(contender),
        "spent": rounded_up(results.spent(contender), 4),
        "pairs": list(zip(stated, quality, strict=True)),
    }


def _search_cost(cost: search_cost.SearchCost) -> Config:
    return {
        **_contender(cost.contender),
        "single": rounded_up(cost.single, 4),
        "tried": cost.tried,
        "runs": cost.runs,
        "composed": _rounded_up_if_known(cost.composed),
    }


def _overall(results: Results) -> Config:
    runs, composed = search_cost.overall(results)
    return {"runs": runs, "composed": _rounded_up_if_known(composed)}


def _rounded_up_if_known(epsilon: float) -> str:
    return "not known" if math.isnan(epsilon) else rounded_up(epsilon, 4)
