"""The figures of finished runs: read from their folders, one line each in a table, averaged over seeds."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import TypedDict, cast

from dplit.cli.yaml import Config
from dplit.compare.analysis import quality
from dplit.compare.analysis.intervals import Interval, interval, paired, spread
from dplit.compare.analysis.quality import Quality
from dplit.compare.config.recipe import Comparison
from dplit.compare.config.variant import Point
from dplit.compare.run import run_folder
from dplit.compare.run.plan import Run, VariantAtEpsilon, remaining_seeds, search
from dplit.errors import ConfigurationError
from dplit.files import write_atomically

CHOICE_SPLIT = "validation"
"""The split whose figures choose among grid points; never the one that is reported."""
SMALLER_IS_BETTER = ("_gap", "_difference", "_loss", "_perplexity", "_fpr")

Figures = dict[tuple[str, str], float]
"""Values by metric and group; the group is empty where a figure is about all groups."""


def score(folder: Path, metric: str) -> float:
    """Return a figure of a run on the validation split, with the sign that makes larger better.

    A run without accuracy, as that of a language model, is scored by its loss if accuracy is asked for.

    Raises:
        ConfigurationError: the run has no validation figures.
    """
    figures = last(folder).get(CHOICE_SPLIT, {})
    metric = quality.chooser(metric, {name for name, _ in figures})
    values = [value for (name, _), value in figures.items() if name == metric]
    if not values:
        raise ConfigurationError(
            f"{folder} has no {CHOICE_SPLIT} {metric} to choose by; give the data a validation split or grids of one point"
        )
    return -values[0] if metric.endswith(SMALLER_IS_BETTER) else values[0]


def rows(folder: Path) -> list[dict[str, str]]:
    """Return the lines of `fairness.csv` of a run, in order."""
    with (folder / "fairness.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def last(folder: Path) -> dict[str, Figures]:
    """Return the figures of each split at its last step; of several loaders, the first one stands for the split."""
    by_step: dict[str, dict[int, list[dict[str, str]]]] = {}
    for row in rows(folder):
        split, _, loader = row["split"].partition("/")
        if loader in ("", "0"):
            by_step.setdefault(split, {}).setdefault(int(row["step"]), []).append(row)
    return {split: _figures(steps[max(steps)]) for split, steps in by_step.items()}


def _figures(lines: Sequence[Mapping[str, str]]) -> Figures:
    return {(row["metric"], row["group"]): float(row["value"]) for row in lines}


class Statement(TypedDict):
    """The part of a run's privacy statement (`privacy.json`) that a comparison reads."""

    epsilon: float
    delta: float
    groups: dict[str, float | str]
    """ε of each group, or a text where it is not stated."""
    dataset_size: int


def statement(folder: Path) -> Statement | None:
    """Return the privacy statement of a run; None for a run without privacy."""
    path = folder / "privacy.json"
    return cast(Statement, json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


class Results:
    """What has been measured in the runs of a comparison.

    Args:
        comparison: which runs to look for.
        out: the output folder.
        chosen: the grid point of each contender.
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
        """Failed runs, with the reason of each."""
        return {run: run_folder.reason(self.out, run) for run, state in self.states.items() if state == "failed"}

    @property
    def missing(self) -> list[Run]:
        """Runs that were not made yet, or that were made under another configuration."""
        return [run for run, state in self.states.items() if state in ("missing", "other")]

    def is_chosen(self, run: Run) -> bool:
        """Whether a run is of the grid point that was chosen for its contender."""
        return self.chosen.get(run.contender) == run.point

    def of(self, contender: VariantAtEpsilon) -> list[Run]:
        """Return the finished runs of a contender's chosen point, one for each seed."""
        return [run for run in self.done if run.contender == contender and self.is_chosen(run)]

    @cached_property
    def figures(self) -> dict[Run, dict[str, Figures]]:
        """The last figures of each finished run, by split."""
        return {run: last(self.out / run.path) for run in self.done}

    @cached_property
    def statements(self) -> dict[Run, Statement | None]:
        """The privacy statement of each finished run."""
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
        """The figure that the models are judged by."""
        return quality.of(self.metrics)

    @property
    def chosen_by(self) -> str:
        """The figure that grid points were chosen by."""
        return quality.chooser(self.comparison.choose_by, self.metrics)

    @cached_property
    def terms(self) -> tuple[str, ...]:
        """The identity terms whose false positives were counted, in their order."""
        all_figures = (figures for splits in self.figures.values() for figures in splits.values())
        return tuple(dict.fromkeys(term for figures in all_figures for name, term in figures if name == "term_fpr"))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The declared groups, in their order."""
        all_figures = (figures for splits in self.figures.values() for figures in splits.values())
        return tuple(dict.fromkeys(group for figures in all_figures for name, group in figures if name == "n"))

    @cached_property
    def contenders(self) -> list[VariantAtEpsilon]:
        """Variants and targets with at least one finished run of the chosen point, in the recipe's order."""
        return list(dict.fromkeys(run.contender for run in self.done if self.is_chosen(run)))

    def by_seed(self, contender: VariantAtEpsilon, metric: str, group: str | None = "") -> dict[int, float]:
        """Return one figure of each seed on the reported split; with `group=None`, whichever group it belongs to."""
        return {
            run.seed: value
            for run in self.of(contender)
            for (name, figure_group), value in self.figures[run].get(self.split, {}).items()
            if name == metric and group in (None, figure_group)
        }

    def mean(self, contender: VariantAtEpsilon, metric: str, group: str | None = "") -> Interval:
        """Return the mean of one figure over seeds on the reported split."""
        return interval(self.by_seed(contender, metric, group).values())

    def costs(self, contender: VariantAtEpsilon) -> dict[str, dict[int, float]]:
        """Return the privacy cost of each group and seed: how much worse its figure is than without privacy, same seed."""
        reference, name = self.reference, self.quality.name
        if reference is None:
            return {}
        pairs = {
            group: paired(
                *self.quality.cost_of(self.by_seed(reference, name, group), self.by_seed(contender, name, group))
            )
            for group in self.groups
        }
        return {group: by_seed for group, by_seed in pairs.items() if by_seed}

    def cost(self, contender: VariantAtEpsilon, group: str) -> Interval:
        """Return the mean privacy cost of one group, in the figure that the models are judged by."""
        return interval(self.costs(contender).get(group, {}).values())

    def cost_gap(self, contender: VariantAtEpsilon) -> Interval:
        """Return the mean over seeds of the largest minus the smallest cost of a group."""
        return interval(spread(self.costs(contender)).values())

    @property
    def reference(self) -> VariantAtEpsilon | None:
        """The contender without privacy, if it has finished runs."""
        return next((contender for contender in self.contenders if contender.epsilon is None), None)

    def spent(self, contender: VariantAtEpsilon) -> float:
        """Return the largest ε that the privacy statement of a run states; NaN where there is none."""
        stated = [self.statements[run] for run in self.of(contender)]
        return max((math.nan if run is None else float(run["epsilon"]) for run in stated), default=math.nan)

    def spent_by_group(self, contender: VariantAtEpsilon) -> dict[str, float] | None:
        """Return ε of each group, the largest over seeds; None where the policy states only the overall ε."""
        largest: dict[str, float] = {}
        for run in self.of(contender):
            stated = self.statements[run]
            for group in self.groups:
                epsilon = None if stated is None else stated.get("groups", {}).get(group)
                if not isinstance(epsilon, int | float):
                    return None
                largest[group] = max(epsilon, largest.get(group, epsilon))
        return largest if self.of(contender) else None

    def tidy(self) -> Iterator[Config]:
        """Yield the lines of `results.csv`."""
        for run in self.done:
            about = self._about(run)
            for split, figures in self.figures[run].items():
                for (metric, group), value in figures.items():
                    yield {**about, "split": split, "metric": metric, "group": group, "value": value}

    def _about(self, run: Run) -> Config:
        stated = self.statements[run]
        return {
            "variant": run.variant,
            "epsilon_target": run.epsilon,
            "epsilon_spent": None if stated is None else stated["epsilon"],
            "delta": None if stated is None else stated["delta"],
            **{name: dict(run.point).get(key) for key, name in columns(self.comparison).items()},
            "chosen": self.is_chosen(run),
            "seed": run.seed,
        }


BEFORE_GRID = ("variant", "epsilon_target", "epsilon_spent", "delta")
AFTER_GRID = ("chosen", "seed", "split", "metric", "group", "value")
"""The columns of `results.csv`, without those of the grid."""


def columns(comparison: Comparison) -> dict[str, str]:
    """Return the name of the column of each grid key: its last word, unless another column is called so."""
    ends = [key.rsplit(".", 1)[-1] for key in comparison.grid_keys]
    plain = [ends.count(end) == 1 and end not in BEFORE_GRID + AFTER_GRID for end in ends]
    return {key: end if ok else key for key, end, ok in zip(comparison.grid_keys, ends, plain, strict=True)}


def write_csv(results: Results) -> Path:
    """Write `results.csv`, one line for each figure, and return its path."""
    names = [*BEFORE_GRID, *columns(results.comparison).values(), *AFTER_GRID]
    text = StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(results.tidy())
    write_atomically(results.out / "results.csv", text.getvalue())
    return results.out / "results.csv"
