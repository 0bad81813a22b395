"""Progress: away from a terminal, one line for each run; what was done before counts, but not into the speed."""

from __future__ import annotations

import io

from rich.console import Console

from dplit.compare.run import plan
from dplit.compare.run.progress import Progress
from tests.compare.fabricated import comparison

RUNS = plan.search(comparison())


def lines_of(terminal: bool) -> list[str]:
    output = io.StringIO()
    console = Console(file=output, width=200, force_terminal=terminal, color_system=None)
    with Progress(console, total=4) as progress:
        progress.skip(1)
        progress.working_on(RUNS[:2])
        progress.done(RUNS[0], None)
        progress.done(RUNS[1], "ValueError: [red] is no colour here")
    assert progress.completed == 3
    assert progress.bar.tasks[0].completed == 3
    return [line for line in output.getvalue().splitlines() if line.strip()]


def test_each_run_has_a_line_away_from_a_terminal() -> None:
    assert lines_of(terminal=False) == [
        f"2/4 {RUNS[0]}",
        f"3/4 {RUNS[1]} failed: ValueError: [red] is no colour here",
    ]


def test_a_terminal_shows_a_line_of_failures_alone() -> None:
    text = "\n".join(lines_of(terminal=True))
    assert "ValueError: [red] is no colour here" in text
    assert f"2/4 {RUNS[0]}" not in text
