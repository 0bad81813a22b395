"""What a tape records gradients of: trainable parameters, and tensors computed from them alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from dplit.grads.factors.base import FactoredGrad
from dplit.grads.factors.slices import SlicedGrad, slice_of_view
from dplit.grads.factors.vjp import VjpGrad
from dplit.grads.tape.registry import VJP_RULES
from dplit.grads.types import Args, Kwargs, Result, TorchFunction


class Tracked(ABC):
    """A tensor whose gradients the tape records."""

    tensor: Tensor

    @property
    @abstractmethod
    def name(self) -> str:
        """How messages call it."""

    @property
    @abstractmethod
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters that it was computed from."""

    @abstractmethod
    def pull_back(self, grad: FactoredGrad) -> Iterator[tuple[str, FactoredGrad]]:
        """Yield `(parameter name, gradient of that parameter)`: what a gradient of this tensor means for the parameters."""


@dataclass(frozen=True)
class TrackedParameter(Tracked):
    """A trainable parameter of the module."""

    tensor: Tensor
    label: str

    @property
    def name(self) -> str:
        return self.label

    @property
    def parameters(self) -> tuple[str, ...]:
        return (self.label,)

    def pull_back(self, grad: FactoredGrad) -> Iterator[tuple[str, FactoredGrad]]:
        yield self.label, grad


@dataclass(frozen=True)
class DerivedTensor(Tracked):
    """A tensor d = f(p, ...) computed from parameters and constants alone, such as `exp(scale)` or a slice of a parameter.

    The model continues with `tensor`, a leaf that is detached from p. The gradient gᵢ(p) = Jᵀ gᵢ(d), with J the derivative
    of f, is computed after backward: by the registered rule of f if it has one, by a slice of p if d is a view of p, and
    otherwise by f's own backward.
    """

    tensor: Tensor
    attached: Tensor
    """d as computed, still attached to p by its autograd graph."""
    parents: tuple[Tracked, ...]
    operation: TorchFunction | None = None
    args: Args = ()
    kwargs: Kwargs = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{getattr(self.operation, '__name__', 'f')}({', '.join(parent.name for parent in self.parents)})"

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for parent in self.parents for name in parent.parameters))

    def pull_back(self, grad: FactoredGrad) -> Iterator[tuple[str, FactoredGrad]]:
        rule = None if self.operation is None else VJP_RULES.get(self.operation)
        pulled_back = None if rule is None else rule(self, grad)
        if pulled_back is None:
            pulled_back = [(parent, self._pull_back_to(parent, grad)) for parent in self.parents]
        elif isinstance(pulled_back, FactoredGrad):
            pulled_back = [(self.parents[0], pulled_back)]
        for parent, parent_grad in pulled_back:
            yield from parent.pull_back(parent_grad)

    def apply_to(self, value: Tensor) -> Result:
        """Return what the operation gives if its first parent is replaced by another tensor."""
        assert self.operation is not None
        parent = self.parents[0].tensor
        args = (value if v is parent else v for v in self.args)
        kwargs = {name: value if v is parent else v for name, v in self.kwargs.items()}
        return self.operation(*args, **kwargs)

    def _pull_back_to(self, parent: Tracked, grad: FactoredGrad) -> FactoredGrad:
        part = slice_of_view(self.attached, parent.tensor)
        return VjpGrad(grad, self.attached, parent.tensor) if part is None else SlicedGrad(grad, part)
