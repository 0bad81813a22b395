"""What a validation or test step must hand over for its examples to be counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dplit.errors import ConfigurationError

EXAMPLE = 'return {"logits": logits, "target": y, "loss": F.cross_entropy(logits, y, reduction="none")}'


class Outcome(NamedTuple):
    """What one batch of n examples came to.

    Attributes:
        label: `(n,)` int64; None where the step returned a loss alone.
        pred: `(n,)` int64, or None likewise.
        loss: `(n,)`, or None.
        tokens: `(n,)` int64, how many tokens each loss is a mean over, or None.
        classes: C, the number of classes that labels and predictions are over; 2 for a loss alone.

    """

    label: Tensor | None
    pred: Tensor | None
    loss: Tensor | None
    tokens: Tensor | None
    classes: int


def outcome(outputs: Any, step: str, classes: int | None = None) -> Outcome:
    """Read what `step` returned.

    Args:
        outputs: a mapping with "target" `(n,)` and either "logits", `(n, C)` or, binary with threshold 0, `(n,)` or
            `(n, 1)`; or "preds" `(n,)` class ids. "loss" `(n,)` is optional. Or a mapping with "loss" and nothing of
            the others, as of a language model. Beside a loss that is a mean over tokens, "tokens" `(n,)` says how many.
        step: the method's name, for messages.
        classes: C, if declared. Otherwise C is the width of the logits; with "preds", the largest id seen, plus one.

    Raises:
        ConfigurationError: anything else was returned, or the logits do not have the declared width.

    """
    _check_keys(outputs, step)
    loss = _losses(outputs.get("loss"), step)
    tokens = _tokens(outputs.get("tokens"), step)
    if outputs.get("target") is None:
        return Outcome(None, None, loss, tokens, 2)
    label = _ids(outputs["target"], "target", step)
    if outputs.get("logits") is not None:
        pred, found = _decided(outputs["logits"], step, classes)
    else:
        pred = _ids(outputs["preds"], "preds", step)
        found = classes or _smallest(label, pred)
    return Outcome(label, pred, loss, tokens, found)


def _check_keys(outputs: Any, step: str) -> None:
    keys = {key for key, value in outputs.items() if value is not None} if isinstance(outputs, Mapping) else set()
    decided = keys & {"logits", "preds"}
    alone = "loss" in keys and not decided and "target" not in keys
    if not alone and not ("target" in keys and decided):
        raise ConfigurationError(
            f'{step} returned {_describe(outputs)}; figures by group need "target" with "logits" or "preds" and, '
            f'optionally, per-example "loss", or that "loss" alone: {EXAMPLE}'
        )
    if "tokens" in keys and "loss" not in keys:
        raise ConfigurationError(f'{step} returned tokens without a loss over them; return "loss" too, one per text')


def _decided(logits: Any, step: str, classes: int | None) -> tuple[Tensor, int]:
    if not isinstance(logits, Tensor) or logits.dim() not in (1, 2) or not logits.is_floating_point():
        raise ConfigurationError(
            f"{step} returned logits as {_describe(logits)}; they must be floating point, (n, C) or (n,): {EXAMPLE}"
        )
    binary = logits.dim() == 1 or logits.shape[1] == 1
    found = 2 if binary else logits.shape[1]
    if classes not in (None, found):
        raise ConfigurationError(f"{step} returned logits over {found} classes, classes={classes}; leave classes out")
    return ((logits.flatten() > 0).long() if binary else logits.argmax(1)), found


def _ids(value: Any, what: str, step: str) -> Tensor:
    wrong = f"{step} returned {what} as {_describe(value)}; class ids are whole numbers of shape (n,): {EXAMPLE}"
    if not isinstance(value, Tensor) or value.dim() not in (1, 2) or value.numel() != value.shape[0]:
        raise ConfigurationError(wrong)
    ids = value.flatten().to(torch.int64)
    if value.is_complex() or (value.is_floating_point() and not bool((value.flatten() == ids).all())):
        raise ConfigurationError(wrong)
    return ids


def _losses(loss: Any, step: str) -> Tensor | None:
    if loss is None or (isinstance(loss, Tensor) and loss.dim() == 1):
        return loss
    raise ConfigurationError(
        f'{step} returned loss as {_describe(loss)}; a group\'s loss needs one per example, so use reduction="none" '
        f"or leave it out: {EXAMPLE}"
    )


def _tokens(tokens: Any, step: str) -> Tensor | None:
    if tokens is None:
        return None
    if not isinstance(tokens, Tensor) or not _whole(tokens) or tokens.dim() != 1 or bool((tokens < 0).any()):
        raise ConfigurationError(
            f"{step} returned tokens as {_describe(tokens)}; they are whole numbers of at least 0, of shape (n,): how many "
            "tokens each text's loss is a mean over"
        )
    return tokens.long()


def _whole(values: Tensor) -> bool:
    return not values.is_floating_point() and not values.is_complex()


def _smallest(*ids: Tensor) -> int:
    return max([2, *(int(some.max()) + 1 for some in ids if some.numel())])


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a mapping with keys {', '.join(map(str, value)) or '(none)'}"
    return "nothing" if value is None else f"a {type(value).__name__}"
