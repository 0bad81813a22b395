"""What a private fit refuses of a module and its optimizers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from dplit.errors import ConfigurationError, PrivacyError


def check_norms(module: nn.Module) -> None:
    """Refuse batch normalisation by name, trainable or not, and layers that keep running statistics.

    Raises:
        PrivacyError: naming the layer.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm):
            if layer.training or layer.affine:
                raise PrivacyError(
                    f"{name} is a {type(layer).__name__}, which mixes the examples of a batch; use GroupNorm or LayerNorm"
                )
        elif getattr(layer, "track_running_stats", False):
            raise PrivacyError(
                f"{name} keeps running statistics of the data, without noise; set track_running_stats=False"
            )


def check_optimizers(optimizers: Sequence[Optimizer], module: nn.Module) -> None:
    """Refuse several optimizers, and parameters that the private step does not reach.

    Raises:
        PrivacyError: there is not one optimizer, a parameter has a gradient hook, or the optimizer steps on a parameter
            outside the module.
        ConfigurationError: every parameter is frozen.
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
