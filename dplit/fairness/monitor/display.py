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
"""What the line below the table adds, where there is such a figure, to what the model is judged by."""


def shown(value: float, digits: int = 3) -> str:
    """Write a figure; NaN, which stands for "not defined", is an en dash."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def rendered(snapshot: Snapshot, note: str) -> Group:
    """Lay out one row per group and a summary line.

    Columns without a single figure, as the loss of noisy counts, are left out. Source of each column: `metrics.TABLE`.
    Identity terms, where there are any, have a table of their own below.
    """
    columns = [metric for metric in snapshot.per_group if _any(snapshot, metric)]
    heading = f"epoch {snapshot.epoch}, step {snapshot.step}, {snapshot.split} ({note})"
    table = Table(title=Text(heading), title_justify="left", box=box.SIMPLE_HEAD)
    for head in ("group", *(ABBREVIATED.get(metric, metric.replace("_", " ")) for metric in columns)):
        table.add_column(head, justify="left" if head == "group" else "right", overflow="fold")
    if snapshot.epsilon_by_group:
        table.add_column("ε", justify="right")
    for group in snapshot.groups:
        table.add_row(Text(group), *_cells(snapshot, group, columns))
    return Group(table, *_terms(snapshot), Text(summary_line(snapshot)))


def _terms(snapshot: Snapshot) -> list[Table]:
    values = {(row.metric, row.group): row.value for row in snapshot.rows if row.metric in PER_TERM}
    names = dict.fromkeys(term for _, term in values)
    table = Table(box=box.SIMPLE_HEAD)
    for head in ("texts that mention", "negatives", "FPR", "minus FPR of all"):
        table.add_column(head, justify="left" if head == "texts that mention" else "right", overflow="fold")
    for term in names:
        negatives, rate, away = (values[metric, term] for metric in PER_TERM)
        table.add_row(Text(term), shown(negatives, 0), shown(rate), shown(away))
    return [table] if names else []


def _any(snapshot: Snapshot, metric: str) -> bool:
    return not all(math.isnan(snapshot.of(metric, group)) for group in snapshot.groups)


def _cells(snapshot: Snapshot, group: str, columns: list[str]) -> list[str]:
    figures = [shown(snapshot.of(metric, group), 0 if metric == "n" else 3) for metric in columns]
    if not snapshot.epsilon_by_group:
        return figures
    return [*figures, shown(snapshot.epsilon_by_group.get(group, math.nan), 2)]


def summary_line(snapshot: Snapshot) -> str:
    """Say what was spent, who fares worst and how far the groups are apart."""
    quality = snapshot.quality
    worst = snapshot.summary(f"worst_group_{quality}")
    there = {row.metric: row.value for row in snapshot.rows}
    figures = [
        f"{quality} {shown(there[f'overall_{quality}'])}",
        f"worst group {worst.group or shown(math.nan)} ({shown(worst.value)})",
        f"{quality} gap {shown(there[f'{quality}_gap'])}",
        *(f"{name} {shown(there[metric])}" for metric, name in SUMMARISED.items() if metric in there),
    ]
    return " · ".join([_budget(snapshot), *figures])


def _budget(snapshot: Snapshot) -> str:
    if snapshot.epsilon is None:
        return "not private"
    return f"ε ≤ {shown(snapshot.epsilon, 2)} at δ = {snapshot.delta:g}"


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
