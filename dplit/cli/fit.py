"""`python -m dplit.fit RECIPE [overrides]`: one training run, private or not, in a run directory of its own."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from dplit.cli.recipes import find, shipped, summary
from dplit.errors import DplitError

USAGE = """usage: python -m dplit.fit RECIPE [--KEY VALUE ...]

Trains what RECIPE describes and leaves config, metrics, privacy ledger and statement, fairness figures and
checkpoints in a run directory (runs/RECIPE, or runs/RECIPE-2 and so on if that is taken).

RECIPE is a YAML file, or the name of one that ships with dplit:
{recipes}

options:
  --trainer.max_epochs 5       any key of the recipe can be overridden: --trainer.*, --model.*, --data.*
  --trainer.strategy.init_args.noise.epsilon 1.0
  --trainer.default_root_dir D the run directory; it must not hold another run
  --fairness.release flagged   how validation figures leave: public, flagged (exact, listed) or noisy (charged)
  --seed_everything 1          seeds weights and data order, never the privacy noise
  --ckpt_path FILE             go on from a checkpoint; its ledger goes on too
  --print_config               print the whole configuration and stop
  --help                       this text; RECIPE --help lists every key

examples:
  python -m dplit.fit adult_flat
  python -m dplit.fit adult_group_quantile --trainer.max_epochs 5 --trainer.default_root_dir runs/trial
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 after one line on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(USAGE.format(recipes="\n".join(f"  {name:<26} {summary(path)}" for name, path in shipped().items())))
        return 0 if given else 2
    try:
        _run(find(given[0]), given[1:])
    except DplitError as error:
        return _refuse(str(error))
    return 0


def _run(recipe: Path, overrides: list[str]) -> None:
    from dplit.cli.lightning_cli import Command, one_line

    sys.argv = sys.argv[:1]
    with one_line(), warnings.catch_warnings():
        _quiet()
        Command(recipe, overrides).run()


def _quiet() -> None:
    for message in ("Experiment logs directory", "does not have many workers", "logging interval", "LeafSpec"):
        warnings.filterwarnings("ignore", message=f".*{message}.*")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _refuse(message: str) -> int:
    print(f"dplit: {message}", file=sys.stderr)
    return 2
