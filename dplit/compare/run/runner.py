"""Runs made by a pool of worker processes, under one progress bar."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol, TypeVar

from pebble import ProcessExpired, ProcessPool
from rich.console import Console

from dplit.cli.yaml import Config
from dplit.compare.analysis.results import score
from dplit.compare.config.recipe import Comparison
from dplit.compare.config.variant import Point, Variant
from dplit.compare.run import run_folder, worker
from dplit.compare.run.plan import Run, VariantAtEpsilon, choose, remaining_seeds, search, total
from dplit.compare.run.progress import Progress
from dplit.errors import ConfigurationError

WORKERS_LOG = "workers.log"
Key = TypeVar("Key")


class Pool(Protocol):
    """What carries out calls in other processes: pebble's `ProcessPool`."""

    def schedule(self, function: Callable[..., str | None], args: tuple[object, ...]) -> Future[str | None]:
        """Start a call as soon as a worker is free; return its future."""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def carry_out(comparison: Comparison, out: Path, jobs: int, console: Console) -> None:
    """Make every run that is not done: the search first, then the chosen points with the remaining seeds.

    A run that fails is marked as failed, and the others are still made.

    Raises:
        ConfigurationError: a variant that could not be trained; raised before any run is made.
    """
    first = _pending(out, search(comparison))
    if not first and not _pending(out, _second_phase(comparison, out)):
        return
    with _pool(jobs, out) as pool, Progress(console, total(comparison)) as progress:
        progress.say("checking the variants")
        _rehearse(pool, comparison, first or _pending(out, _second_phase(comparison, out)))
        _make(pool, out, search(comparison), progress)
        _make(pool, out, _second_phase(comparison, out), progress)


def chosen(comparison: Comparison, out: Path) -> dict[VariantAtEpsilon, Point]:
    """Return the grid point chosen for each contender, by validation figures alone.

    A contender is left out while its search is not finished, and where all runs of its search failed. One that has a single
    point to choose from needs no finished run.
    """
    states = {run: run_folder.state(out, run) for run in search(comparison)}
    unfinished = {run.contender for run, state in states.items() if state in ("missing", "other")}

    def figure(run: Run) -> float:
        if len({other.point for other in states if other.contender == run.contender}) == 1:
            return 0.0
        return score(out / run.path, comparison.choose_by) if states[run] == "done" else float("nan")

    return {contender: point for contender, point in choose(comparison, figure).items() if contender not in unfinished}


def _second_phase(comparison: Comparison, out: Path) -> list[Run]:
    return remaining_seeds(comparison, chosen(comparison, out))


def _pending(out: Path, runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run_folder.state(out, run) != "done"]


@contextmanager
def _pool(jobs: int, out: Path) -> Iterator[ProcessPool]:
    threads = max(cores() // jobs, 1)
    initargs = (threads, str(out / WORKERS_LOG))
    context = get_context("spawn")
    pool = ProcessPool(jobs, initializer=worker.start, initargs=initargs, context=context)
    try:
        yield pool
        pool.close()  # type: ignore[no-untyped-call]
    except BaseException:
        pool.stop()  # type: ignore[no-untyped-call]
        raise
    finally:
        pool.join()


def _rehearse(pool: Pool, comparison: Comparison, pending: Sequence[Run]) -> None:
    names = {run.variant for run in pending}
    calls = {
        variant.name: (configs_to_rehearse(comparison, variant),)
        for variant in comparison.all_variants
        if variant.name in names
    }
    problems = dict(_answers(pool, worker.rehearse, calls, lambda running: None))
    for name in calls:
        if problems[name] is not None:
            raise ConfigurationError(f"variant {name}: {problems[name]}")


def configs_to_rehearse(comparison: Comparison, variant: Variant) -> list[Config]:
    """Return the configurations of a variant at the smallest ε: every grid point, the first point last."""
    hardest = min(comparison.epsilons) if variant.private else None
    points = (*variant.points[1:], variant.points[0])
    return [comparison.config(variant, hardest, point, comparison.seeds[0]) for point in points]


def _make(pool: Pool, out: Path, runs: Sequence[Run], progress: Progress) -> None:
    pending = _pending(out, runs)
    progress.skip(len(runs) - len(pending))
    calls = {run: (str(out), run) for run in pending}
    for run, problem in _answers(pool, worker.make, calls, progress.working_on):
        if problem is not None and not (out / run.path / run_folder.ERROR).is_file():
            run_folder.fail(out, run, problem)
        progress.done(run, problem)


def _answers(
    pool: Pool,
    function: Callable[..., str | None],
    calls: Mapping[Key, tuple[object, ...]],
    watch: Callable[[list[Key]], None],
) -> Iterator[tuple[Key, str | None]]:
    """Yield the answer of each call when it comes; for a worker that died, a line on what killed it."""
    futures: dict[Future[str | None], Key] = {pool.schedule(function, args=args): key for key, args in calls.items()}
    while futures:
        done, _ = wait(futures, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in done:
            error = future.exception()
            yield futures.pop(future), future.result() if error is None else _problem_of(error)
        watch([key for future, key in futures.items() if future.running()])


def _problem_of(error: BaseException) -> str:
    if isinstance(error, ProcessExpired):
        return f"the worker process died (exit code {error.exitcode}); -9 is as a rule a lack of memory, see {run_folder.LOG}"
    return worker.line_of(error)
