"""Per-example gradients by torch.func: exact for whatever torch.vmap can run, at the cost of building each of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from dplit.errors import ConfigurationError, DplitError, UnsupportedOperation
from dplit.grads.batch_layout import BatchLayout, Path, Role, layout_of_one, with_parts
from dplit.grads.factors import base
from dplit.grads.messages import first_line
from dplit.grads.parameters import trainable_parameters
from dplit.grads.per_example import PerExample
from dplit.grads.torch_calls import tensors
from dplit.grads.types import Args, Batch, Kwargs, Losses
from dplit.grads.withheld import Withheld

LossesAndGradients = tuple[Tensor, PerExample]
"""The losses of a run of examples, `(n,)` or their sum, detached; and the examples' gradients."""


def by_vmap(
    module: nn.Module,
    losses: Losses,
    batch: Batch,
    examples: int,
    layout: BatchLayout | None = None,
    only: Collection[str] | None = None,
) -> Iterator[LossesAndGradients]:
    """Yield losses and gradients of a batch; the module sees each example as a batch of one.

    What has a row for each example is taken apart, what is the same for all is shared, and what is neither may not be
    used. What the module writes to its buffers out of place is dropped. What a LightningModule logs is logged afterwards.

    Args:
        module: its trainable parameters get gradients.
        losses: computes the losses of one example, a batch of size 1.
        batch: tensors in mappings, sequences and dataclasses.
        examples: n.
        layout: what belongs to the examples; None where tensors of n rows are to be taken for theirs.
        only: names of the trainable parameters whose gradients are wanted; None for all.

    Yields:
        Runs of consecutive examples, short enough for their gradients to exist at one time.

    Raises:
        ConfigurationError: no tensor of the batch has the examples in its first dimension, or one has another number.
        UnsupportedOperation: the model does what torch.vmap cannot, such as branching on a value, or uses a part of the
            batch that holds several examples otherwise than row by row.
    """
    rows, batch = _taken_apart(batch, examples, layout or layout_of_one(batch, examples))
    wanted = [name for name in trainable_parameters(module) if only is None or name in only]
    size = sum(trainable_parameters(module)[name].numel() for name in wanted)
    step = max(1, base.MAX_INSTANTIATED // max(1, size))
    for start in range(0, examples, step):
        run = {path: leaf[start : start + step] for path, leaf in rows.items()}
        yield _run(module, losses, batch, run, wanted)


def _taken_apart(batch: Batch, examples: int, layout: BatchLayout) -> tuple[dict[Path, Tensor], Batch]:
    """Return the tensors that have a row for each example, and the batch without what may not be used.

    Raises:
        ConfigurationError: there are none, or one has another number of rows.
    """
    rows: dict[Path, Tensor] = {}
    withheld: dict[Path, object] = {}
    for path, part, role in layout.parts(batch):
        if role is Role.ROWS and isinstance(part, Tensor):
            _check_rows(path, part, examples)
            rows[path] = part
        elif role is not Role.SHARED and part is not None:
            withheld[path] = Withheld(path)
    if not rows:
        raise ConfigurationError(
            f"no tensor of the batch has its {examples} examples in the first dimension, so grads='vmap' cannot take it "
            "apart; use grads='loop'"
        )
    return rows, with_parts(batch, withheld)


def singles(batch: Batch, examples: int, layout: BatchLayout | None = None) -> Iterator[Batch] | None:
    """Return each example's part of a batch as a batch of one, in the way of `by_vmap`; None if it cannot be taken apart.

    Args:
        batch: tensors in mappings, sequences and dataclasses.
        examples: n.
        layout: as for `by_vmap`.
    """
    try:
        rows, shared = _taken_apart(batch, examples, layout or layout_of_one(batch, examples))
    except ConfigurationError:
        return None
    return (with_parts(shared, {path: leaf[i : i + 1] for path, leaf in rows.items()}) for i in range(examples))


def _check_rows(path: Path, part: Tensor, examples: int) -> None:
    if part.shape[:1] != (examples,):
        raise ConfigurationError(
            f"{path} of shape {tuple(part.shape)} had one row for each example at the start of the fit, and now is of "
            f"{examples} examples, so grads='vmap' cannot take it apart; use grads='loop'"
        )


def _run(
    module: nn.Module, losses: Losses, batch: Batch, run: Mapping[Path, Tensor], wanted: Sequence[str]
) -> LossesAndGradients:
    """Return losses and gradients of one run of examples, whose rows are `run`; parameters not wanted are constants."""
    trainable = {name: p.detach() for name, p in trainable_parameters(module).items()}
    parameters = {name: trainable[name] for name in wanted}
    with logging_held_back(module) as calls, torch.compiler.set_stance("force_eager"):

        def example_loss(values: Mapping[str, Tensor], *leaves: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
            calls.clear()
            batch_of_one = {path: leaf.unsqueeze(0) for path, leaf in zip(run, leaves, strict=True)}
            value = _with_parameters(
                module, {**trainable, **values}, lambda: losses(with_parts(batch, batch_of_one), 1)
            )
            return value.sum(), [_tensors(call.arguments) for call in calls]

        compute = vmap(
            grad_and_value(example_loss, has_aux=True), in_dims=(None, *[0] * len(run)), randomness="different"
        )
        try:
            grads, (values, logged) = compute(parameters, *run.values())
        except (DplitError, torch.OutOfMemoryError):
            raise
        except RuntimeError as error:
            raise UnsupportedOperation(
                f"torch.vmap cannot run this model: {first_line(error)}; use grads='loop', which computes every example alone"
            ) from error
    _refresh_recurrent(module)
    _check_nothing_kept(module)
    for call, figures in zip(calls, logged, strict=True):
        call.replay(figures, len(values))
    factors = {name: [base.DenseGrad(grad)] for name, grad in grads.items()}
    return values, PerExample(parameters, factors, len(values))


class LogCall(NamedTuple):
    """One call of `LightningModule.log`, made once for all examples of a run."""

    log: Callable[..., None]
    arguments: tuple[Args, Kwargs]

    def again(self, examples: int) -> None:
        """Log what was held back, of a batch of n examples."""
        args, kwargs = self.arguments
        self.log(*args, **{"batch_size": examples, **kwargs})

    def replay(self, figures: Sequence[Tensor], examples: int) -> None:
        """Log the mean over the examples, or each example's figure where another reduction was asked for.

        Args:
            figures: the tensors among the arguments, each `(n, ...)`.
            examples: n.
        """
        means = self.arguments[1].get("reduce_fx", "mean") in ("mean", torch.mean)
        rows = [[f.float().mean(0) for f in figures]] if means else [[f[i] for f in figures] for i in range(examples)]
        for row in rows:
            args, kwargs = _with_tensors(self.arguments, row)
            self.log(*args, **{**kwargs, "batch_size": examples if means else 1})


@contextmanager
def logging_held_back(module: nn.Module) -> Iterator[list[LogCall]]:
    """Collect what LightningModules log: a figure inside vmap is not a number yet, and a trial that fails logs nothing."""
    calls: list[LogCall] = []
    loggers = [m for m in module.modules() if isinstance(m, LightningModule)]
    before = [vars(m).get("log") for m in loggers]
    for m in loggers:
        vars(m)["log"] = lambda *args, _log=m.log, **kwargs: calls.append(LogCall(_log, (args, kwargs)))
    try:
        yield calls
    finally:
        for m, log in zip(loggers, before, strict=True):
            vars(m).pop("log")
            vars(m).update({} if log is None else {"log": log})


class _Computation(nn.Module):
    """A computation as a module, so that `functional_call` can put values in the place of parameters."""

    def __init__(self, module: nn.Module, compute: Callable[[], Tensor]) -> None:
        super().__init__()
        self.module, self.compute = module, compute

    def forward(self) -> Tensor:
        return self.compute()


def _with_parameters(module: nn.Module, values: Mapping[str, Tensor], compute: Callable[[], Tensor]) -> Tensor:
    """Return what `compute` returns while the module has these values in the place of its parameters."""
    state = {f"module.{name}": value for name, value in (*module.named_buffers(), *values.items())}
    result: Tensor = functional_call(_Computation(module, compute), state, ())
    return result


def _refresh_recurrent(module: nn.Module) -> None:
    """Let recurrent layers, which keep a list of their parameters, forget the values that stood in their places."""
    for part in module.modules():
        if isinstance(part, nn.RNNBase):
            part._init_flat_weights()


def _check_nothing_kept(module: nn.Module) -> None:
    for name, part in module.named_modules():
        for attribute, value in vars(part).items():
            if any(torch._C._functorch.is_functorch_wrapped_tensor(t) for t in tensors((value,), {})):
                raise UnsupportedOperation(
                    f"{name}.{attribute} keeps a value of training_step (a metric's state or a cache, perhaps), which "
                    "torch.vmap cannot hand out; use grads='loop', which computes every example alone"
                )


def _tensors(batch: Batch) -> list[Tensor]:
    """Return the tensors of a collection, in the order in which `_with_tensors` replaces them."""
    collected: list[Tensor] = []
    apply_to_collection(batch, Tensor, collected.append, allow_frozen=True)
    return collected


def _with_tensors(batch: Batch, replacements: Sequence[Tensor]) -> Batch:
    """Return the same collection with other tensors."""
    following = iter(replacements)
    return apply_to_collection(batch, Tensor, lambda _: next(following), allow_frozen=True)
