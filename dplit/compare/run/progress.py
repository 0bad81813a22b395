"""One progress bar over all runs: how many are done, how long the others will take, which are being made."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from dplit.compare.run.plan import Run


class Progress:
    """A live bar on a terminal; a line for each run elsewhere.

    Args:
        console: where it is shown.
        total: how many runs there are, with those that were done before.
    """

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total, self.completed = console, total, 0
        columns = (
            BarColumn(None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.bar = Bar(*columns, console=console, speed_estimate_period=1800.0)
        self.task = self.bar.add_task("", total=total)
        self.live = Live(Group(self.bar, Text("")), console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.live.stop()

    def say(self, text: str) -> None:
        """Show a line under the bar."""
        self.live.update(Group(self.bar, Text(text, overflow="ellipsis", no_wrap=True)))

    def skip(self, runs: int) -> None:
        """Count runs that were done before; the estimate of the time left does not use them."""
        self.completed += runs
        self.bar.tasks[0].completed = self.completed  # `update` would count them into the speed

    def working_on(self, runs: Sequence[Run]) -> None:
        """Name the runs being made."""
        self.say("now: " + "  ".join(map(str, runs)))

    def done(self, run: Run, problem: str | None) -> None:
        """Count a run; `problem` says why it failed, None that it did not."""
        self.completed += 1
        self.bar.advance(self.task)
        failure = "" if problem is None else f" [red]failed[/red]: {escape(problem)}"
        if problem is not None or not self.console.is_terminal:
            self.console.print(
                f"{self.completed}/{self.total} {escape(str(run))}{failure}", soft_wrap=True, highlight=False
            )
