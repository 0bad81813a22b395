"""Per-example gradients by torch.func: exact for whatever torch.vmap can run, at the cost of building each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from dplit.errors import ConfigurationError, UnsupportedOperation
from dplit.grads.factors import base
from dplit.grads.per_example import PerExample
from dplit.grads.tape.tape import tensors

Losses = Callable[[Any, int], Tensor]
"""From a batch of n examples and n to `(n,)` losses, or their sum."""


Part = tuple[Tensor, PerExample]
"""The losses of a run of examples, `(n,)` or their sum, detached, and their gradients."""


def by_vmap(module: nn.Module, losses: Losses, batch: Any, examples: int) -> Iterator[Part]:
    """Yield losses and gradients of a batch, each example seen by the module as a batch of one.

    Tensors of the batch whose first dimension is n are taken apart; everything else is shared by the examples. What
    the module writes to its buffers out of place is dropped, and what a LightningModule logs is logged afterwards.

    Args:
        module: its trainable parameters are tracked.
        losses: computes the losses of one example, a batch of size 1.
        batch: tensors in mappings, sequences and dataclasses.
        examples: n.

    Yields:
        Runs of consecutive examples whose gradients may exist at one time.

    Raises:
        ConfigurationError: no tensor of the batch has the examples in its first dimension.
        UnsupportedOperation: the model does what torch.vmap cannot, such as branching on a value.
    """
    leaves = _tensors(batch)
    if not any(_by_example(leaf, examples) for leaf in leaves):
        raise ConfigurationError(
            f"no tensor of the batch has its {examples} examples in the first dimension, so grads='vmap' cannot take it "
            "apart; use grads='loop'"
        )
    size = sum(p.numel() for p in _trainable(module).values())
    step = max(1, base.INSTANTIATED // max(1, size))
    for start in range(0, examples, step):
        run = [leaf[start : start + step] if _by_example(leaf, examples) else leaf for leaf in leaves]
        dims = tuple(0 if _by_example(leaf, examples) else None for leaf in leaves)
        yield _together(module, losses, batch, run, dims)


def _together(module: nn.Module, losses: Losses, batch: Any, run: Sequence[Tensor], dims: tuple[Any, ...]) -> Part:
    parameters = _trainable(module)
    with _held_back(module) as calls, torch.compiler.set_stance("force_eager"):

        def one(values: Mapping[str, Tensor], *leaves: Tensor) -> tuple[Tensor, Any]:
            calls.clear()
            alone = [leaf if dim is None else leaf.unsqueeze(0) for leaf, dim in zip(leaves, dims, strict=True)]
            value = _with_parameters(module, values, lambda: losses(_replaced(batch, alone), 1))
            return value.sum(), [_tensors(call.given) for call in calls]

        compute = vmap(grad_and_value(one, has_aux=True), in_dims=(None, *dims), randomness="different")
        try:
            grads, (values, logged) = compute({name: p.detach() for name, p in parameters.items()}, *run)
        except RuntimeError as error:
            raise UnsupportedOperation(
                f"torch.vmap cannot run this model: {_line(error)}; use grads='loop', which computes every example alone"
            ) from error
    _check_nothing_kept(module)
    for call, figures in zip(calls, logged, strict=True):
        call.replay(figures, len(values))
    uses = {name: [base.DenseGrad(grad)] for name, grad in grads.items()}
    return values, PerExample(parameters, uses, len(values))


class _Call(NamedTuple):
    """One call of `LightningModule.log`, made for one example of many."""

    log: Callable[..., None]
    given: tuple[tuple[Any, ...], dict[str, Any]]

    def replay(self, figures: Sequence[Tensor], examples: int) -> None:
        """Log the mean over the examples, or each example's figure where another reduction was asked for."""
        means = self.given[1].get("reduce_fx", "mean") in ("mean", torch.mean)
        rows = [[f.float().mean(0) for f in figures]] if means else [[f[i] for f in figures] for i in range(examples)]
        for row in rows:
            args, kwargs = _replaced(self.given, row)
            self.log(*args, **{**kwargs, "batch_size": examples if means else 1})


@contextmanager
def _held_back(module: nn.Module) -> Iterator[list[_Call]]:
    """Hold back what LightningModules log: inside vmap a figure is not one number yet."""
    calls: list[_Call] = []
    loggers = [m for m in module.modules() if isinstance(m, LightningModule)]
    kept = [vars(m).get("log") for m in loggers]
    for m in loggers:
        vars(m)["log"] = lambda *args, _log=m.log, **kwargs: calls.append(_Call(_log, (args, kwargs)))
    try:
        yield calls
    finally:
        for m, before in zip(loggers, kept, strict=True):
            vars(m).pop("log")
            vars(m).update({} if before is None else {"log": before})


class _Computation(nn.Module):
    """A computation as a module, so that `functional_call` can put values in the place of parameters."""

    def __init__(self, module: nn.Module, compute: Callable[[], Tensor]) -> None:
        super().__init__()
        self.module, self.compute = module, compute

    def forward(self) -> Tensor:
        return self.compute()


def _with_parameters(module: nn.Module, values: Mapping[str, Tensor], compute: Callable[[], Tensor]) -> Tensor:
    state = {f"module.{name}": value for name, value in (*module.named_buffers(), *values.items())}
    result: Tensor = functional_call(_Computation(module, compute), state, ())
    return result


def _check_nothing_kept(module: nn.Module) -> None:
    for name, part in module.named_modules():
        for attribute, value in vars(part).items():
            if any(torch._C._functorch.is_functorch_wrapped_tensor(t) for t in tensors((value,), {})):
                raise UnsupportedOperation(
                    f"{name}.{attribute} keeps a value of training_step (a metric's state or a cache, perhaps), which "
                    "torch.vmap cannot hand out; use grads='loop', which computes every example alone"
                )


def _trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _by_example(leaf: Tensor, examples: int) -> bool:
    return leaf.dim() > 0 and leaf.shape[0] == examples


def _tensors(data: Any) -> list[Tensor]:
    """Return the tensors of a collection, in the order in which `_replaced` visits them."""
    found: list[Tensor] = []
    apply_to_collection(data, Tensor, found.append, allow_frozen=True)
    return found


def _replaced(data: Any, others: Sequence[Tensor]) -> Any:
    following = iter(others)
    return apply_to_collection(data, Tensor, lambda _: next(following), allow_frozen=True)


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
