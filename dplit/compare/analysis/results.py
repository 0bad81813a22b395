"""The figures of finished runs: read from their folders, kept tidy, and summed up over seeds."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from dplit.compare.analysis import quality
from dplit.compare.analysis.intervals import Interval, interval, paired, spread
from dplit.compare.analysis.quality import Quality
from dplit.compare.config.recipe import Comparison
from dplit.compare.config.variant import Point
from dplit.compare.run import run_folder
from dplit.compare.run.plan import Run, VariantAtEpsilon, remaining_seeds, search
from dplit.errors import ConfigurationError

CHOICE_SPLIT = "validation"
"""The split whose figures choose among grid points; never the one that is reported."""
SMALLER_IS_BETTER = ("_gap", "_difference", "_loss", "_perplexity", "_fpr")

Figures = dict[tuple[str, str], float]
"""Values by metric and group; the group is empty where a figure is about all of them."""


def score(place: Path, metric: str) -> float:
    """Return a run's figure on the validation split, signed so that larger is better.

    A run without accuracy, as of a language model, is scored by its loss where accuracy was asked for.

    Raises:
        ConfigurationError: the run has no validation figures.
    """
    figures = last(place).get(CHOICE_SPLIT, {})
    metric = quality.chooser(metric, {name for name, _ in figures})
    found = [value for (name, _), value in figures.items() if name == metric]
    if not found:
        raise ConfigurationError(
            f"{place} has no {CHOICE_SPLIT} {metric} to choose by; give the data a validation split or grids of one point"
        )
    return -found[0] if metric.endswith(SMALLER_IS_BETTER) else found[0]


def rows(place: Path) -> list[dict[str, str]]:
    """Return the lines of a run's `fairness.csv`, in order."""
    with (place / "fairness.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def last(place: Path) -> dict[str, Figures]:
    """Return each split's figures at its last epoch; of several loaders, the first counts for the split."""
    found: dict[str, dict[int, list[dict[str, str]]]] = {}
    for row in rows(place):
        split, _, loader = row["split"].partition("/")
        if loader in ("", "0"):
            found.setdefault(split, {}).setdefault(int(row["step"]), []).append(row)
    return {split: _figures(steps[max(steps)]) for split, steps in found.items()}


def _figures(lines: Sequence[Mapping[str, str]]) -> Figures:
    return {(row["metric"], row["group"]): float(row["value"]) for row in lines}


def statement(place: Path) -> dict[str, Any] | None:
    """Return a run's privacy statement; None for a run without privacy."""
    path = place / "privacy.json"
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return found


class Results:
    """What there is of a comparison's runs.

    Args:
        comparison: which runs to look for.
        out: the output folder.
        chosen: the grid point of each variant and target.
    """

    def __init__(self, comparison: Comparison, out: Path, chosen: Mapping[VariantAtEpsilon, Point]) -> None:
        self.comparison, self.out, self.chosen = comparison, out, chosen
        planned = list(dict.fromkeys([*search(comparison), *remaining_seeds(comparison, chosen)]))
        self.states = {run: run_folder.state(out, run) for run in planned}

    @cached_property
    def done(self) -> list[Run]:
        """Finished runs."""
        return [run for run, state in self.states.items() if state == "done"]

    @property
    def failed(self) -> dict[Run, str]:
        """Failed runs, and why."""
        return {run: run_folder.reason(self.out, run) for run, state in self.states.items() if state == "failed"}

    @property
    def missing(self) -> list[Run]:
        """Runs that were not made yet, or under another configuration."""
        return [run for run, state in self.states.items() if state in ("missing", "other")]

    def is_chosen(self, run: Run) -> bool:
        """Whether a run is of the grid point its variant goes on with."""
        return self.chosen.get(run.cell) == run.point

    def of(self, cell: VariantAtEpsilon) -> list[Run]:
        """Finished runs of a cell's chosen point, one a seed."""
        return [run for run in self.done if run.cell == cell and self.is_chosen(run)]

    @cached_property
    def figures(self) -> dict[Run, dict[str, Figures]]:
        """Each finished run's figures at the end, by split."""
        return {run: last(self.out / run.path) for run in self.done}

    @cached_property
    def statements(self) -> dict[Run, dict[str, Any] | None]:
        """Each finished run's privacy statement."""
        return {run: statement(self.out / run.path) for run in self.done}

    @cached_property
    def split(self) -> str:
        """The split that is reported: test where there is one."""
        return "test" if any("test" in splits for splits in self.figures.values()) else CHOICE_SPLIT

    @cached_property
    def metrics(self) -> frozenset[str]:
        """The names of all figures that some finished run has."""
        return frozenset(name for splits in self.figures.values() for figures in splits.values() for name, _ in figures)

    @cached_property
    def quality(self) -> Quality:
        """What the models are judged by."""
        return quality.of(self.metrics)

    @property
    def chosen_by(self) -> str:
        """The figure that grid points were chosen by."""
        return quality.chooser(self.comparison.choose_by, self.metrics)

    @cached_property
    def terms(self) -> tuple[str, ...]:
        """The identity terms whose false positives were counted, in their order."""
        runs = (figures for splits in self.figures.values() for figures in splits.values())
        return tuple(dict.fromkeys(who for figures in runs for name, who in figures if name == "term_fpr"))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The declared groups, in their order."""
        found = (
            group for splits in self.figures.values() for figures in splits.values() for m, group in figures if m == "n"
        )
        return tuple(dict.fromkeys(found))

    @cached_property
    def cells(self) -> list[VariantAtEpsilon]:
        """Variants and targets with at least one finished run of the chosen point, in the recipe's order."""
        return list(dict.fromkeys(run.cell for run in self.done if self.is_chosen(run)))

    def by_seed(self, cell: VariantAtEpsilon, metric: str, group: str | None = "") -> dict[int, float]:
        """Return one figure of each seed on the reported split; `group=None` takes whichever group it names."""
        found: dict[int, float] = {}
        for run in self.of(cell):
            for (name, who), value in self.figures[run].get(self.split, {}).items():
                if name == metric and group in (None, who):
                    found[run.seed] = value
        return found

    def mean(self, cell: VariantAtEpsilon, metric: str, group: str | None = "") -> Interval:
        """Return one figure's mean over seeds on the reported split."""
        return interval(self.by_seed(cell, metric, group).values())

    def costs(self, cell: VariantAtEpsilon) -> dict[str, dict[int, float]]:
        """Return the privacy cost of each group and seed, paired by seed: how much worse it fares than without privacy."""
        reference, name = self.reference, self.quality.name
        if reference is None:
            return {}
        pairs = {
            g: paired(*self.quality.cost_of(self.by_seed(reference, name, g), self.by_seed(cell, name, g)))
            for g in self.groups
        }
        return {group: by_seed for group, by_seed in pairs.items() if by_seed}

    def cost(self, cell: VariantAtEpsilon, group: str) -> Interval:
        """Return the mean privacy cost of one group, in what the models are judged by."""
        return interval(self.costs(cell).get(group, {}).values())

    def cost_gap(self, cell: VariantAtEpsilon) -> Interval:
        """Return the mean of largest minus smallest cost over groups."""
        return interval(spread(self.costs(cell)).values())

    @property
    def reference(self) -> VariantAtEpsilon | None:
        """The cell without privacy, if it has finished runs."""
        return next((cell for cell in self.cells if cell[1] is None), None)

    def spent(self, cell: VariantAtEpsilon) -> float:
        """Return the largest ε that a run of the cell states."""
        return max((self._stated(run, "epsilon") for run in self.of(cell)), default=math.nan)

    def spent_by_group(self, cell: VariantAtEpsilon) -> dict[str, float] | None:
        """Return each group's ε, the largest over seeds; None where the policy states only the headline."""
        stated = [(self.statements[run] or {}).get("groups", {}) for run in self.of(cell)]
        if not stated or not all(isinstance(each.get(g), int | float) for each in stated for g in self.groups):
            return None
        return {group: max(each[group] for each in stated) for group in self.groups}

    def _stated(self, run: Run, key: str) -> float:
        found = self.statements[run]
        return math.nan if found is None else float(found[key])

    def tidy(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of `results.csv`."""
        for run in self.done:
            about = self._about(run)
            for split, figures in self.figures[run].items():
                for (metric, group), value in figures.items():
                    yield {**about, "split": split, "metric": metric, "group": group, "value": value}

    def _about(self, run: Run) -> dict[str, Any]:
        stated = self.statements[run] or {}
        return {
            "variant": run.variant,
            "epsilon_target": run.epsilon,
            "epsilon_spent": stated.get("epsilon"),
            "delta": stated.get("delta"),
            **{name: dict(run.point).get(key) for key, name in columns(self.comparison).items()},
            "chosen": self.is_chosen(run),
            "seed": run.seed,
        }


FIXED = (
    *("variant", "epsilon_target", "epsilon_spent", "delta", "chosen"),
    *("seed", "split", "metric", "group", "value"),
)


def columns(comparison: Comparison) -> dict[str, str]:
    """Return the column of each grid key: its last word, unless that is taken."""
    ends = [key.rsplit(".", 1)[-1] for key in comparison.grid_keys]
    plain = [ends.count(end) == 1 and end not in FIXED for end in ends]
    return {key: end if ok else key for key, end, ok in zip(comparison.grid_keys, ends, plain, strict=True)}


def write_csv(results: Results) -> Path:
    """Write `results.csv`, one line a figure, and return its path."""
    from io import StringIO

    names = [*FIXED[:4], *columns(results.comparison).values(), *FIXED[4:]]
    text = StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(results.tidy())
    run_folder.put(results.out / "results.csv", text.getvalue())
    return results.out / "results.csv"
