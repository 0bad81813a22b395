"""What is not admitted is in no collection of Lightning's, so that bar, callbacks and loggers cannot have it."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer

from dplit.training.outlets.results import WatchedResults, watch_results


def test_a_figure_that_is_not_admitted_is_not_there() -> None:
    asked: list[tuple[str, str]] = []
    results = WatchedResults(True, lambda name, hook: asked.append((name, hook)) or name != "loss")
    for name in ("loss", "size"):
        results.log("training_step", name, torch.tensor(1.0), on_step=True, on_epoch=True, prog_bar=True)
    assert asked == [("loss", "training_step"), ("size", "training_step")]
    figures = results.metrics(on_step=True)
    assert {name for place in figures.values() for name in place} == {"size", "size_step"}


def test_every_loop_of_a_trainer_asks() -> None:
    run = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    watch_results(run, lambda name, hook: True)
    loops = (run.fit_loop.epoch_loop, run.fit_loop.epoch_loop.val_loop, run.validate_loop, run.test_loop)
    assert all(isinstance(loop._results, WatchedResults) for loop in loops)
    assert [loop._results.training for loop in loops] == [True, False, False, False]
