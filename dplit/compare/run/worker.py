"""What a worker process does: rehearse variants, and make runs. It imports torch once and serves many runs."""

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
from typing import Any

import yaml

from dplit.compare.run import run_folder
from dplit.compare.run.plan import Run
from dplit.errors import DplitError


def start(threads: int, log: str) -> None:
    """Prepare the process: as many torch threads as its share of the cores, output into `log`."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    sys.argv = sys.argv[:1]
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _point_output_at(Path(log))
    import torch

    torch.set_num_threads(threads)
    from dplit.cli import lightning_cli  # noqa: F401


def _leave_with_parent() -> None:
    """End this process when the one that started it is gone, killed perhaps: nobody would wait for its runs."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def rehearse(configs: Sequence[Mapping[str, Any]]) -> str | None:
    """Build each configuration as `dplit.fit` would, and take the last one up to its first step.

    Returns:
        One line on what is wrong, or None.
    """
    with tempfile.TemporaryDirectory() as place:
        try:
            for k, config in enumerate(configs):
                lightning_cli = _command(config, Path(place) / str(k))
            _up_to_the_first_step(lightning_cli)
        except Exception as error:
            return line_of(error)
    return None


def make(out: str, run: Run) -> str | None:
    """Make one run in its folder, output into its `run.log`.

    Returns:
        One line on why it failed, or None; the traceback is in its `error.txt`.
    """
    began = time.perf_counter()
    place = run_folder.prepare(Path(out), run)
    with _output_into(place / run_folder.LOG):
        try:
            _command(run.config, place).run()
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            run_folder.fail(Path(out), run, line_of(error), traceback.format_exc())
            return line_of(error)
        finally:
            gc.collect()
    run_folder.finish(place, run, time.perf_counter() - began)
    return None


def line_of(error: BaseException) -> str:
    """Return an error as one line; the project's own are told by their message alone."""
    told = " ".join(str(error).split())
    return told if isinstance(error, DplitError) else f"{type(error).__name__}: {told}".rstrip(": ")


def _command(config: Mapping[str, Any], place: Path) -> Any:
    from dplit.cli.lightning_cli import Command, one_line

    place.mkdir(parents=True, exist_ok=True)
    recipe = place / run_folder.RECIPE
    recipe.write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")
    with one_line():
        return Command(recipe, ["--trainer.default_root_dir", str(place)])


def _up_to_the_first_step(lightning_cli: Any) -> None:
    from lightning.pytorch import Callback

    from dplit.cli.lightning_cli import one_line

    class Enough(Exception):
        pass

    class Curtain(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            raise Enough

    lightning_cli.trainer.callbacks.insert(0, Curtain())
    try:
        with one_line():
            lightning_cli.trainer.fit(lightning_cli.model, datamodule=lightning_cli.datamodule)
    except Enough:
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
