"""The tape: it records every gradient of a trainable parameter in one forward and backward, operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from dplit.errors import ConfigurationError, ForbiddenOperation, UnsupportedOperation
from dplit.grads.batch_axis import propagate
from dplit.grads.batch_axis.axes import BatchAxes, BatchAxis, InDim, Mixed, RowOwners
from dplit.grads.factors.base import FactoredGrad
from dplit.grads.factors.rows import RowPerExampleGrad
from dplit.grads.messages import operation_name, shape_text
from dplit.grads.parameters import trainable_parameters
from dplit.grads.per_example import PerExample
from dplit.grads.precision import full_precision, rounding_settings
from dplit.grads.tape import registry
from dplit.grads.tape.constants import Constants, makes_data
from dplit.grads.tape.path import Path
from dplit.grads.tape.torch_functions import without_override_check
from dplit.grads.tape.tracked import DerivedTensor, Tracked, TrackedParameter
from dplit.grads.torch_calls import is_in_place, tensors
from dplit.grads.types import Args, Kwargs, Result, TorchFunction

registry.load()
propagate.load()


_COLLECTIONS = frozenset({dict, list, tuple})


class Tape(TorchFunctionMode):
    """Records, while active, the gradients of a module's trainable parameters for each of n examples.

    Each torch function that receives a trainable parameter goes through its rule, which computes the same output and, in
    backward, hands (activation, output gradient) to the tape instead of computing a weight gradient. An operation that has
    no rule is refused.

    Args:
        module: its trainable parameters are tracked; frozen parameters and buffers are constants.
        examples: n, the number of examples in the batch. Activations have them in their first dimension, either alone or
            flattened with other dimensions, the examples outermost.
        random_rows: whether row i of random numbers that are drawn in n rows is taken for example i's. If not, they are
            constants, which is always exact; what is computed from them and parameters alone then costs a backward for
            each example.
        python_data: whether the batch holds data that are no tensors, from which the model makes some.
        path: notes which operations the step runs; None where nobody asks.

    Raises:
        ConfigurationError: `examples` is less than 1.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> module, batch = nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 4.0], [0.0, 1.0]])
        >>> with Tape(module, examples=2) as tape:
        ...     losses = module(batch).squeeze(1)  # (n,), one loss per example
        >>> gradients = tape.backward(losses)
        >>> gradients.sq_norms()
        {'weight': tensor([25.,  1.])}
        >>> gradients.weighted_sum(torch.tensor([0.2, 1.0]))
        {'weight': tensor([[0.6000, 1.8000]])}

    Source: one-pass ghost clipping, Li et al. 2022, arXiv:2110.05679; Bu et al. 2023, arXiv:2210.00038.
    """

    def __init__(
        self,
        module: nn.Module,
        examples: int,
        *,
        random_rows: bool = True,
        python_data: bool = False,
        path: Path | None = None,
    ) -> None:
        super().__init__()
        if examples < 1:
            raise ConfigurationError(f"examples={examples}: a tape records at least one example")
        self.examples = examples
        self._parameters: dict[str, nn.Parameter] = {}
        self._constants = Constants()
        self._axes = BatchAxes(examples)
        self.random_rows = random_rows
        self.python_data = python_data
        self._learn(module)
        self.path = path
        if path is not None:
            path.know([*self._parameters.values(), *self._constants])
        self._tracked: dict[int, Tracked] = {id(p): TrackedParameter(p, name) for name, p in self._parameters.items()}
        self._recorded: list[tuple[Tracked, FactoredGrad]] = []
        self._spent = self._recording = False
        self._products_are_rounded = bool(rounding_settings())
        self._eager_stances: list[AbstractContextManager[object]] = []
        self._modes_around = [0]
        self._detached_copies: dict[int, tuple[Tensor, Tracked]] = {}

    def _learn(self, module: nn.Module) -> None:
        """Note which parameters are tracked, and that everything else that the module keeps is constant."""
        self._parameters = trainable_parameters(module)
        for submodule in module.modules():
            for parameter in submodule._parameters.values():
                if parameter is not None and not parameter.requires_grad:
                    self._constants.add(parameter)
            for value in submodule._buffers.values():
                if type(value) is Tensor:
                    self._constants.add(value)
            for value in _kept_by(submodule):
                self._constants.add(value)

    def _learn_made(self, parameter: nn.Parameter) -> None:
        """Note that a parameter which the model made while it runs is constant, if it holds the numbers of a known tensor.

        `nn.Parameter(weight.T)` is no operation that a mode sees; it shares memory with what it was made of, without its graph.
        """
        memory = parameter.untyped_storage().data_ptr()
        known = chain((t.tensor for t in self._tracked.values()), self._constants)
        if any(t.untyped_storage().data_ptr() == memory for t in known):
            self._constants.add(parameter)

    def know_constant(self, value: Tensor) -> None:
        """Note that a tensor of the batch is the same for all examples."""
        self._constants.add(value)

    def know_axis(self, value: Tensor, axis: BatchAxis) -> None:
        """Note where the examples are in a tensor of the batch that has not one row for each."""
        self._axes.put(value, axis)

    # -- what rules call ---------------------------------------------------------------------------------------

    def tracked(self, value: object) -> Tracked | None:
        """Return what the tape tracks this tensor as, or None for data, constants and frozen parameters."""
        return self._tracked.get(id(value))

    def record(self, tracked: Tracked | None, grad: FactoredGrad) -> None:
        """Keep a gradient of a tracked tensor; rules call this in backward.

        Nothing is kept if `tracked` is None, or outside `backward`, where the model runs a backward of its own.
        """
        if tracked is None or not self._recording:
            return
        if isinstance(tracked, TrackedParameter):
            with full_precision() if self._products_are_rounded else nullcontext():
                grad = grad.compact()
        self._recorded.append((tracked, grad))

    def is_constant(self, value: Tensor) -> bool:
        """Whether a tensor was computed from constants alone: buffers, frozen parameters, `arange` and the like."""
        return value in self._constants

    def check_outermost(self, operation: TorchFunction, value: Tensor, *parameters: object) -> None:
        """Check that an activation has the examples outermost.

        Raises:
            UnsupportedOperation: its first dimension is not the n examples, alone or flattened with other dimensions.
        """
        fits = self.tracked(value) is None and value.dim() > 0 and value.shape[0] % self.examples == 0
        axis = self._axes.of(value)
        if not (fits and value.shape[0] > 0) or axis is not None:
            why = f" ({axis.why})" if isinstance(axis, Mixed) else ""
            raise self.refusal(
                operation,
                parameters,
                f"got an activation of shape {tuple(value.shape)} whose first dimension is not the "
                f"{self.examples} examples{why}; put the examples first",
            )

    def apply_outermost(
        self,
        operation: TorchFunction,
        rule: Callable[[Tensor], Tensor],
        value: Tensor,
        *parameters: object,
        over: int = 0,
    ) -> Tensor:
        """Apply a rule that wants the examples outermost to an activation that may have them elsewhere.

        Args:
            operation: for messages.
            rule: acts on the last dimensions and keeps the others.
            value: the activation.
            parameters: for messages.
            over: how many of the last dimensions the rule acts on.

        Raises:
            UnsupportedOperation: it is not known where the examples are, or the rule acts on their dimension.
        """
        axis = self._axes.of(value)
        if axis is None or isinstance(axis, Mixed):
            self.check_outermost(operation, value, *parameters)
            return rule(value)
        if isinstance(axis, InDim) and axis.dim >= value.dim() - over:
            shape = tuple(value.shape)
            raise self.refusal(
                operation, parameters, f"acts on dimension {axis.dim} of an activation of shape {shape}, the examples"
            )
        result = axis.restored(rule(axis.outermost(value)))
        self._axes.put(result, axis)
        return result

    def apply_by_row(
        self, operation: TorchFunction, rule: Callable[[Tensor], Tensor], value: Tensor, *parameters: object
    ) -> Tensor:
        """Apply a rule that treats each row (image) by itself to an activation whose rows may be in any order.

        Args:
            operation: for messages.
            rule: from `(rows, ...)` to `(rows, ...)`; as many rows belong to each example, the examples outermost.
            value: the activation, of any number of rows for each example.
            parameters: for messages.

        Raises:
            UnsupportedOperation: it is not known which example a row belongs to.
        """
        axis = self._axes.of(value)
        if not isinstance(axis, RowOwners):
            self.check_outermost(operation, value, *parameters)
            return rule(value)
        filled = axis.outermost(value)
        result: Tensor = axis.restored(rule(filled.flatten(0, 1)).unflatten(0, filled.shape[:2]))
        self._axes.put(result, axis)
        return result

    def batch_axis(self, value: Tensor) -> BatchAxis | None:
        """Return where the examples are in an activation, or None for outermost."""
        return self._axes.of(value)

    def owners(self, value: Tensor) -> Tensor | None:
        """Return the example that each row of an activation belongs to, `(m,)`, or None where that is not known."""
        return self._axes.owners(value)

    def keep_batch_axis(self, of: Tensor, to: Tensor) -> None:
        """Note that the tensor `to` has the examples where the tensor `of` has them."""
        self._axes.put(to, self._axes.of(of))

    def refuse_data(self, operation: TorchFunction, *weights: Tensor | None) -> None:
        """Refuse a weight that was computed from data, whose gradient a rule's backward would drop.

        Raises:
            UnsupportedOperation: one of the weights wants a gradient and is not tracked.
        """
        if any(w is not None and w.requires_grad and self.tracked(w) is None for w in weights):
            raise self.refusal(operation, weights, "meets a weight computed from data; compute the two apart")

    def derive(self, operation: TorchFunction, *args: object, **kwargs: object) -> Tensor:
        """Apply an operation that returns one tensor to tracked tensors and constants alone, and track the result."""
        result: Tensor = self._derive(operation, args, kwargs)
        return result

    def apply_rule(self, operation: TorchFunction, *args: object) -> Tensor:
        """Apply an operation as if the model had called it."""
        result: Tensor = self.__torch_function__(operation, (), args)
        return result

    def refusal(self, operation: TorchFunction, values: Iterable[object], why: str) -> UnsupportedOperation:
        """Return the error that names the operation, the tracked tensors among the values, and their shapes."""
        message, parameters = self._refused(operation, values, why)
        return UnsupportedOperation(f'{message}; or set DPStrategy(grads="auto") or "loop"', parameters)

    def forbidden(self, operation: TorchFunction, values: Iterable[object], why: str) -> ForbiddenOperation:
        """Return the error of an operation that is refused whatever computes the gradients."""
        return ForbiddenOperation(*self._refused(operation, values, why))

    def differentiated_twice(self, values: Iterable[object]) -> UnsupportedOperation:
        """Return the error of a gradient that the model computes to differentiate it; some of the values are `Tracked`."""
        parts = [part for v in values for part in (v if isinstance(v, list | tuple) else (v,))]
        tracked = [part for part in parts if isinstance(part, Tracked)]
        names = ", ".join(t.name for t in tracked)
        return UnsupportedOperation(
            f"the model differentiates a gradient (create_graph=True, as a gradient penalty does) through {names}, which the "
            'tape records once only; set DPStrategy(grads="auto") or "loop"',
            _parameters_of(tracked),
        )

    def _refused(self, operation: TorchFunction, values: Iterable[object], why: str) -> tuple[str, tuple[str, ...]]:
        tracked = [t for t in map(self.tracked, tensors(tuple(values), {})) if t]
        names = ", ".join(f"{t.name} {tuple(t.tensor.shape)}" for t in tracked) or "a trainable parameter"
        return f"{operation_name(operation)} on {names} {why}", _parameters_of(tracked)

    # -- forward -----------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Start recording. Compiled code runs eagerly meanwhile, because a compiled graph shows no operations."""
        self._eager_stances.append(torch.compiler.set_stance("force_eager"))
        self._modes_around.append(torch._C._len_torch_dispatch_stack())
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop recording."""
        super().__exit__(kind, error, traceback)
        self._modes_around.pop()
        self._eager_stances.pop().__exit__(kind, error, traceback)

    def __torch_function__(
        self, func: TorchFunction, types: Collection[type], args: Args = (), kwargs: Kwargs | None = None
    ) -> Result:
        """Send an operation to its rule if a tracked tensor is among its arguments; let those of a mode around the step be.

        Such a mode (one that counts memory, or follows owners) works on what backward calls while the tape is there, too.
        """
        if torch._C._len_torch_dispatch_stack() < self._modes_around[-1]:
            return func(*args, **(kwargs or {}))
        result = self._apply(func, args, kwargs or {})
        if self.path is not None:
            self.path.note(
                func, args, kwargs or {}, (result,) if isinstance(result, Tensor) else tensors((result,), {})
            )
        return result

    def _apply(self, func: TorchFunction, args: Args, kwargs: Kwargs) -> Result:
        if self._recording and func is torch.autograd.backward:
            return self._run_recorded(func, *args, **kwargs)
        given = tensors(args, kwargs)
        tracked = self._tracked
        for t in given if self._detached_copies else ():
            if t.requires_grad and id(t) in self._detached_copies:
                tracked[id(t)] = self._detached_copies[id(t)][1]
        for t in given:
            if type(t) is nn.Parameter and id(t) not in tracked and t not in self._constants:
                self._learn_made(t)
        if not any(id(t) in tracked for t in given):
            result = func(*args, **kwargs)
            if makes_data(func, result, self):
                return result
            return self._note_result(func, args, kwargs, result, given)
        if self._recording and func is Tensor.detach:
            return self._detach_in_recomputation(given[0])
        if func not in registry.TAKES_NO_DATA and all(id(t) in tracked or t in self._constants for t in given):
            return self._derive(func, args, kwargs)
        if not all(t.numel() for t in given):
            applied, result = self._apply_to_no_rows(func, args, kwargs, given)
            if applied:
                return result
        if func in registry.RULES and torch.is_grad_enabled():
            self._refuse_complex(func, given)
            if self._axes and func not in registry.TAKES_ANY_BATCH_AXIS:
                self._check_all_outermost(func, given)
            return registry.RULES[func](self, *args, **kwargs)
        return self._apply_without_rule(func, args, kwargs, given)

    def _note_result(
        self, func: TorchFunction, args: Args, kwargs: Kwargs, result: Result, given: list[Tensor]
    ) -> Result:
        """Note that a result of constants is constant, and where the examples are in any other result.

        A constant that is overwritten in place with data stops being a constant.
        """
        constants = self._constants
        if not given or (given[0] in constants and all(t in constants for t in given)):
            for t in tensors((result,), {}):
                constants.add(t)
            return result
        self._follow_batch_axis(func, args, kwargs, result, given)
        if given[0] in constants and (result is given[0] or result is None):
            constants.discard(given[0])
            if given[0]._base is not None:
                constants.discard(given[0]._base)
        return result

    def _follow_batch_axis(
        self, func: TorchFunction, args: Args, kwargs: Kwargs, result: Result, given: list[Tensor]
    ) -> None:
        if self.examples == 1:
            return
        elsewhere = self._axes and any(self._axes.of(t) is not None for t in given)
        if elsewhere or (
            func in propagate.AXIS_RULES and not propagate.stays_outermost(func, args, result, self.examples)
        ):
            is_constant = lambda t: t in self._constants or id(t) in self._tracked  # noqa: E731
            propagate.follow(propagate.Call(self._axes, func, args, kwargs, result, is_constant))

    def _refuse_complex(self, func: TorchFunction, given: list[Tensor]) -> None:
        if any(t.is_complex() for t in given):
            raise self.refusal(
                func,
                given,
                "meets complex numbers, of which the tape takes no gradients; set DPStrategy(grads='loop'), or 'vmap'",
            )

    def _check_all_outermost(self, func: TorchFunction, given: list[Tensor]) -> None:
        tracked = [t for t in given if id(t) in self._tracked]
        for t in given:
            if t.dim() and self._axes.of(t) is not None:
                self.check_outermost(func, t, *tracked)

    def _derive(self, operation: TorchFunction, args: Args, kwargs: Kwargs) -> Result:
        """Apply an operation to tracked tensors and constants alone, and track the tensors that it returns."""
        if args and self.tracked(args[0]) and is_in_place(operation):
            return self._derive_in_place(operation, args, kwargs)
        with saved_tensors_hooks(_unchanged, _unchanged):
            result = operation(*args, **kwargs)
        parents = tuple({id(t): self._tracked[id(t)] for t in tensors(args, kwargs) if self.tracked(t)}.values())
        if isinstance(result, Tensor):
            return self._track(result, parents, operation, args, kwargs)
        if isinstance(result, tuple | list) and any(isinstance(part, Tensor) for part in result):
            return type(result)(
                [self._track(v, parents, None, args, kwargs) if isinstance(v, Tensor) else v for v in result]
            )
        return result

    def _derive_in_place(self, operation: TorchFunction, args: Args, kwargs: Kwargs) -> Result:
        """Apply an operation that writes to a derived tensor: to a copy, whose values the tensor gets, for all that know it.

        Raises:
            UnsupportedOperation: it would write to a parameter.
        """
        leaf, before = args[0], self._tracked[id(args[0])]
        if isinstance(before, TrackedParameter):
            raise self.refusal(operation, [leaf], "is written to in place; parameters change by the optimizer alone")
        with saved_tensors_hooks(_unchanged, _unchanged):
            written = leaf.clone()
            operation(written, *args[1:], **kwargs)
        others = {id(t): self._tracked[id(t)] for t in tensors(args[1:], kwargs) if self.tracked(t)}
        with torch.no_grad():
            leaf.copy_(written)
        self._tracked[id(leaf)] = DerivedTensor(leaf, written, (before, *others.values()))
        return None if operation is Tensor.__setitem__ else leaf

    def _track(
        self, result: Tensor, parents: tuple[Tracked, ...], operation: TorchFunction | None, args: Args, kwargs: Kwargs
    ) -> Tensor:
        """Return the leaf with which the model continues in place of a derived tensor."""
        if not result.requires_grad:
            self._constants.add(result)
            return result
        leaf = result.detach().requires_grad_()
        self._tracked[id(leaf)] = DerivedTensor(leaf, result, parents, operation, args, kwargs)
        return leaf

    def _apply_to_no_rows(
        self, func: TorchFunction, args: Args, kwargs: Kwargs, given: list[Tensor]
    ) -> tuple[bool, Result]:
        """Apply an operation as torch does if its result has no numbers, such as a layer to which no example was sent.

        Returns:
            Whether that is so, and the result; no gradient passes through it.
        """
        constant = lambda v: v.detach() if isinstance(v, Tensor) and id(v) in self._tracked else v  # noqa: E731
        constant_args, constant_kwargs = tree_map(constant, (args, dict(kwargs)))
        result = func(*constant_args, **constant_kwargs)
        if any(t.numel() for t in tensors((result,), {})):
            return False, None
        self._follow_batch_axis(func, args, kwargs, result, given)
        return True, result

    def _apply_without_rule(self, func: TorchFunction, args: Args, kwargs: Kwargs, given: list[Tensor]) -> Result:
        """Apply an operation step by step if it is written in Python, at once if it needs no gradient; else refuse it."""
        steps = without_override_check(func)
        if steps is not None:
            with self:
                return steps(*args, **kwargs)
        result = func(*args, **kwargs)
        if not torch.is_grad_enabled() or not any(t.requires_grad for t in tensors((result,), {})):
            self._follow_batch_axis(func, args, kwargs, result, given)
            return result
        raise self.refusal(
            func,
            given,
            f"has no rule (arguments {', '.join(shape_text(t) for t in given)}); "
            "freeze the parameter, or add a rule in dplit/grads/rules",
        )

    # -- backward ----------------------------------------------------------------------------------------------

    def backward(self, losses: Tensor) -> PerExample:
        """Run one backward and return the per-example gradients. `.grad` of every parameter stays as it was.

        Args:
            losses: `(n,)`, one loss per example, or a scalar that is their sum.

        Raises:
            ConfigurationError: the losses have another shape, or the tape has run a backward before.
            UnsupportedOperation: a parameter got a gradient by a road that the tape does not see.
        """
        if self._spent:
            raise ConfigurationError("a Tape serves one backward; make a new one for each batch")
        if losses.shape not in ((self.examples,), ()):
            raise ConfigurationError(
                f"losses must have shape ({self.examples},), one per example, got {tuple(losses.shape)}; "
                "use reduction='none' and average within an example only"
            )
        self._spent = True
        tracked = self.tracked(losses)
        if tracked is not None and losses.dim():
            ones, rows = torch.ones_like(losses), torch.arange(self.examples, device=losses.device)
            self._recorded.append((tracked, RowPerExampleGrad(ones, rows, self.examples)))
        elif losses.requires_grad:
            self._run_backward(losses)
        return self._pull_back()

    @full_precision()
    def _pull_back(self) -> PerExample:
        """Pull the recorded gradients of derived tensors back to the parameters."""
        factors: dict[str, list[FactoredGrad]] = {}
        for tracked, grad in self._recorded:
            for name, parameter_grad in tracked.pull_back(grad):
                factors.setdefault(name, []).append(parameter_grad.compact())
        return PerExample(self._parameters, factors, self.examples)

    def _run_backward(self, losses: Tensor) -> None:
        before = {name: p.grad for name, p in self._parameters.items()}
        for p in self._parameters.values():
            p.grad = None
        self._recording = True
        try:
            self._run_recorded(torch.autograd.backward, losses.sum())
            unseen = [tracked for tracked in self._tracked.values() if tracked.tensor.grad is not None]
            unseen += [tracked for copy, tracked in self._detached_copies.values() if copy.grad is not None]
        finally:
            self._recording = False
            for name, p in self._parameters.items():
                p.grad = before[name]
        if unseen:
            raise UnsupportedOperation(
                f"{', '.join(tracked.name for tracked in unseen)} got gradient by a road the tape cannot see (a scripted "
                "module or a custom autograd.Function, perhaps); write it with torch functions, freeze the parameter, or "
                'set DPStrategy(grads="auto") or "loop"',
                _parameters_of(unseen),
            )

    def _run_recorded(self, func: TorchFunction, *args: object, **kwargs: object) -> Result:
        """Run a backward under the tape, which has to see the checkpointed layers that are recomputed in it."""
        steps = without_override_check(func)
        assert steps is not None
        with self:
            return steps(*args, **kwargs)

    def _detach_in_recomputation(self, value: Tensor) -> Tensor:
        """Return a detached copy of a tracked tensor that stands for it where a checkpointed layer is recomputed.

        A recomputed layer may run on detached copies of its inputs. If such a copy is then set to want a gradient, it is
        tracked like the tensor itself; if not, it is a constant, because the model itself stops the gradient there.
        """
        copy = value.detach()
        self._constants.add(copy)
        self._detached_copies[id(copy)] = copy, self._tracked[id(value)]
        return copy


def _kept_by(module: nn.Module) -> Iterator[Tensor]:
    """Yield the tensors that are attributes of a module or in its public dictionaries and lists (the tokens of a prompt, say)."""
    for name, value in vars(module).items():
        if type(value) is Tensor:
            yield value
        elif type(value) in _COLLECTIONS and value and name[0] != "_":
            yield from (t for t in tensors((value,), {}) if type(t) is Tensor)


def _parameters_of(tracked: Iterable[Tracked]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for t in tracked for name in t.parameters))


def _unchanged(value: Tensor) -> Tensor:
    """Keep what a derivation saved: it is needed after backward, also if it was computed in a checkpointed layer."""
    return value
