"""The tape: every use of a trainable parameter in one forward and backward, recorded by operation, not by module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode, resolve_name

from dplit.errors import ConfigurationError, UnsupportedOperation
from dplit.grads.batch_axis import propagate
from dplit.grads.batch_axis.layout import BatchAxes, InDim, Layout, Mixed
from dplit.grads.factors.base import FactoredGrad
from dplit.grads.factors.rows import RowPerExampleGrad
from dplit.grads.per_example import PerExample
from dplit.grads.precision import full_precision, narrow
from dplit.grads.tape import registry
from dplit.grads.tape.constants import Constants
from dplit.grads.tape.torch_functions import without_override_check
from dplit.grads.tape.tracked import Derived, Parameter, Source

registry.load()
propagate.load()

READ_IN = frozenset({torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, torch.frombuffer})
"""Operations that bring in values from outside torch: data, for all the tape knows."""

RANDOM = frozenset({torch.rand, torch.randn, torch.randint, torch.normal, torch.empty})
"""Operations that make data of their own (a latent for each example) where the result has the examples outermost."""


class Tape(TorchFunctionMode):
    """Records, while active, how a module's trainable parameters are used by the n examples of a batch.

    Each torch function that meets a trainable parameter goes through its rule, which computes the same output and
    hands (activation, output gradient) over in backward in place of a weight gradient. What has no rule is refused.

    Args:
        module: its trainable parameters are tracked; frozen ones and buffers are constants.
        examples: n, the examples in the batch. Activations have them in their first dimension, alone or flattened
            with others, examples outermost.

    Example:
        >>> with Tape(module, examples=n) as tape:
        ...     losses = per_example_losses(module, batch)  # (n,)
        >>> gradients = tape.backward(losses)
        >>> gradients.sq_norms(), gradients.weighted_sum(torch.ones(n))

    Source: one-pass ghost clipping, Li et al. 2022, arXiv:2110.05679; Bu et al. 2023, arXiv:2210.00038.
    """

    def __init__(self, module: nn.Module, examples: int) -> None:
        super().__init__()
        if examples < 1:
            raise ConfigurationError(f"examples={examples}: a tape records at least one example")
        self.examples = examples
        self._parameters: dict[str, nn.Parameter] = {}
        self._constants = Constants()
        self._layouts = BatchAxes(examples)
        self._learn(module)
        self._sources: dict[int, Source] = {id(p): Parameter(p, name) for name, p in self._parameters.items()}
        self._uses: list[tuple[Source, FactoredGrad]] = []
        self._spent = self._recording = False
        self._narrow = bool(narrow())
        self._eager: list[Any] = []
        self._copies: dict[int, tuple[Tensor, Source]] = {}

    def _learn(self, module: nn.Module) -> None:
        """Take the trainable parameters, shared ones once, and as constants everything else that the module keeps."""
        seen: set[int] = set()
        for prefix, one in module.named_modules():
            for name, p in one._parameters.items():
                if p is not None and id(p) not in seen:
                    seen.add(id(p))
                    if p.requires_grad:
                        self._parameters[f"{prefix}.{name}" if prefix else name] = p
                    else:
                        self._constants.add(p)
            for kept in (*one._buffers.values(), *vars(one).values()):
                if type(kept) is Tensor:
                    self._constants.add(kept)

    # -- what rules call ---------------------------------------------------------------------------------------

    def source(self, value: Any) -> Source | None:
        """Return the source this tensor is, or None for data, constants and frozen parameters."""
        return self._sources.get(id(value))

    def record(self, source: Source | None, use: FactoredGrad) -> None:
        """Note one use of a source; called by rules in backward. A backward of the model's own is not ours to note."""
        if source is None or not self._recording:
            return
        if isinstance(source, Parameter):
            with full_precision() if self._narrow else nullcontext():
                use = use.compact()
        self._uses.append((source, use))

    def is_constant(self, value: Tensor) -> bool:
        """Whether a tensor came from constants alone: buffers, frozen parameters, `arange` and the like."""
        return value in self._constants

    def by_example(self, operation: Any, value: Tensor, *parameters: Any) -> None:
        """Check that an activation has the examples outermost.

        Raises:
            UnsupportedOperation: its first dimension is not the n examples, alone or flattened with others.
        """
        fits = self.source(value) is None and value.dim() > 0 and value.shape[0] % self.examples == 0
        layout = self._layouts.of(value)
        if not (fits and value.shape[0] > 0) or layout is not None:
            why = f" ({layout.why})" if isinstance(layout, Mixed) else ""
            raise self.refusal(
                operation,
                parameters,
                f"got an activation of shape {tuple(value.shape)} whose first dimension is not the "
                f"{self.examples} examples{why}; put the examples first",
            )

    def outermost(
        self, operation: Any, rule: Callable[[Tensor], Tensor], value: Tensor, *parameters: Any, over: int = 0
    ) -> Tensor:
        """Apply a rule that takes the examples outermost to an activation that may have them elsewhere.

        Args:
            operation: for messages.
            rule: acts on the last dimensions and keeps the others.
            value: the activation.
            parameters: for messages.
            over: how many of the last dimensions it acts on.

        Raises:
            UnsupportedOperation: where the examples are in the activation is not known, or it acts on them.
        """
        layout = self._layouts.of(value)
        if layout is None or isinstance(layout, Mixed):
            self.by_example(operation, value, *parameters)
            return rule(value)
        if isinstance(layout, InDim) and layout.dim >= value.dim() - over:
            shape = tuple(value.shape)
            raise self.refusal(
                operation, parameters, f"acts on dimension {layout.dim} of an activation of shape {shape}, the examples"
            )
        result = layout.restored(rule(layout.outermost(value)))
        self._layouts.put(result, layout)
        return result

    def layout(self, value: Tensor) -> Layout | None:
        """Return where the examples lie in an activation, or None for outermost."""
        return self._layouts.of(value)

    def owners(self, value: Tensor) -> Tensor | None:
        """Return the example that each row of an activation belongs to, `(m,)`, or None where that is not known."""
        return self._layouts.owners(value)

    def keep_layout(self, of: Tensor, to: Tensor) -> None:
        """Note that a result has the examples where an activation has them."""
        self._layouts.put(to, self._layouts.of(of))

    def refuse_data(self, operation: Any, *weights: Tensor | None) -> None:
        """Refuse a weight that was computed from data, whose gradient a rule's backward would drop.

        Raises:
            UnsupportedOperation: one of the weights is neither a source nor constant, and wants a gradient.
        """
        if any(w is not None and w.requires_grad and self.source(w) is None for w in weights):
            raise self.refusal(operation, weights, "meets a weight computed from data; compute the two apart")

    def derive(self, operation: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Apply an operation to sources and constants alone and track what comes out."""
        with saved_tensors_hooks(_as_it_is, _as_it_is):
            result = operation(*args, **kwargs)
        parents = tuple({id(t): self._sources[id(t)] for t in tensors(args, kwargs) if self.source(t)}.values())
        if isinstance(result, Tensor):
            return self._tracked(result, parents, operation, args, kwargs)
        if isinstance(result, tuple | list) and any(isinstance(part, Tensor) for part in result):
            return type(result)([self._tracked(part, parents, None, args, kwargs) for part in result])
        return result

    def refusal(self, operation: Any, values: tuple[Any, ...], why: str) -> UnsupportedOperation:
        """Return the error that names operation, parameters, shapes and remedy."""
        found = [self.source(v) for v in values]
        names = ", ".join(f"{s.name} {tuple(s.tensor.shape)}" for s in found if s) or "a trainable parameter"
        return UnsupportedOperation(f"{_title(operation)} on {names} {why}")

    # -- recording ---------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Record. What `torch.compile` compiled runs eagerly meanwhile: a compiled graph has no operations to see."""
        self._eager.append(torch.compiler.set_stance("force_eager"))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop recording."""
        super().__exit__(*error)
        self._eager.pop().__exit__(*error)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Send an operation to its rule if a source is among its arguments."""
        kwargs = kwargs or {}
        if self._recording and func is torch.autograd.backward:
            return self._watched(func, *args, **kwargs)
        given = tensors(args, kwargs)
        sources = self._sources
        for t in given if self._copies else ():
            if t.requires_grad and id(t) in self._copies:
                sources[id(t)] = self._copies[id(t)][1]
        if not any(id(t) in sources for t in given):
            result = func(*args, **kwargs)
            return result if self._makes_data(func, result) else self._remember(func, args, kwargs, result, given)
        if self._recording and func is Tensor.detach:
            return self._detached_anew(given[0])
        if func not in registry.ALWAYS and all(id(t) in self._sources or t in self._constants for t in given):
            return self.derive(func, args, kwargs)
        if func in registry.RULES and torch.is_grad_enabled():
            if self._layouts and func not in registry.ANYWHERE:
                self._check_places(func, given)
            return registry.RULES[func](self, *args, **kwargs)
        return self._without_rule(func, args, kwargs, given)

    def backward(self, losses: Tensor) -> PerExample:
        """Run one backward and return the per-example gradients. `.grad` of every parameter stays as it was.

        Args:
            losses: `(n,)`, one loss per example, or a scalar that is their sum.

        Raises:
            ConfigurationError: losses of another shape.
            UnsupportedOperation: a parameter got gradient by a road the tape did not see.
        """
        if self._spent:
            raise ConfigurationError("a Tape serves one backward; make a new one for each batch")
        if losses.shape not in ((self.examples,), ()):
            raise ConfigurationError(
                f"losses must have shape ({self.examples},), one per example, got {tuple(losses.shape)}; "
                "use reduction='none' and average within an example only"
            )
        self._spent = True
        source = self.source(losses)
        if source is not None and losses.dim():
            self._uses.append(
                (source, RowPerExampleGrad(torch.ones_like(losses), torch.arange(self.examples), self.examples))
            )
        elif losses.requires_grad:
            self._run_backward(losses)
        return self._found()

    @full_precision()
    def _found(self) -> PerExample:
        traced: dict[str, list[FactoredGrad]] = {}
        for source, use in self._uses:
            for name, led_back in source.trace(use):
                traced.setdefault(name, []).append(led_back.compact())
        return PerExample(self._parameters, traced, self.examples)

    def _run_backward(self, losses: Tensor) -> None:
        before = {name: p.grad for name, p in self._parameters.items()}
        for p in self._parameters.values():
            p.grad = None
        self._recording = True
        try:
            self._watched(torch.autograd.backward, losses.sum())
            unseen = [s.name for s in self._sources.values() if s.tensor.grad is not None]
            unseen += [source.name for copy, source in self._copies.values() if copy.grad is not None]
        finally:
            self._recording = False
            for name, p in self._parameters.items():
                p.grad = before[name]
        if unseen:
            raise UnsupportedOperation(
                f"{', '.join(unseen)} got gradient by a road the tape cannot see (a scripted module or a custom "
                "autograd.Function, perhaps); write it with torch functions, freeze the parameter, or set "
                'DPStrategy(grads="loop")'
            )

    def _check_places(self, func: Any, given: list[Tensor]) -> None:
        sources = [t for t in given if id(t) in self._sources]
        for t in given:
            if t.dim() and self._layouts.of(t) is not None:
                self.by_example(func, t, *sources)

    def _detached_anew(self, value: Tensor) -> Tensor:
        """A layer that is computed anew may do so on detached copies: one that wants a gradient stands for its source.

        One that does not is a constant: the model itself stops the gradient there.
        """
        copy = value.detach()
        self._constants.add(copy)
        self._copies[id(copy)] = copy, self._sources[id(value)]
        return copy

    def _watched(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a backward under the tape, which has to see layers that are computed anew in it."""
        visible = without_override_check(func)
        assert visible is not None
        with self:
            return visible(*args, **kwargs)

    def _makes_data(self, func: Any, result: Any) -> bool:
        if func in RANDOM and isinstance(result, Tensor):
            return result.dim() > 0 and result.shape[0] > 0 and result.shape[0] % self.examples == 0
        return func in READ_IN

    def _without_rule(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], given: list[Tensor]) -> Any:
        visible = without_override_check(func)
        if visible is not None:
            with self:
                return visible(*args, **kwargs)
        result = func(*args, **kwargs)
        if not torch.is_grad_enabled() or not any(t.requires_grad for t in tensors((result,), {})):
            self._follow(func, args, kwargs, result, given)
            return result
        raise self.refusal(
            func,
            tuple(given),
            f"has no rule (arguments {', '.join(registry.reads(t) for t in given)}); "
            'freeze the parameter, set DPStrategy(grads="vmap") or "loop", or add a rule in dplit/grads/rules',
        )

    def _tracked(
        self, result: Any, parents: tuple[Source, ...], operation: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        if not isinstance(result, Tensor):
            return result
        if not result.requires_grad:
            self._constants.add(result)
            return result
        leaf = result.detach().requires_grad_()
        self._sources[id(leaf)] = Derived(leaf, result, parents, operation, args, kwargs)
        return leaf

    def _remember(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any, given: list[Tensor]
    ) -> Any:
        """Constants stay constants through any operation; a constant written over with data is one no longer."""
        constants = self._constants
        if not given or (given[0] in constants and all(t in constants for t in given)):
            for t in tensors((result,), {}):
                constants.add(t)
            return result
        self._follow(func, args, kwargs, result, given)
        if given[0] in constants and (result is given[0] or result is None):
            self._forget(given[0])
        return result

    def _follow(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any, given: list[Tensor]
    ) -> None:
        if self.examples == 1:
            return
        marked = self._layouts and any(self._layouts.of(t) is not None for t in given)
        if marked or (func in propagate.PROPAGATION and not propagate.stays(func, args, result, self.examples)):
            fixed = lambda t: t in self._constants or id(t) in self._sources  # noqa: E731
            propagate.follow(propagate.Call(self._layouts, func, args, kwargs, result, fixed))

    def _forget(self, value: Tensor) -> None:
        for t in (value, value._base):
            if t is not None and t in self._constants:
                self._constants.discard(t)


def tensors(args: Any, kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors among arguments, inside lists, tuples and mappings too."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors(value, {})
        elif isinstance(value, dict):
            found += tensors((), value)
    return found


def _as_it_is(value: Tensor) -> Tensor:
    """Keep what a derivation saved, also inside a layer that is computed anew: it is asked again after backward."""
    return value


def _title(operation: Any) -> str:
    return str(resolve_name(operation) or getattr(operation, "__name__", operation))
