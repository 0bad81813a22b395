"""Clipping parameter by parameter: each is weighted and summed in backward, as soon as its last gradient is recorded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node

from dplit.errors import UnsupportedOperation
from dplit.grads.per_example import PerExample
from dplit.grads.tape.tape import Tape
from dplit.grads.tape.tracked import DerivedTensor

Weigh = Callable[[str, Tensor], Tensor]
"""From a parameter's name and its `(n,)` squared norms to `(n,)` weights."""


class Weighed(NamedTuple):
    """What is kept of the gradients of n examples after each parameter was weighted by itself."""

    sq_norms: dict[str, Tensor]
    """`{name: (n,)}`"""
    sums: dict[str, Tensor]
    """`{name: Σᵢ wᵢ gᵢ}`, each in its parameter's shape."""
    weights: dict[str, Tensor]
    """`{name: (n,)}`"""


class WeighingTape(Tape):
    """A tape that lets go of gradients during backward, for weights that depend on a parameter's own norms alone.

    It keeps the activations and output gradients of one parameter at a time, instead of those of the whole model. Parameters
    from which other tensors were derived (by weight norm, say) are weighted at the end.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> module, batch = nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 4.0], [0.0, 1.0]])
        >>> with WeighingTape(module, examples=2) as tape:
        ...     losses = module(batch).squeeze(1)
        >>> clip = lambda name, sq_norms: (1.0 / sq_norms.sqrt()).clamp(max=1.0)
        >>> tape.weigh(losses, clip).sums
        {'weight': tensor([[0.6000, 1.8000]])}

    Source: group-wise clipping within backward, He et al. 2022, arXiv:2212.01539.
    """

    def weigh(self, losses: Tensor, weights: Weigh) -> Weighed:
        """Run one backward and return squared norms and weighted sums. `.grad` of every parameter stays as it was.

        Args:
            losses: `(n,)`, one loss per example, or a scalar that is their sum.
            weights: called once for each parameter, in the order in which backward is done with them.

        Raises:
            ConfigurationError, UnsupportedOperation: as `backward`.
            UnsupportedOperation: a parameter got another gradient after backward seemed to be done with it (in two layers
                that are recomputed with `use_reentrant=True`).
        """
        self._weighed: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        late = self._parameters_of_derived()
        nodes = {name: _accumulation_node(p) for name, p in self._parameters.items() if name not in late}
        handles = [node.register_hook(partial(self._weigh_when_done, name, weights)) for name, node in nodes.items()]
        try:
            rest = self.backward(losses)
        finally:
            for handle in handles:
                handle.remove()
        for name in self._parameters:
            if name not in self._weighed:
                self._weigh(name, rest, weights)
            elif rest.factors.get(name):
                raise self._used_after_weighing(name)
        return Weighed(*({name: self._weighed[name][i] for name in self._parameters} for i in range(3)))

    def _weigh_when_done(self, name: str, weights: Weigh, *_: object) -> None:
        parameter = self._tracked[id(self._parameters[name])]
        grads = [grad for tracked, grad in self._recorded if tracked is parameter]
        self._recorded = [pair for pair in self._recorded if pair[0] is not parameter]
        if name in self._weighed:
            raise self._used_after_weighing(name)
        with torch._C.DisableTorchFunction(), torch.no_grad():
            self._weigh(name, PerExample({name: self._parameters[name]}, {name: grads}, self.examples), weights)

    def _weigh(self, name: str, gradients: PerExample, weights: Weigh) -> None:
        alone = PerExample({name: self._parameters[name]}, {name: gradients.factors.get(name, ())}, self.examples)
        sq_norms = alone.sq_norms()[name]
        parameter_weights = weights(name, sq_norms)
        self._weighed[name] = sq_norms, alone.weighted_sum({name: parameter_weights})[name], parameter_weights

    def _used_after_weighing(self, name: str) -> UnsupportedOperation:
        return UnsupportedOperation(
            f"{name} is used again after it was weighed, by layers that are recomputed in backward; set use_reentrant=False"
        )

    def _parameters_of_derived(self) -> set[str]:
        """Return the names of the parameters whose gradients are complete only after those of tensors derived from them."""
        waiting = [parent for t in self._tracked.values() if isinstance(t, DerivedTensor) for parent in t.parents]
        names: set[str] = set()
        while waiting:
            tracked = waiting.pop()
            waiting += tracked.parents if isinstance(tracked, DerivedTensor) else ()
            names.add(tracked.name)
        return names


def _accumulation_node(parameter: Tensor) -> Node:
    """Return the node that would accumulate a parameter's gradient: when it runs, backward is done with the parameter."""
    view_node = parameter.view_as(parameter).grad_fn
    assert view_node is not None
    node = view_node.next_functions[0][0]
    assert node is not None
    return node
