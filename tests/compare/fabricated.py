"""Runs that nobody trained: folders with given figures, and a pool that works in this process."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dplit.compare.analysis.results import Results
from dplit.compare.config.recipe import Comparison, parse
from dplit.compare.run import plan, run_folder, runner
from dplit.compare.run.plan import Run
from dplit.fairness.monitor.csv_log import HEADER
from dplit.privacy import Gaussian, Journal, Ledger, Sampled

GROUPS = ("Female", "Male")
RECIPE: dict[str, Any] = {
    "base": "adult_flat",
    "epsilon": [1, 3],
    "seeds": [0, 1, 2],
    "grid": {"model.init_args.learning_rate": [0.1, 0.5]},
    "variants": {
        "Flat": {"trainer.max_epochs": 2},
        "Group": {
            "trainer.strategy.init_args.policy": {
                "class_path": "dplit.clipping.GroupQuantile",
                "init_args": {"quantile": 0.9},
            }
        },
    },
}

Accuracies = Callable[[Run, str, str], float]
"""From run, split and group to accuracy."""


def comparison(**changes: Any) -> Comparison:
    return parse({**RECIPE, **changes}, Path("made.yaml"))


def rate(run: Run) -> float:
    return float(dict(run.point).get("model.init_args.learning_rate", 0.0))


def figures(values: Mapping[str, float]) -> list[tuple[str, str, float]]:
    low, high = min(values.values()), max(values.values())
    worst = min(values, key=lambda group: values[group])
    summary = [
        ("overall_accuracy", "", sum(values.values()) / len(values)),
        ("worst_group_accuracy", worst, low),
        ("accuracy_gap", "", high - low),
        ("demographic_parity_difference", "", 0.5 * (high - low)),
        ("equalized_odds_difference", "", 0.7 * (high - low)),
    ]
    return [*(("n", g, 100.0) for g in values), *(("accuracy", g, v) for g, v in values.items()), *summary]


def language(values: Mapping[str, float]) -> list[tuple[str, str, float]]:
    """Return the figures of a language model whose losses are 4 minus these values."""
    losses = {group: 4.0 - value for group, value in values.items()}
    perplexities = {group: math.exp(loss) for group, loss in losses.items()}
    lines = [("n", group, 100.0) for group in values]
    for name, by_group in (("loss", losses), ("perplexity", perplexities)):
        worst = max(by_group, key=lambda group: by_group[group])
        lines += [(name, group, value) for group, value in by_group.items()]
        lines += [(f"overall_{name}", "", sum(by_group.values()) / len(by_group))]
        lines += [(f"worst_group_{name}", worst, by_group[worst])]
        lines += [(f"{name}_gap", "", by_group[worst] - min(by_group.values()))]
    return lines


def mentioning(values: Mapping[str, float]) -> list[tuple[str, str, float]]:
    """Return the figures of a classifier with two identity terms."""
    terms = [("term_negatives", "gay", 10.0), ("term_fpr", "gay", 0.5), ("term_fpr_difference", "gay", 0.25)]
    terms += [("term_negatives", "old", 20.0), ("term_fpr", "old", 0.125), ("term_fpr_difference", "old", -0.125)]
    return [*figures(values), *terms, ("overall_fpr", "", 0.25), ("false_positive_equality_difference", "", 0.375)]


FiguresOf = Callable[[Mapping[str, float]], list[tuple[str, str, float]]]
"""From values by group to the figures in the file."""


def write(
    place: Path, run: Run, accuracy: Accuracies, groups: tuple[str, ...] = GROUPS, figures_of: FiguresOf | None = None
) -> None:
    with (place / "fairness.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(HEADER)
        for epoch, split, less in ((0, "validation", 0.1), (1, "validation", 0.0), (2, "test", 0.0)):
            for metric, group, value in (figures_of or figures)({g: accuracy(run, split, g) - less for g in groups}):
                lines.writerow((epoch, 10 * epoch + 10, run.epsilon, 1e-5, split, group, metric, value))
    if run.epsilon is not None:
        stated = dict.fromkeys(groups, run.epsilon if run.variant == "Flat" else "not stated separately")
        about = {"epsilon": run.epsilon, "delta": 1e-5, "groups": stated, "dataset_size": 1000}
        (place / "privacy.json").write_text(json.dumps(about))
        ledger = Ledger(Journal.create(place / "ledger.jsonl", "0" * 32))
        ledger.record(Sampled(0.01, [Gaussian(2.0)]), times=100)
        assert ledger.journal is not None
        ledger.journal.close()


def plain(run: Run, split: str, group: str) -> float:
    better = 0.02 if group == "Female" else 0.0
    return 0.7 + 0.05 * rate(run) + better + 0.001 * run.seed + (0.1 if run.epsilon is None else 0.0)


class Bench:
    """Stands for worker.make: counts runs, fabricates their figures, fails where asked to."""

    def __init__(self, accuracy: Accuracies = plain, fails: Callable[[Run], bool] = lambda run: False) -> None:
        self.accuracy, self.fails, self.made = accuracy, fails, list[str]()

    def make(self, out: str, run: Run) -> str | None:
        self.made.append(str(run))
        place = run_folder.prepare(Path(out), run)
        write(place, run, self.accuracy)
        if self.fails(run):
            run_folder.fail(Path(out), run, "RuntimeError: as the test wants", "Traceback ...")
            return "RuntimeError: as the test wants"
        run_folder.finish(place, run, 1.0)
        return None


class Inline:
    """A pool without processes."""

    def schedule(self, function: Callable[..., Any], args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def inline(jobs: int, out: Path) -> Iterator[Inline]:
    yield Inline()


def fabricate(
    out: Path,
    made: Comparison,
    accuracy: Accuracies = plain,
    skip: Iterable[str] = (),
    figures_of: FiguresOf | None = None,
) -> Results:
    runs = plan.search(made)
    runs += plan.remaining_seeds(made, plan.choose(made, rate))
    for run in runs:
        if str(run) not in skip:
            place = run_folder.prepare(out, run)
            write(place, run, accuracy, figures_of=figures_of)
            run_folder.finish(place, run, 1.0)
    return Results(made, out, runner.chosen(made, out))
