"""Recipes made into trainers: the only place that knows LightningCLI."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import ArgumentError, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from typing_extensions import override

from dplit.cli.config_errors import explain
from dplit.errors import ConfigurationError, DplitError
from dplit.fairness import FairnessMonitor
from dplit.files import next_free_path
from dplit.protocols import private_strategy

RUN_FILES = ("config.yaml", "ledger.jsonl", "metrics.csv", "privacy.json")
"""A folder that has one of them holds a run already."""


class RecipeCLI(LightningCLI):
    """One recipe with overrides, ready to run in a run directory of its own.

    Args:
        recipe: the YAML file.
        overrides: `--key value` arguments, applied over it.
    """

    def __init__(self, recipe: Path, overrides: list[str]) -> None:
        self.recipe = recipe
        super().__init__(
            args=["--config", str(recipe), *overrides],
            run=False,
            seed_everything_default=0,
            parser_kwargs={
                "exit_on_error": False,
                "allow_abbrev": False,
                "description": f"{recipe.name}: every key, its type and default",
            },
            save_config_kwargs={"overwrite": True},
        )

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="go on from this checkpoint")
        parser.add_argument(
            "--float32_matmul_precision",
            type=Literal["highest", "high", "medium"],
            default="highest",
            help="how the model's own products of float32 numbers may be rounded for speed, by torch's function of that "
            "name; norms and sums of gradients are of full products always",
        )
        parser.add_lightning_class_args(FairnessMonitor, "fairness")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.save_last": True,
                "checkpoint.filename": "epoch{epoch}",
                "checkpoint.auto_insert_metric_name": False,
            }
        )

    @override
    def before_instantiate_classes(self) -> None:
        torch.set_float32_matmul_precision(self.config["float32_matmul_precision"])

    @override
    def instantiate_trainer(self, **kwargs: object) -> Trainer:
        config = self._get(self.config_init, "trainer")
        folder = self._run_folder(config.get("default_root_dir"))
        logger = config.get("logger")
        if logger in (None, True):
            logger = CSVLogger(folder, name="", version="")
        bars = [] if _has_progress_bar(config) else [RichProgressBar()]
        config["callbacks"] = [*(config.get("callbacks") or []), *bars]
        return super().instantiate_trainer(default_root_dir=str(folder), logger=logger, **kwargs)

    def run(self) -> None:
        """Train, then test if the data has a test split, and print where everything is.

        Raises:
            ConfigurationError: training was stopped by hand.
        """
        self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=self.config.get("ckpt_path"))
        if self.trainer.interrupted:
            raise ConfigurationError(f"stopped by hand; what was reached is in {self.trainer.log_dir}")
        if self.datamodule is not None and _has_test_split(self.datamodule):
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        self._print_results()

    def _run_folder(self, given: str | None) -> Path:
        if given is None:
            return next_free_path(Path("runs") / self.recipe.stem)
        folder = Path(given)
        if any((folder / name).exists() for name in RUN_FILES):
            raise ConfigurationError(
                f"{folder} holds another run; choose another trainer.default_root_dir or move it away"
            )
        return folder

    def _print_results(self) -> None:
        folder = Path(self.trainer.log_dir or ".")
        metrics = self.trainer.callback_metrics
        for name in ("accuracy", "perplexity"):
            exact, noisy = f"test/{name}", f"test_{Path(self.config.fairness.filename).stem}/overall_{name}"
            if exact in metrics:
                print(f"test {name} {float(metrics[exact]):.4f}")
            elif noisy in metrics:
                print(f"test {name} {float(metrics[noisy]):.4f} (by noisy counts)")
        strategy = private_strategy(self.trainer)
        spent = None if strategy is None else strategy.spent()
        if spent is not None:
            print(f"epsilon {spent.epsilon:.4f} at delta {spent.delta:g}, stated in {folder / 'privacy.md'}")
        print(f"run directory {folder}")


@contextmanager
def one_line() -> Iterator[None]:
    """Turn the errors of jsonargparse and Lightning about a bad recipe into one line.

    Raises:
        ConfigurationError: with the key, the value and the nearest name where there is one.
    """
    try:
        yield
    except DplitError:
        raise
    except (ArgumentError, argparse.ArgumentError, MisconfigurationException, TypeError, ValueError) as error:
        refused = _refusal(error)
        if refused is None:
            raise
        raise ConfigurationError(refused) from error


def _refusal(error: BaseException) -> str | None:
    """Return the line to say, or None for an error that is not about the recipe."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DplitError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    about_recipe = isinstance(error, ArgumentError | argparse.ArgumentError | MisconfigurationException)
    about_recipe = about_recipe or str(error).startswith(("Parser key", "Does not validate"))
    return explain(str(error)) if about_recipe else None


def _has_progress_bar(trainer: Namespace) -> bool:
    names = [type(callback).__name__ for callback in trainer.get("callbacks") or []]
    return trainer.get("enable_progress_bar") is False or any(name.endswith("ProgressBar") for name in names)


def _has_test_split(datamodule: LightningDataModule) -> bool:
    return type(datamodule).test_dataloader is not LightningDataModule.test_dataloader
