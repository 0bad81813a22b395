"""Hugging Face models: loading them, aligning their batches, and computing the head's logits at one position only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias, cast

import torch
from torch import Tensor, nn
from typing_extensions import TypeIs

from dplit.errors import ConfigurationError
from dplit.hub import pretrained
from dplit.models.base import Batch

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.utils.generic import ModelOutput

    from dplit.hub.pretrained import AutoClass

    Net: TypeAlias = PreTrainedModel | PeftModel
    """A model of transformers, or one that peft has wrapped."""

POSITION_TABLES = ("position_embeddings", "embed_positions", "wpe")
"""The names that transformers gives to a learned table of positions."""


def load(auto_class: AutoClass, name: str, headed: bool = False, attention: str | None = None) -> PreTrainedModel:
    """Load a pretrained model in the default dtype, in training mode.

    Args:
        auto_class: a class of transformers, such as `AutoModel`.
        name: a short name that `dplit.hub.pretrained` knows, a Hugging Face name, or a folder.
        headed: refuse a model without a pretrained head, because the head would start at random.
        attention: the `attn_implementation` of transformers; None leaves the choice to it.

    Raises:
        ConfigurationError: the model cannot be loaded, or has no such head.

    """
    options: dict[str, object] = {} if attention is None else {"attn_implementation": attention}
    options |= {"dtype": torch.get_default_dtype(), "output_loading_info": True}
    net: PreTrainedModel
    net, report = pretrained.load(auto_class, name, **options)
    missing = sorted(report["missing_keys"])
    if headed and missing:
        raise ConfigurationError(
            f"model={name!r} has no {missing[0]}, so the head of {auto_class.__name__} would start at random; "
            "give a model with that head, or use SequenceClassifier"
        )
    net.train()
    return net


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model.

    Raises:
        ConfigurationError: it cannot be loaded.

    """
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = pretrained.load(AutoTokenizer, name)
    return tokenizer


def has_adapter(net: Net) -> TypeIs[PeftModel]:
    """Return whether peft has wrapped the model; peft itself need not be installed."""
    return hasattr(net, "get_base_model")


def without_adapter(net: Net) -> PreTrainedModel:
    """Return the transformers model inside a peft model, or the model itself."""
    return cast("PreTrainedModel", net.get_base_model()) if has_adapter(net) else net


def disable_dropout(net: nn.Module) -> None:
    """Turn off all dropout: in dropout layers, and in the attributes that functional dropout reads."""
    for module in net.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def enable_checkpointing(net: PreTrainedModel) -> None:
    """Compute activations a second time in the backward pass; the method's name depends on the version of transformers."""
    enable = getattr(net, "activation_checkpointing_enable", None) or net.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def check_vocabulary(net: Net, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Refuse a tokenizer with ids that the model's embedding table does not have.

    Raises:
        ConfigurationError: the largest id is past the end of the table.

    """
    if tokenizer is None:
        return
    rows = cast(nn.Embedding, without_adapter(net).get_input_embeddings()).weight.shape[0]
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise ConfigurationError(
            f"the tokenizer has ids up to {largest}, but the model has {rows} embeddings; "
            "give the data module the tokenizer of the model"
        )


def model_inputs(net: Net, batch: Batch) -> dict[str, Tensor | bool]:
    """Return the arguments of the model's `forward` for a batch, with each text moved to the left end of its row.

    Positions are then counted from the first token of the text, whichever side was padded. A row that is padding alone
    attends to its first place, because attention to nothing gives NaN; its losses must not use the result.

    Raises:
        ConfigurationError: the rows are longer than the model's table of positions.

    """
    ids, mask = left_aligned(batch)
    limit = max_positions(net)
    if limit is not None and ids.shape[1] > limit:
        raise ConfigurationError(
            f"a batch of {ids.shape[1]} tokens per text does not fit the model's {limit} positions; "
            f"set max_length={limit} of the data module"
        )
    attended = torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:]], 1)
    no_cache = {"use_cache": False} if hasattr(without_adapter(net).config, "use_cache") else {}
    return {"input_ids": ids, "attention_mask": attended, **no_cache}


def left_aligned(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return `input_ids` and `attention_mask`, both `(b, T)`, with the padding of each row moved behind its tokens."""
    mask = batch["attention_mask"].long()
    order = mask.argsort(dim=1, descending=True, stable=True)
    return batch["input_ids"].gather(1, order), mask.gather(1, order)


def max_positions(net: Net) -> int | None:
    """Return the longest text that the learned position table allows, in tokens; None where positions are computed."""
    for name, module in without_adapter(net).named_modules():
        if name.rpartition(".")[2] in POSITION_TABLES and isinstance(module, nn.Embedding):
            reserved = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
            return int(module.num_embeddings - reserved)
    return None


def logits_at(net: Net, batch: Batch, position: Tensor) -> Tensor:
    """Return `(b, V)` logits of the model's head at one position of each text.

    The hidden states are reduced to those positions before the head, so that no `(b, T, V)` logits are computed. A model
    whose head cannot be separated from its body computes them and picks the positions afterwards.

    Args:
        net: a model with a language-model head over V tokens.
        batch: `input_ids` and `attention_mask`, `(b, T)`.
        position: `(b,)` int64, counted from the first token of each text.

    """
    with _states_at(without_adapter(net), batch["input_ids"].shape, position):
        logits: Tensor = net(**model_inputs(net, batch)).logits
    return logits[:, 0] if logits.shape[1] == 1 else _pick(logits, position)[:, 0]


@contextmanager
def _states_at(net: PreTrainedModel, shape: torch.Size, position: Tensor) -> Iterator[None]:
    """While active, the body of the model returns its hidden states at `position` only."""
    body = net.base_model

    def reduce(module: nn.Module, arguments: tuple[object, ...], output: ModelOutput) -> ModelOutput:
        states = getattr(output, "last_hidden_state", None)
        if states is not None and states.shape[:2] == shape:
            output["last_hidden_state"] = _pick(states, position)
        return output

    hook = None if body is net else body.register_forward_hook(reduce)
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


def _pick(states: Tensor, position: Tensor) -> Tensor:
    """Return `(b, 1, d)` of `(b, T, d)`."""
    return states[torch.arange(len(position), device=position.device), position].unsqueeze(1)
