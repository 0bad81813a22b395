"""Variants of one recipe at the same privacy, over seeds: which of them costs which group how much.

dplit compare compare_adult --smoke
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dplit.cli.exit_status import REFUSED, OneLineParser, command
from dplit.cli.recipes import shipped, summary
from dplit.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console

    from dplit.compare.config.recipe import Comparison

STOPPED = 130
"""Exit status after Ctrl-C."""

ABOUT = """Train variants of one recipe at the same epsilon over several seeds, and show which of them costs which group how much.

RECIPE is a YAML file, or the name of one that ships with dplit:
{recipes}

It names a base recipe, the epsilons, the seeds, a grid that is searched for every variant, and the variants: dotted keys
laid over the base. Every variant, epsilon, grid point and seed is one run of `dplit fit` in a folder of its own. The grid
point is chosen on the validation split; the figures that are reported are those of the test split, if there is one.
"""

MORE = """what it leaves in the output folder:
  report.html    one self-contained page: tables, figures, the cost of the search
  results.csv    every figure of every run: variant, epsilon, grid values, seed, split, metric, group, value
  VARIANT/eps-E/POINT/seed-S/    a run: its recipe.yaml, run.log, fairness.csv, privacy.md; error.txt if it failed

Stop it with Ctrl-C and start the same command again: finished runs are kept, failed and unfinished ones are made anew.
Exit status: 0; 1 if a run failed; 2 if the recipe cannot be run; 130 if stopped; 141 if the reader of the output has gone.

examples:
  dplit compare compare_adult --smoke
  dplit compare compare_adult --jobs 2
  dplit compare mine.yaml --only Flat GroupQuantile --epsilon 1 --seeds 0 1 2 3 4
  dplit compare mine.yaml --report
"""


def parser() -> OneLineParser:
    """Return the parser of the command line."""
    recipes = "\n".join(f"  {name:<26} {summary(path)}" for name, path in shipped("compare").items())
    line = OneLineParser("dplit compare", ABOUT.format(recipes=recipes), MORE)
    line.add_argument("recipe", metavar="RECIPE", help="a YAML file, or a name from above")
    line.add_argument("--out", type=Path, metavar="DIR", help="the output folder (runs/RECIPE)")
    line.add_argument("--jobs", type=int, metavar="N", help="runs made at the same time (the number of cores)")
    line.add_argument("--only", nargs="+", metavar="VARIANT", help="only these variants, and the runs without privacy")
    line.add_argument("--epsilon", nargs="+", type=float, metavar="E", help="these targets in place of the recipe's")
    line.add_argument("--seeds", nargs="+", type=int, metavar="S", help="these seeds in place of the recipe's")
    line.add_argument(
        "--smoke", action="store_true", help="a trial: one seed, epsilon, grid point and epoch (runs/RECIPE-smoke)"
    )
    line.add_argument("--report", action="store_true", help="train nothing: table and report of the finished runs")
    return line


@command
def main(arguments: list[str]) -> int:
    """Run the command line and return the exit status that `--help` states."""
    if not arguments:
        parser().print_help()
        return REFUSED
    try:
        return _run(parser().parse_args(arguments))
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on with the runs that are not done", file=sys.stderr)
        return STOPPED


def _run(options: argparse.Namespace) -> int:
    from dplit.compare.config.recipe import load, narrowed, only, smoked

    comparison = narrowed(load(options.recipe), options.epsilon, options.seeds)
    comparison = smoked(comparison) if options.smoke else comparison
    selected = only(comparison, options.only) if options.only else comparison
    out = options.out or Path("runs") / comparison.name
    from filelock import FileLock, Timeout
    from rich.console import Console

    from dplit.compare.run import run_folder, runner

    jobs = runner.cores() if options.jobs is None else options.jobs
    if jobs < 1:
        raise ConfigurationError(f"--jobs {jobs}: give a number of runs, at least 1")
    if options.report and not (out / run_folder.MARKER).is_file():
        raise ConfigurationError(f"{out} holds no comparison to report on; run it first, without --report")
    console = Console() if sys.stdout.isatty() else Console(width=132)
    run_folder.claim(out, {"comparison": comparison.name, "base": comparison.base_name})
    try:
        with FileLock(out / ".lock", timeout=0):
            if not options.report:
                runner.carry_out(selected, out, jobs, console)
            return _report(comparison, out, console)
    except Timeout as error:
        raise ConfigurationError(
            f"another dplit compare is at work in {out}; wait for it, or choose another --out"
        ) from error


def _report(comparison: Comparison, out: Path, console: Console) -> int:
    from dplit.compare.analysis.results import Results, write_csv
    from dplit.compare.report import report, table
    from dplit.compare.run import runner

    results = Results(comparison, out, runner.chosen(comparison, out))
    table.show(console, results)
    written = [write_csv(results), report.write(results)]
    print(f"written: {' and '.join(os.fspath(path) for path in written)}")
    return 1 if results.failed else 0
