"""One self-contained HTML page about a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dplit.compare.analysis import search_cost, summary
from dplit.compare.analysis.quality import TERMS
from dplit.compare.analysis.results import Results, columns, statement
from dplit.compare.config.variant import Variant
from dplit.compare.report import by_group as bars
from dplit.compare.report import drawing, learning_curves, pareto, table
from dplit.compare.run import run_folder
from dplit.compare.run.plan import VariantAtEpsilon, exact
from dplit.privacy.statement import rounded_up, versions


def write(results: Results) -> Path:
    """Write `report.html` and return its path."""
    page = Environment(
        loader=PackageLoader("dplit.compare.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html")
    run_folder.put(results.out / "report.html", page.render(**content(results)))
    return results.out / "report.html"


def content(results: Results) -> dict[str, Any]:
    """Return everything the page shows, as texts."""
    comparison = results.comparison
    private = _private(results)
    return {
        "comparison": comparison,
        "epsilons": ", ".join(exact(epsilon) for epsilon in comparison.epsilons),
        "variants": [(one.name, _settings(one), _grid(one)) for one in comparison.all_variants],
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
        "by_term": [_by_term(results, cell) for cell in results.cells] if results.terms else [],
        "tables": _tables(results),
        "short": summary.answers(results) if private else [],
        "short_heads": summary.heads(results),
        "costs": _costs(results) if results.reference else [],
        "budgets": [_budget(results, cell) for cell in private],
        "pictures": list(_pictures(results)) if private else [],
        "search": [_charged(one) for one in search_cost.charges(results, private)],
        "overall": _overall(results),
        "failed": {str(run): reason for run, reason in results.failed.items()},
        "missing": [str(run) for run in results.missing],
        "one_seed": any(len(results.of(cell)) < 2 for cell in results.cells),
    }


def _private(results: Results) -> list[VariantAtEpsilon]:
    """Return the private cells, target by target."""
    return [cell for epsilon in results.comparison.epsilons for cell in results.cells if cell[1] == epsilon]


def _pictures(results: Results) -> Iterator[drawing.Picture]:
    yield pareto.pareto(results)
    yield bars.quality_bars(results)
    if results.reference:
        yield bars.cost_bars(results)
    yield pareto.disparity_by_epsilon(results)
    yield bars.group_budgets(results)
    for epsilon in drawing.epsilons_of(results):
        yield learning_curves.learning_curves(results, epsilon)


def _settings(one: Variant) -> str:
    told = (
        f"{key.removeprefix('trainer.strategy.init_args.')}: {_plain(value)}" for key, value in one.overrides.items()
    )
    return "; ".join(told) or "as the base recipe"


def _plain(value: Any) -> str:
    if isinstance(value, dict) and "class_path" in value:
        arguments = ", ".join(f"{k}={v}" for k, v in value.get("init_args", {}).items())
        return f"{value['class_path'].rsplit('.', 1)[-1]}({arguments})"
    return str(value)


def _grid(one: Variant) -> str:
    keys = dict.fromkeys(key for point in one.points for key, _ in point)
    tried = {key: dict.fromkeys(str(dict(point)[key]) for point in one.points) for key in keys}
    return "; ".join(f"{key.rsplit('.', 1)[-1]} {', '.join(values)}" for key, values in tried.items()) or "one point"


def _sizes(results: Results) -> list[tuple[str, int, str]]:
    """Return each split with its records, and those of each group where they were counted."""
    if not results.done:
        return []
    run = next((run for run in results.done if run.epsilon is not None), results.done[0])
    train = (statement(results.out / run.path) or {}).get("dataset_size")
    found = [("train", int(train), "–")] if train else []
    for split, figures_of in results.figures[run].items():
        sizes = {group: int(value) for (metric, group), value in figures_of.items() if metric == "n" and value == value}
        found.append((split, sum(sizes.values()), ", ".join(f"{group} {n}" for group, n in sizes.items())))
    return found


def _seconds(results: Results) -> str:
    times = [run_folder.finished(results.out / run.path) for run in results.done]
    seconds = sorted(float(each["seconds"]) for each in times if each)
    return f"{seconds[len(seconds) // 2]:.1f}" if seconds else "–"


def _tables(results: Results) -> list[dict[str, Any]]:
    targets = [*results.comparison.epsilons, None]
    found = [(epsilon, list(table.lines(results, epsilon))) for epsilon in targets]
    return [
        {
            "title": "without privacy" if epsilon is None else f"ε = {exact(epsilon)}",
            "lines": [asdict(line) for line in each],
        }
        for epsilon, each in found
        if each
    ]


def _costs(results: Results) -> list[dict[str, Any]]:
    return [
        {
            "epsilon": exact(cell[1] or 0.0),
            "variant": cell[0],
            "groups": [results.cost(cell, group).text(2, results.quality.scale) for group in results.groups],
            "gap": results.cost_gap(cell).text(2, results.quality.scale),
            "pairs": results.cost_gap(cell).n,
        }
        for cell in _private(results)
    ]


def _by_term(results: Results, cell: VariantAtEpsilon) -> dict[str, Any]:
    return {
        "epsilon": "none" if cell[1] is None else exact(cell[1]),
        "variant": cell[0],
        "all": results.mean(cell, "overall_fpr").text(),
        "terms": [results.mean(cell, "term_fpr", term).text() for term in results.terms],
        "sum": results.mean(cell, TERMS).text(),
    }


def _budget(results: Results, cell: VariantAtEpsilon) -> dict[str, Any]:
    by_group = results.spent_by_group(cell)
    stated = [rounded_up(by_group[g], 4) if by_group else "headline" for g in results.groups]
    pareto = [results.mean(cell, results.quality.name, group).text() for group in results.groups]
    return {
        "epsilon": exact(cell[1] or 0.0),
        "variant": cell[0],
        "spent": rounded_up(results.spent(cell), 4),
        "pairs": list(zip(stated, pareto, strict=True)),
    }


def _charged(one: search_cost.Charge) -> dict[str, Any]:
    return {
        "epsilon": exact(one.cell[1] or 0.0),
        "variant": one.cell[0],
        "single": rounded_up(one.single, 4),
        "tried": one.tried,
        "runs": one.runs,
        "composed": _up(one.composed),
    }


def _overall(results: Results) -> dict[str, Any]:
    runs, composed = search_cost.overall(results)
    return {"runs": runs, "composed": _up(composed)}


def _up(epsilon: float) -> str:
    return rounded_up(epsilon, 4) if epsilon == epsilon else "not known"
