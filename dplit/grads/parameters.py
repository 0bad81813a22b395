"""Which parameters of a module are trained, and by which names."""

from __future__ import annotations

from torch import nn


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return `{name: parameter}` of the parameters that want a gradient, in the order of `named_parameters`.

    A parameter that several modules share is listed once, under the first of its names.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, bias=False))
        >>> model[1].weight = model[0].weight
        >>> list(trainable_parameters(model))
        ['0.weight', '0.bias']
    """
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
