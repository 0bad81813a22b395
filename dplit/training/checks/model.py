"""What a private fit refuses of a module, its losses and its optimizers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from dplit.errors import ConfigurationError, PrivacyError


def check_norms(module: nn.Module) -> None:
    """Refuse batch normalisation by name, trainable or not."""
    for name, layer in module.named_modules():
        if getattr(layer, "track_running_stats", False) and not isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise PrivacyError(
                f"{name} keeps running statistics of the data, without noise; set track_running_stats=False"
            )
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.training or layer.affine):
            raise PrivacyError(
                f"{name} is a {type(layer).__name__}, which mixes the examples of a batch; use GroupNorm or LayerNorm"
            )


def check_optimizers(optimizers: list[Optimizer], module: nn.Module | None) -> None:
    """Refuse several optimizers, and parameters that the private step does not reach."""
    if len(optimizers) != 1:
        raise PrivacyError(f"{len(optimizers)} optimizers: a private step serves one; use parameter groups instead")
    if module is not None and not any(p.requires_grad for p in module.parameters()):
        raise ConfigurationError("every parameter is frozen, so there is nothing to train; unfreeze some")
    hooked = [n for n, p in _named(module) if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None)]
    if hooked:
        raise PrivacyError(f"{hooked[0]} has a gradient hook, which a private step would not call; remove it")
    known = {id(p) for p in (module.parameters() if module is not None else ())}
    if any(id(p) not in known for p in _stepped(optimizers)):
        raise PrivacyError("the optimizer steps on parameters outside the LightningModule; make them part of it")


def losses_per_example(loss: Any, size: int, reduction: Literal["mean", "sum"] | None) -> Tensor:
    """Return `(n,)` losses, or the sum a declared reduction stands for."""
    if not isinstance(loss, Tensor):
        raise PrivacyError(
            f"training_step returned {type(loss).__name__}; return losses per example, shape (n,), as a tensor or under 'loss'"
        )
    if loss.shape == (size,):
        return loss
    if loss.dim() == 0 and reduction is not None:
        return loss * size if reduction == "mean" else loss
    if loss.numel() == 1 and loss.dim() == 0:
        raise ConfigurationError(
            "training_step returned a scalar; return losses per example, shape (n,), or say what the scalar is with "
            "DPStrategy(loss_reduction='mean')"
        )
    raise ConfigurationError(
        f"training_step returned a loss of shape {tuple(loss.shape)} for {size} examples; it must be ({size},)"
    )


def _named(module: nn.Module | None) -> Iterable[tuple[str, nn.Parameter]]:
    return () if module is None else module.named_parameters()


def _stepped(optimizers: list[Optimizer]) -> Iterable[Tensor]:
    return (p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"])
