"""Clipping parameter by parameter: each is weighed and summed in backward as soon as its last use is known."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dplit.errors import UnsupportedOperation
from dplit.grads.per_example import PerExample
from dplit.grads.tape.tape import Tape
from dplit.grads.tape.tracked import Derived

Weigh = Callable[[str, Tensor], Tensor]
"""`(parameter name, (n,) squared norms)` to `(n,)` weights."""


class Weighed(NamedTuple):
    """What is left of the gradients of n examples once each parameter was weighed by itself."""

    sq_norms: dict[str, Tensor]
    """`{name: (n,)}`"""
    sums: dict[str, Tensor]
    """`{name: Σᵢ wᵢ gᵢ}`, each in its parameter's shape."""
    weights: dict[str, Tensor]
    """`{name: (n,)}`"""


class WeighingTape(Tape):
    """A tape whose uses are let go during backward, where a parameter's weights depend on its own norms alone.

    Activations and output gradients of one parameter at a time are kept, instead of those of the whole model. Parameters
    that others were derived from (weight norm, say) are weighed at the end.

    Example:
        >>> with WeighingTape(module, examples=n) as tape:
        ...     losses = per_example_losses(module, batch)
        >>> tape.weigh(losses, lambda name, squares: (bounds[name] / squares.sqrt()).clamp(max=1.0)).sums

    Source: group-wise clipping within backward, He et al. 2022, arXiv:2212.01539.
    """

    def weigh(self, losses: Tensor, weights: Weigh) -> Weighed:
        """Run one backward and return squared norms and weighted sums. `.grad` of every parameter stays as it was.

        Args:
            losses: `(n,)`, one loss per example, or a scalar that is their sum.
            weights: asked once for each parameter, in the order in which backward is done with them.

        Raises:
            ConfigurationError, UnsupportedOperation: as `backward`.
            UnsupportedOperation: a parameter was used again after backward seemed to be done with it (in two layers
                that are computed anew with `use_reentrant=True`).
        """
        self._done: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        late = self._derived_from()
        ends = {name: _end(p) for name, p in self._parameters.items() if name not in late}
        handles = [end.register_hook(partial(self._ended, name, weights)) for name, end in ends.items()]
        try:
            rest = self.backward(losses)
        finally:
            for handle in handles:
                handle.remove()
        for name in self._parameters:
            if name not in self._done:
                self._weigh(name, rest, weights)
            elif rest.uses.get(name):
                raise self._used_again(name)
        return Weighed(*({name: self._done[name][i] for name in self._parameters} for i in range(3)))

    def _ended(self, name: str, weights: Weigh, *_: Any) -> None:
        source = self._sources[id(self._parameters[name])]
        mine = [use for found, use in self._uses if found is source]
        self._uses = [pair for pair in self._uses if pair[0] is not source]
        if name in self._done:
            raise self._used_again(name)
        with torch._C.DisableTorchFunction(), torch.no_grad():
            self._weigh(name, PerExample({name: self._parameters[name]}, {name: mine}, self.examples), weights)

    def _weigh(self, name: str, gradients: PerExample, weights: Weigh) -> None:
        own = PerExample({name: self._parameters[name]}, {name: gradients.uses.get(name, ())}, self.examples)
        squares = own.sq_norms()[name]
        given = weights(name, squares)
        self._done[name] = squares, own.weighted_sum({name: given})[name], given

    def _used_again(self, name: str) -> UnsupportedOperation:
        return UnsupportedOperation(
            f"{name} is used again after it was weighed, by layers that are computed anew; set use_reentrant=False"
        )

    def _derived_from(self) -> set[str]:
        """Return the parameters whose uses are known only when those of something derived from them are."""
        waiting = [parent for s in self._sources.values() if isinstance(s, Derived) for parent in s.parents]
        found: set[str] = set()
        while waiting:
            source = waiting.pop()
            waiting += source.parents if isinstance(source, Derived) else ()
            found.add(source.name)
        return found


def _end(parameter: Tensor) -> Any:
    """Return the node at which backward is done with a parameter: the one that would accumulate its gradient."""
    node = parameter.view_as(parameter).grad_fn
    assert node is not None
    return node.next_functions[0][0]
