"""The work of a worker process: rehearse variants and make runs. It imports torch once and then makes many runs."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING

from dplit.cli.yaml import write
from dplit.compare.run import run_folder
from dplit.compare.run.plan import Run
from dplit.errors import DplitError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from dplit.cli.lightning_cli import RecipeCLI


def start(threads: int, log: str) -> None:
    """Prepare the process: set its number of torch threads and send its output to the file `log`."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    sys.argv = sys.argv[:1]
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _point_output_at(Path(log))
    import torch

    torch.set_num_threads(threads)
    from dplit.cli import lightning_cli  # noqa: F401


def _exit_with_parent() -> None:
    """End this process when the process that started it has ended, as after a kill: nobody would use its runs."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def rehearse(configs: Sequence[Mapping[str, object]]) -> str | None:
    """Build each configuration as `dplit fit` would, and start training the last one, up to its first step.

    Returns:
        One line on what is wrong, or None.
    """
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for k, config in enumerate(configs):
                recipe_cli = _recipe_cli(config, Path(scratch) / str(k))
            _run_up_to_first_step(recipe_cli)
        except Exception as error:
            return line_of(error)
    return None


def make(out: str, run: Run) -> str | None:
    """Make one run in its folder and send its output to its `run.log`.

    Returns:
        One line on why it failed, or None; the traceback is in its `error.txt`.
    """
    began = time.perf_counter()
    folder = run_folder.prepare(Path(out), run)
    with _output_into(folder / run_folder.LOG):
        try:
            _recipe_cli(run.config, folder).run()
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            run_folder.fail(Path(out), run, line_of(error), traceback.format_exc())
            return line_of(error)
        finally:
            gc.collect()
    run_folder.finish(folder, run, time.perf_counter() - began)
    return None


def line_of(error: BaseException) -> str:
    r"""Return an error as one line, with its type unless it is a `DplitError`.

    Example:
        >>> line_of(ValueError("two\n lines"))
        'ValueError: two lines'
    """
    message = " ".join(str(error).split())
    return message if isinstance(error, DplitError) else f"{type(error).__name__}: {message}".rstrip(": ")


def _recipe_cli(config: Mapping[str, object], folder: Path) -> RecipeCLI:
    from dplit.cli.lightning_cli import RecipeCLI, one_line

    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / run_folder.RECIPE
    recipe.write_text(write(config), encoding="utf-8")
    with one_line():
        return RecipeCLI(recipe, ["--trainer.default_root_dir", str(folder)])


def _run_up_to_first_step(recipe_cli: RecipeCLI) -> None:
    from lightning.pytorch import Callback

    from dplit.cli.lightning_cli import one_line

    class SetUp(Exception):
        """Everything before the first step went well."""

    class StopBeforeFirstStep(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            raise SetUp

    recipe_cli.trainer.callbacks.insert(0, StopBeforeFirstStep())  # type: ignore[attr-defined]
    try:
        with one_line():
            recipe_cli.trainer.fit(recipe_cli.model, datamodule=recipe_cli.datamodule)
    except SetUp:
        pass


@contextmanager
def _output_into(log: Path) -> Iterator[None]:
    """Send what the process writes into a file, also what does not pass through Python."""
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    _point_output_at(log)
    try:
        yield
    finally:
        _flush()
        for descriptor, before in zip((1, 2), kept, strict=True):
            os.dup2(before, descriptor)
            os.close(before)


def _point_output_at(log: Path) -> None:
    _flush()
    with open(log, "ab", buffering=0) as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
