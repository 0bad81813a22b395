"""A fixed sample of train records, and a model to measure it on that leaves no trace in the one that trains."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.compile import to_uncompiled
from lightning.pytorch.utilities.seed import isolate_rng
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn

from dplit.diagnostics.clipping_effect import Tally
from dplit.errors import ConfigurationError
from dplit.fairness.metrics.counts import Counts, count
from dplit.fairness.metrics.metric import Row
from dplit.fairness.monitor.outputs import outcome
from dplit.grads.torch_calls import tensors
from dplit.protocols import WrappedDataset, fetch_samples
from dplit.sampling.units import single_records
from dplit.training.physical_batches import StepArguments
from dplit.training.private_fit import PrivateFit

SEED = 0
"""Public: which records are in the sample does not depend on the data."""


class Sample:
    """Train records drawn uniformly without replacement with a public seed, the same ones all through a fit.

    Args:
        fit: one that has begun; its train data set, collate function, physical batch size, gradients backend, precision,
            groups and policy are used.
        size: how many records, or all if there are not as many.

    Raises:
        ConfigurationError: what is clipped is not a record by itself, but with others of a person or with its copies.
    """

    def __init__(self, fit: PrivateFit, size: int) -> None:
        self.fit = fit
        dataset = fit.train.loader.dataset
        if isinstance(dataset, WrappedDataset):
            raise ConfigurationError(
                "SubgroupDiagnostics measures the gradients of single records, but here all records of a person, or a "
                "record and its copies, are clipped together, so its figures would be of something else; drop the callback"
            )
        self.records = single_records(dataset)
        drawn = np.random.default_rng(SEED).choice(len(self.records), min(size, len(self.records)), replace=False)
        self.indices: list[int] = np.sort(drawn).tolist()

    def gradient_rows(self) -> list[Row]:
        """Return the figures of `Tally.rows`, of losses of `training_step` in eval mode."""
        tally = Tally(self.fit.plan.policy, self.fit.batches.groups, self.fit.plan.rate)
        with self._measuring() as module, self.fit.trained_alone():
            batches, given = self.fit.batches.on(module), StepArguments(_index_if_asked(module.training_step))
            for batch, size, group in self._batches():
                start = 0
                for _, gradients in batches.gradients(batch, size, given):
                    tally.add(gradients, group[start : start + gradients.examples])
                    start += gradients.examples
        return tally.rows()

    def counts(self) -> Counts:
        """Count what `validation_step` says of the sample, under whatever weights the model has now.

        Raises:
            ConfigurationError: it returned something else than `dplit.fairness.monitor.outputs.outcome` reads.
        """
        groups, several = tuple(self.fit.batches.groups), len(self.fit.trainer.num_val_batches) > 1
        total = Counts.none(groups)
        with self._measuring() as module, torch.no_grad(), self.fit.batches.precision.val_step_context():
            given = (*_index_if_asked(module.validation_step), *((0,) if several else ()))
            for batch, _, group in self._batches():
                total += counted(module.validation_step(batch, *given), group, groups)
        return total

    def _batches(self) -> Iterator[tuple[Any, int, Tensor]]:
        """Yield physical batches, the number of their records and their group ids."""
        batches, step = self.fit.batches, self.fit.physical_batch_size
        for start in range(0, len(self.indices), step):
            chosen = self.indices[start : start + step]
            with torch.inference_mode(False):  # a data set may keep the tensors it makes for training
                collated = self.fit.train.collate.collate(fetch_samples(self.records, chosen))
                converted = batches.precision.convert_input(collated)
            batch = batches.move(converted)
            yield batch, len(chosen), batches.group_ids(batch)

    @contextmanager
    def _measuring(self) -> Iterator[LightningModule]:
        """Yield a copy to measure, with numbers of its own from torch, numpy and python."""
        cuda = self.fit.batches.device.type == "cuda"
        with isolate_rng(include_cuda=cuda):
            _seed(cuda)
            yield apart(self.fit.batches.module)


def counted(output: Any, group: Tensor, groups: tuple[str, ...]) -> Counts:
    """Count one batch's output of `validation_step`."""
    seen = outcome(output, "validation_step")
    return count(groups, seen.classes, group, seen.label, seen.pred, seen.loss, seen.tokens)


def apart(module: LightningModule) -> LightningModule:
    """Return a copy in eval mode that shares the parameters, logs nothing and keeps to itself what its steps write.

    Buffers, metric states, lists of outputs and the like are the copy's own. Recurrent layers stay
    in training mode, the only one that cuDNN differentiates; with dropout of their own DPStrategy refuses them.

    Raises:
        ConfigurationError: the module holds something that cannot be copied.
    """
    trainer, compiler = module.trainer, module._compiler_ctx or {}
    shared = [*module.parameters(), *_graphs(module), trainer, getattr(trainer, "datamodule", None)]
    shared.append(compiler.get("dynamo_ctx"))
    try:
        copied: LightningModule = deepcopy(module, {id(one): one for one in shared})
    except Exception as error:
        raise ConfigurationError(
            f"SubgroupDiagnostics measures a copy of {type(module).__name__}, which cannot be made ({_line(error)}); "
            "keep what cannot be copied out of the module, or drop the callback"
        ) from error
    copied.eval()
    for part in copied.modules():
        if isinstance(part, LightningModule):
            _by_itself(part, trainer)
        if isinstance(part, nn.RNNBase):
            part.train()
    return copied


def _by_itself(copied: LightningModule, trainer: Trainer) -> None:
    """Keep a copy from logging, and from running what was compiled, which is still the original's."""
    copied.trainer = trainer
    vars(copied)["log"] = lambda *args, **kwargs: None
    vars(copied).pop("_compiled_call_impl", None)
    if copied._compiler_ctx is not None:
        to_uncompiled(copied)


def _graphs(module: nn.Module) -> Iterator[Tensor]:
    """Yield tensors with a graph behind them, which the module keeps and torch does not copy."""
    for part in module.modules():
        yield from (t for t in tensors(tuple(vars(part).values()), {}) if t.grad_fn is not None)


def _index_if_asked(step: Callable[..., object]) -> tuple[int, ...]:
    """Return the batch index, if the signature of a step asks for one."""
    return (0,) if is_param_in_hook_signature(step, "batch_idx", min_args=2) else ()


def _seed(cuda: bool) -> None:
    torch.default_generator.manual_seed(SEED)
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002
    if cuda:
        torch.cuda.manual_seed(SEED)


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
