"""What a private fit refuses of a module and its optimizers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.optim import Optimizer

from dplit.errors import ConfigurationError, PrivacyError


def check_norms(module: nn.Module) -> None:
    """Refuse by name normalisation by statistics of the batch, and layers that keep running statistics or rewrite a table.

    A layer in eval mode that normalises by the statistics it has is a fixed map of each number by itself, and passes.

    Raises:
        PrivacyError: naming the layer.
    """
    for name, layer in module.named_modules():
        if has_fixed_statistics(layer):
            continue
        if isinstance(layer, _BatchNorm):
            raise PrivacyError(
                f"{name} is a {type(layer).__name__}, which mixes the examples of a batch; use GroupNorm or LayerNorm"
                + ("" if layer.running_mean is None else ", or fix its statistics with .eval() before the fit")
            )
        if getattr(layer, "track_running_stats", False):
            raise PrivacyError(
                f"{name} keeps running statistics of the data, without noise; set track_running_stats=False"
            )
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag) and layer.max_norm is not None:
            raise PrivacyError(
                f"{name} rewrites the rows that the records look up, without noise (max_norm={layer.max_norm:g}); leave "
                "max_norm out"
            )


def has_fixed_statistics(layer: nn.Module) -> bool:
    """Whether a layer normalises by statistics that it has and does not change: torch's batch and instance norm in eval mode."""
    known = isinstance(layer, _NormBase) and isinstance(layer, _BatchNorm | _InstanceNorm)
    return known and not layer.training and layer.running_mean is not None


class FixedNorms:
    """Keeps layers in eval mode through a fit that were in eval mode, with their statistics fixed, when it began.

    Args:
        module: of the fit.
    """

    def __init__(self, module: nn.Module) -> None:
        self._layers = [layer for layer in module.modules() if has_fixed_statistics(layer)]

    def hold(self) -> None:
        """Put them back in eval mode, which a call of `train()` on the whole module would have ended."""
        for layer in self._layers:
            if layer.training:
                layer.eval()


def check_optimizers(optimizers: Sequence[Optimizer], module: nn.Module) -> None:
    """Refuse several optimizers, and parameters that the private step does not reach.

    Raises:
        PrivacyError: there is not one optimizer, a parameter has a gradient hook, or the optimizer steps on a parameter
            outside the module.
        ConfigurationError: every parameter is frozen, or all that the optimizer steps on.
    """
    if len(optimizers) != 1:
        raise PrivacyError(f"{len(optimizers)} optimizers: a private step serves one; use parameter groups instead")
    if not any(p.requires_grad for p in module.parameters()):
        raise ConfigurationError("every parameter is frozen, so there is nothing to train; unfreeze some")
    for name, parameter in module.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise PrivacyError(f"{name} has a gradient hook, which a private step would not call; remove it")
    known = {id(p) for p in module.parameters()}
    stepped = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    if any(p.requires_grad and id(p) not in known for p in stepped):
        raise PrivacyError("the optimizer steps on parameters outside the LightningModule; make them part of it")
    if not any(p.requires_grad for p in stepped):
        raise ConfigurationError("the optimizer steps on frozen parameters alone; give it those that are to be trained")
