"""One training run, private or not, in a run directory of its own.

dplit fit adult_flat --trainer.max_epochs 5
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

from dplit.cli.exit_status import OK, REFUSED, command
from dplit.cli.recipes import find, shipped, summary
from dplit.cli.yaml import read

USAGE = """usage: dplit fit RECIPE [--KEY VALUE ...]

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

exit status: 0; 2 after one line on what cannot be run; 141 if the reader of the output has gone

examples:
  dplit fit adult_flat
  dplit fit adult_group_quantile --trainer.max_epochs 5 --trainer.default_root_dir runs/trial
"""


@command
def main(arguments: list[str]) -> int:
    """Train what the recipe `arguments[0]` describes, with the overrides after it; return the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE.format(recipes="\n".join(f"  {name:<26} {summary(path)}" for name, path in shipped().items())))
        return OK if arguments else REFUSED
    recipe, overrides = find(arguments[0]), arguments[1:]
    for path in yaml_files(overrides):
        read(path)
    _train(recipe, overrides)
    return OK


def yaml_files(overrides: list[str]) -> list[Path]:
    """Return the YAML files that overrides name, as in `--config more.yaml` or `--data=data.yaml`.

    jsonargparse reads them, and would let the second of two equal keys win.
    """
    values = [Path(text.partition("=")[2] if text.startswith("--") else text) for text in overrides]
    return [path for path in values if path.suffix in (".yaml", ".yml") and path.is_file()]


def _train(recipe: Path, overrides: list[str]) -> None:
    from dplit.cli.lightning_cli import RecipeCLI, one_line

    sys.argv = sys.argv[:1]
    with one_line(), warnings.catch_warnings():
        _silence_lightning()
        RecipeCLI(recipe, overrides).run()


def _silence_lightning() -> None:
    for message in ("Experiment logs directory", "does not have many workers", "logging interval", "LeafSpec"):
        warnings.filterwarnings("ignore", message=f".*{message}.*")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
