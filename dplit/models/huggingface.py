"""Hugging Face models: loading them, aligning their batches, and asking their head about one position alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dplit.errors import ConfigurationError
from dplit.hub import pretrained

Batch = dict[str, Tensor]

POSITIONS = ("position_embeddings", "embed_positions", "wpe")
"""What transformers calls a learned table of positions."""


def load(auto_class: Any, name: str, headed: bool = False, attention: str | None = None) -> nn.Module:
    """Load a pretrained model in the default dtype, ready for training.

    Args:
        auto_class: a class of transformers, such as `AutoModel`.
        name: a short name that `dplit.hub.pretrained` knows, a Hugging Face name, or a folder.
        headed: refuse a model whose head was not trained along, so that it would start at random.
        attention: the `attn_implementation` of transformers; None for its own choice.

    Raises:
        ConfigurationError: it cannot be loaded, or has no head of that kind.

    """
    options: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    options |= {"dtype": torch.get_default_dtype(), "output_loading_info": True}
    net, report = pretrained.load(auto_class, name, **options)
    missing = sorted(report["missing_keys"])
    if headed and missing:
        raise ConfigurationError(
            f"model={name!r} holds no {missing[0]}, so the head of {auto_class.__name__} would start at random; "
            "give a model with that head, or use SequenceClassifier"
        )
    loaded: nn.Module = net.train()
    return loaded


def tokenizer_of(name: str) -> Any:
    """Return the tokenizer that comes with a model."""
    from transformers import AutoTokenizer

    return pretrained.load(AutoTokenizer, name)


def inner(net: nn.Module) -> Any:
    """Return the transformers model inside a peft one, or the model itself."""
    get = getattr(net, "get_base_model", None)
    return net if get is None else get()


def without_dropout(net: nn.Module) -> None:
    """Turn off dropout of every kind: layers, and the numbers that functional dropout reads."""
    for module in net.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def checkpointing(net: Any) -> None:
    """Compute activations again in the backward pass, by the name that this transformers has for it."""
    enable = getattr(net, "activation_checkpointing_enable", None) or net.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def check_vocabulary(net: nn.Module, tokenizer: Any) -> None:
    """Refuse a tokenizer whose ids pass the end of the model's table."""
    rows = inner(net).get_input_embeddings().weight.shape[0]
    if tokenizer is not None and max(tokenizer.get_vocab().values()) >= rows:
        raise ConfigurationError(
            f"the tokenizer has ids up to {max(tokenizer.get_vocab().values())}, but the model has {rows} embeddings; "
            "give the data module the tokenizer of the model"
        )


def inputs(net: nn.Module, batch: Batch) -> Batch:
    """Return what the model is called with: the batch with each text moved to the left end of its row.

    Positions then count from the text's first token, whatever side was padded. A row of padding alone attends to its
    first place, as attention to nothing is not a number; its losses must not read the result.

    Raises:
        ConfigurationError: the rows are longer than the model's table of positions.

    """
    ids, mask = to_the_left(batch)
    most = longest(net)
    if most is not None and ids.shape[1] > most:
        raise ConfigurationError(
            f"a batch of {ids.shape[1]} tokens a text does not fit the model's {most} positions; "
            "let the data module truncate at that length"
        )
    seen = torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:]], 1)
    cached = {"use_cache": False} if hasattr(inner(net).config, "use_cache") else {}
    return {"input_ids": ids, "attention_mask": seen, **cached}  # type: ignore[dict-item]


def to_the_left(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return `input_ids` and `attention_mask`, `(b, T)`, with the padding of each row moved behind its tokens."""
    mask = batch["attention_mask"].long()
    order = mask.argsort(dim=1, descending=True, stable=True)
    return batch["input_ids"].gather(1, order), mask.gather(1, order)


def longest(net: nn.Module) -> int | None:
    """Return how many tokens the learned positions reach, or None where positions are computed."""
    for name, module in inner(net).named_modules():
        if name.rpartition(".")[2] in POSITIONS and isinstance(module, nn.Embedding):
            reserved = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
            return int(module.num_embeddings - reserved)
    return None


def logits_at(net: nn.Module, given: Batch, position: Tensor) -> Tensor:
    """Return `(b, V)` logits of the model's head at one position of each row, `(b,)`.

    The head is asked about those positions alone: what the model hands to it is cut down on the way. A model whose
    head cannot be told apart gives `(b, T, V)` logits first.
    """
    with _cut(inner(net), given["input_ids"].shape, position):
        logits: Tensor = net(**given).logits
    return logits[:, 0] if logits.shape[1] == 1 else _picked(logits, position)[:, 0]


@contextmanager
def _cut(net: Any, shape: torch.Size, position: Tensor) -> Iterator[None]:
    body = net.base_model

    def cut(module: nn.Module, args: Any, output: Any) -> Any:
        states = getattr(output, "last_hidden_state", None)
        if states is not None and states.shape[:2] == shape:
            output["last_hidden_state"] = _picked(states, position)
        return output

    hook = None if body is net else body.register_forward_hook(cut)
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


def _picked(states: Tensor, position: Tensor) -> Tensor:
    return states[torch.arange(len(position), device=position.device), position].unsqueeze(1)
