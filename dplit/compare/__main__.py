"""`python -m dplit.compare RECIPE`: variants held against one another at the same privacy."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dplit.cli.recipes import shipped, summary
from dplit.errors import ConfigurationError, DplitError

if TYPE_CHECKING:
    from rich.console import Console

    from dplit.compare.config.recipe import Comparison

ABOUT = """Train variants of one recipe at the same epsilon over several seeds, and show which of them costs which group how much.

RECIPE is a YAML file, or the name of one that ships with dplit:
{recipes}

It names a base recipe, the epsilons, the seeds, a grid that is searched for every variant, and the variants: dotted keys
laid over the base. Every variant, epsilon, grid point and seed is one run of dplit.fit in a folder of its own. The grid point
is chosen on the validation split; what is reported is of the test split, if there is one.
"""

MORE = """what it leaves in the output folder:
  report.html    one self-contained page: tables, figures, the cost of the search
  results.csv    every figure of every run: variant, epsilon, grid values, seed, split, metric, group, value
  VARIANT/eps-E/POINT/seed-S/    a run: its recipe.yaml, run.log, fairness.csv, privacy.md; error.txt if it failed

Stop it with Ctrl-C and start the same command again: runs that are done are not made again, failed and half ones are.
Exit status: 0; 1 if a run failed; 2 if the recipe cannot be run; 130 if stopped.

examples:
  python -m dplit.compare compare_adult --smoke
  python -m dplit.compare compare_adult --jobs 2
  python -m dplit.compare mine.yaml --only Flat GroupQuantile --epsilon 1 --seeds 0 1 2 3 4
  python -m dplit.compare mine.yaml --report
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}; see --help")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    recipes = "\n".join(f"  {name:<26} {summary(path)}" for name, path in shipped("compare").items())
    line = _Parser(
        prog="python -m dplit.compare",
        description=ABOUT.format(recipes=recipes),
        epilog=MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    line.add_argument("recipe", metavar="RECIPE", help="a YAML file, or a name from above")
    line.add_argument("--out", type=Path, metavar="DIR", help="the output folder (runs/RECIPE)")
    line.add_argument("--jobs", type=int, metavar="N", help="runs made at the same time (the number of cores)")
    line.add_argument("--only", nargs="+", metavar="VARIANT", help="only these variants, and the runs without privacy")
    line.add_argument("--epsilon", nargs="+", type=float, metavar="E", help="these targets in place of the recipe's")
    line.add_argument("--seeds", nargs="+", type=int, metavar="S", help="these seeds in place of the recipe's")
    line.add_argument(
        "--smoke", action="store_true", help="a trial: one seed, epsilon, grid point and epoch (runs/RECIPE-smoke)"
    )
    line.add_argument("--report", action="store_true", help="train nothing: table and report of what is there")
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status that `--help` states."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        parser().print_help()
        return 2
    try:
        return _run(parser().parse_args(given))
    except DplitError as error:
        print(f"dplit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on with the runs that are not done", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    comparison = _comparison(options)
    selected = comparison if not options.only else _only(comparison, options.only)
    out = options.out or Path("runs") / comparison.name
    jobs = _jobs(options.jobs)
    from filelock import FileLock, Timeout
    from rich.console import Console

    from dplit.compare.run import run_folder, runner

    console = Console() if sys.stdout.isatty() else Console(width=132)
    if options.report:
        _must_hold(out)
    run_folder.claim(out, {"comparison": comparison.name, "base": comparison.base_name})
    try:
        with FileLock(out / ".lock", timeout=0):
            if not options.report:
                runner.carry_out(selected, out, jobs, console)
            return _tell(comparison, out, console)
    except Timeout as error:
        raise ConfigurationError(
            f"another dplit.compare is at work in {out}; wait for it, or choose another --out"
        ) from error


def _comparison(options: argparse.Namespace) -> Comparison:
    from dplit.compare.config.recipe import load, narrowed, smoked

    comparison = narrowed(load(options.recipe), options.epsilon, options.seeds)
    return smoked(comparison) if options.smoke else comparison


def _only(comparison: Comparison, names: Sequence[str]) -> Comparison:
    from dplit.compare.config.recipe import only

    return only(comparison, names)


def _jobs(given: int | None) -> int:
    from dplit.compare.run.runner import cores

    if given is not None and given < 1:
        raise ConfigurationError(f"--jobs {given}: give a number of runs, at least 1")
    return given or cores()


def _must_hold(out: Path) -> None:
    from dplit.compare.run.run_folder import MARKER

    if not (out / MARKER).is_file():
        raise ConfigurationError(f"{out} holds no comparison to report on; run it first, without --report")


def _tell(comparison: Comparison, out: Path, console: Console) -> int:
    from dplit.compare.analysis.results import Results, write_csv
    from dplit.compare.report import report, table
    from dplit.compare.run import runner

    results = Results(comparison, out, runner.chosen(comparison, out))
    table.show(console, results)
    written = [write_csv(results), report.write(results)]
    print(f"written: {' and '.join(os.fspath(path) for path in written)}")
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
