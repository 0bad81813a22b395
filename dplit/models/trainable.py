"""Which parameters of a pretrained model are trained: all, some layers, biases, or low-rank additions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from dplit import validation
from dplit.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dplit.models.huggingface import Net

TUNINGS = ("full", "layers", "bias", "lora", "head")
UNUSED = "pooler"
"""A head on the first token that encoders have and no model here uses; training it would only add noise to it."""


class Tuning(NamedTuple):
    """Which parameters are trained; the fields are described in `dplit.models.finetuning.FineTuned`."""

    how: str = "full"
    layers: int | Sequence[str] | None = None
    lora_rank: int = 8
    lora_alpha: int = 16
    lora_targets: str | Sequence[str] = "all-linear"

    def check(self, new_head: bool) -> None:
        """Refuse values out of range.

        Args:
            new_head: whether the model gets a new head, which `head` can train.

        Raises:
            ConfigurationError: naming the argument.

        """
        validation.choice("tuning", self.how, TUNINGS)
        if self.how == "head" and not new_head:
            raise ConfigurationError("tuning='head' needs a new head, and this model keeps its own; choose another")
        if (self.how == "layers") != (self.layers is not None):
            raise ConfigurationError(
                f"tuning={self.how!r} with layers={self.layers!r} does not say what is trained; "
                "give tuning='layers' with a number of last layers or a list of prefixes"
            )
        if isinstance(self.layers, int) and self.layers < 1:
            raise ConfigurationError(f"layers={self.layers} leaves nothing to train; give at least 1")
        if self.lora_rank < 1 or not self.lora_alpha > 0:
            raise ConfigurationError(
                f"lora_rank={self.lora_rank} with lora_alpha={self.lora_alpha} adds nothing; give a rank of at least 1 "
                "and an alpha above 0"
            )


def apply_tuning(net: PreTrainedModel, tuning: Tuning) -> Net:
    """Freeze the parameters that are not trained, and return the model; with LoRA, wrapped by peft.

    Raises:
        ConfigurationError: the model has no such layer, no bias, or nothing that LoRA could adapt.

    """
    if tuning.how == "lora":
        return _with_lora(net, tuning)
    if tuning.how == "head":
        return net.requires_grad_(False)
    is_trained = _selector(net, tuning)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(UNUSED not in name.split(".") and is_trained(name))
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise ConfigurationError(
            f"tuning={tuning.how!r} finds nothing to train in {type(net).__name__}; choose another"
        )
    return net


def _selector(net: PreTrainedModel, tuning: Tuning) -> Callable[[str], bool]:
    """Return the function that says of a parameter name whether it is trained."""
    if tuning.how == "bias":
        return lambda name: name.endswith("bias")
    if tuning.layers is None:
        return lambda name: True
    layers = tuning.layers
    prefixes = _last_blocks(net, layers) if isinstance(layers, int) else _checked_prefixes(net, layers)
    return lambda name: any(_is_inside(name, prefix) for prefix in prefixes)


def _last_blocks(net: PreTrainedModel, count: int) -> list[str]:
    """Return the names of the last blocks, found as the list of modules that is as long as the config's number of layers."""
    total = net.config.num_hidden_layers
    lists = [name for name, module in net.named_modules() if isinstance(module, nn.ModuleList) and len(module) == total]
    if not lists or count > total:
        raise ConfigurationError(f"layers={count} of {type(net).__name__}, which has {total}; name them by prefix")
    return [f"{lists[0]}.{i}" for i in range(total - count, total)]


def _checked_prefixes(net: nn.Module, prefixes: Sequence[str]) -> list[str]:
    names = [name for name, _ in net.named_parameters()]
    for prefix in prefixes:
        if not any(_is_inside(name, prefix) for name in names):
            modules = [name for name, _ in net.named_modules() if name]
            near = get_close_matches(prefix, modules, n=3, cutoff=0.3)
            raise ConfigurationError(f"layers={prefix!r} is the start of no parameter name; near: {', '.join(near)}")
    return list(prefixes)


def _is_inside(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix.rstrip(".") + ".")


def _with_lora(net: PreTrainedModel, tuning: Tuning) -> Net:
    import peft

    targets = tuning.lora_targets if isinstance(tuning.lora_targets, str) else list(tuning.lora_targets)
    has_unused = any(UNUSED in name.split(".") for name, _ in net.named_modules())
    config = peft.LoraConfig(
        r=tuning.lora_rank,
        lora_alpha=tuning.lora_alpha,
        target_modules=targets,
        exclude_modules=rf"(.*\.)?{UNUSED}(\..*)?" if has_unused else None,
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to False", UserWarning)
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            wrapped: Net = peft.get_peft_model(net, config)
    except ValueError as error:
        line = str(error).partition("\n")[0][:200]
        raise ConfigurationError(f"lora_targets={targets!r} cannot be adapted ({line}); name linear layers") from error
    return wrapped
