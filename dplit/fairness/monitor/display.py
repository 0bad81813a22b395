"""The table of groups on the terminal, printed so that it does not break a progress bar."""

from __future__ import annotations

import math
import shutil
from io import StringIO

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from dplit.fairness.metrics.terms import PER_TERM
from dplit.fairness.monitor.snapshot import Snapshot

ABBREVIATED = {"selection_rate": "selected", "tpr": "TPR", "fpr": "FPR"}
SUMMARISED = {
    "demographic_parity_difference": "parity diff.",
    "equalized_odds_difference": "odds diff.",
    "false_positive_equality_difference": "FPR of terms, diff.",
}
"""What the line below the table says beside the figures of the quality that the model is judged by."""


def written(value: float, digits: int = 3) -> str:
    """Write a figure; NaN, which stands for "not defined", is an en dash.

    >>> written(0.25), written(math.nan)
    ('0.250', '–')
    """
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def rendered(snapshot: Snapshot, note: str) -> Group:
    """Lay out one row per group and a summary line.

    Columns without a single figure, as the loss of noisy counts, are left out. Identity terms, where there are any, have a
    table of their own below.

    Args:
        snapshot: the figures.
        note: how they were released, for the heading.
    """
    columns = [metric for metric in snapshot.per_group if snapshot.is_defined(metric)]
    title = Text(f"epoch {snapshot.epoch}, step {snapshot.step}, {snapshot.split} ({note})")
    heads = [ABBREVIATED.get(metric, metric.replace("_", " ")) for metric in columns]
    table = _table(["group", *heads], title)
    if snapshot.epsilon_by_group:
        table.add_column("ε", justify="right")
    for group in snapshot.groups:
        table.add_row(Text(group), *_group_cells(snapshot, group, columns))
    return Group(table, *_term_tables(snapshot), Text(summary_line(snapshot)))


def _table(heads: list[str], title: Text | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left", overflow="fold")
    return table


def _group_cells(snapshot: Snapshot, group: str, columns: list[str]) -> list[str]:
    cells = [written(snapshot.value(metric, group), 0 if metric == "n" else 3) for metric in columns]
    epsilon = snapshot.epsilon_by_group
    return [*cells, written(epsilon.get(group, math.nan), 2)] if epsilon else cells


def _term_tables(snapshot: Snapshot) -> list[Table]:
    terms = dict.fromkeys(row.group for row in snapshot.rows if row.metric in PER_TERM)
    table = _table(["texts that mention", "negatives", "FPR", "minus FPR of all"])
    for term in terms:
        negatives, rate, difference = (snapshot.value(metric, term) for metric in PER_TERM)
        table.add_row(Text(term), written(negatives, 0), written(rate), written(difference))
    return [table] if terms else []


def summary_line(snapshot: Snapshot) -> str:
    """Say what was spent, which group fares worst and how far the groups are apart."""
    quality = snapshot.quality
    worst = snapshot.summary(f"worst_group_{quality}")
    figures = [
        f"{quality} {written(snapshot.value(f'overall_{quality}'))}",
        f"worst group {worst.group or written(math.nan)} ({written(worst.value)})",
        f"{quality} gap {written(snapshot.value(f'{quality}_gap'))}",
        *(
            f"{name} {written(snapshot.value(metric))}"
            for metric, name in SUMMARISED.items()
            if metric in snapshot.metrics
        ),
    ]
    return " · ".join([_budget(snapshot), *figures])


def _budget(snapshot: Snapshot) -> str:
    if snapshot.epsilon is None:
        return "not private"
    return f"ε ≤ {written(snapshot.epsilon, 2)} at δ = {snapshot.delta:g}"


def say(trainer: Trainer, message: Group) -> None:
    """Print above a live progress bar, through the bar's own console or printer, or plainly where there is none."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar) and bar.progress is not None:
        bar.progress.console.print(message)
    elif isinstance(bar, TQDMProgressBar) and bar.is_enabled:
        bar.print(_plain(message))
    else:
        print(_plain(message))


def _plain(message: Group) -> str:
    width = max(shutil.get_terminal_size((100, 24)).columns, 80)
    console = Console(file=StringIO(), width=width, color_system=None)
    with console.capture() as captured:
        console.print(message)
    return "\n".join(line.rstrip() for line in captured.get().rstrip().splitlines())
