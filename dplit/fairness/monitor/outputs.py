"""What a validation or test step must return for its examples to be counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dplit.errors import ConfigurationError
from dplit.groups import described
from dplit.predictions import NO_CLASS, predicted_classes

EXAMPLE = 'return {"logits": logits, "target": y, "loss": F.cross_entropy(logits, y, reduction="none")}'


class Outcome(NamedTuple):
    """Labels, predictions and losses of one batch of n examples.

    Attributes:
        label: `(n,)` int64; None where the step returned a loss alone.
        pred: `(n,)` int64, -1 where the model predicts nothing; or None likewise.
        loss: `(n,)`, or None.
        tokens: `(n,)` int64, how many tokens each loss is a mean over, or None.
        classes: C, the number of classes that labels and predictions are over; 2 for a loss alone.

    """

    label: Tensor | None
    pred: Tensor | None
    loss: Tensor | None
    tokens: Tensor | None
    classes: int


def outcome(outputs: object, step: str, classes: int | None = None) -> Outcome:
    """Read what `step` returned.

    Args:
        outputs: a mapping with "target" `(n,)` and either "logits", `(n, C)` or, binary with threshold 0, `(n,)` or
            `(n, 1)`; or "preds" `(n,)` class ids. "loss" `(n,)` is optional. Or a mapping with "loss" and none of the
            others, as a language model returns. Beside a loss that is a mean over tokens, "tokens" `(n,)` says over how many.
        step: the method's name, for messages.
        classes: C, if declared. Otherwise C is the width of the logits; with "preds", the largest id seen, plus one.

    Raises:
        ConfigurationError: anything else was returned, or the logits do not have the declared width.

    A row of logits that are not numbers predicts nothing; so does a NaN among "preds", and an id whose loss is NaN.

    >>> outcome({"logits": torch.tensor([[0.1, 0.9]]), "target": torch.tensor([1])}, "validation_step").pred
    tensor([1])
    """
    outputs = _checked_keys(outputs, step)
    loss = _losses(outputs.get("loss"), step)
    tokens = _tokens(outputs.get("tokens"), step)
    if outputs.get("target") is None:
        return Outcome(None, None, loss, tokens, 2)
    label = _class_ids(outputs["target"], "target", step)
    if outputs.get("logits") is not None:
        pred, width = _predicted(outputs["logits"], step, classes)
        return Outcome(label, pred, loss, tokens, width)
    pred = _given_predictions(outputs["preds"], loss, step)
    return Outcome(label, pred, loss, tokens, classes or _smallest_classes(label, pred))


def _checked_keys(outputs: object, step: str) -> Mapping[object, object]:
    """Return the mapping that `step` returned, with keys that go together."""
    keys = {key for key, value in outputs.items() if value is not None} if isinstance(outputs, Mapping) else set()
    predictions = keys & {"logits", "preds"}
    loss_alone = "loss" in keys and not predictions and "target" not in keys
    if not isinstance(outputs, Mapping) or not (loss_alone or ("target" in keys and predictions)):
        raise ConfigurationError(
            f'{step} returned {described(outputs)}; figures by group need "target" with "logits" or "preds" and, '
            f'optionally, per-example "loss", or that "loss" alone: {EXAMPLE}'
        )
    if "tokens" in keys and "loss" not in keys:
        raise ConfigurationError(f'{step} returned tokens without a loss over them; return "loss" too, one per text')
    return outputs


def _predicted(logits: object, step: str, classes: int | None) -> tuple[Tensor, int]:
    """Return the `(n,)` predicted classes and the number of classes."""
    if not isinstance(logits, Tensor) or logits.dim() not in (1, 2) or not logits.is_floating_point():
        raise ConfigurationError(
            f"{step} returned logits as {described(logits)}; they must be floating point, (n, C) or (n,): {EXAMPLE}"
        )
    binary = logits.dim() == 1 or logits.shape[1] == 1
    width = 2 if binary else logits.shape[1]
    if classes not in (None, width):
        raise ConfigurationError(f"{step} returned logits over {width} classes, classes={classes}; leave classes out")
    return predicted_classes(logits), width


def _given_predictions(preds: object, loss: Tensor | None, step: str) -> Tensor:
    """Return the `(n,)` ids that the step gave, `NO_CLASS` where they or their losses are NaN."""
    missing = preds.isnan() if isinstance(preds, Tensor) and preds.is_floating_point() else None
    ids = _class_ids(preds if missing is None else preds.masked_fill(missing, 0), "preds", step)  # type: ignore[attr-defined]
    if ids.numel() and int(ids.min()) < 0:
        raise ConfigurationError(f"{step} returned the prediction {int(ids.min())}; class ids are 0 or more: {EXAMPLE}")
    ids = ids if missing is None else ids.masked_fill(missing.flatten(), NO_CLASS)
    return ids.masked_fill(loss.isnan(), NO_CLASS) if loss is not None and loss.shape == ids.shape else ids


def _class_ids(value: object, what: str, step: str) -> Tensor:
    message = f"{step} returned {what} as {described(value)}; class ids are whole numbers of shape (n,): {EXAMPLE}"
    if not isinstance(value, Tensor) or value.dim() not in (1, 2) or value.numel() != value.shape[0]:
        raise ConfigurationError(message)
    ids = value.flatten().to(torch.int64)
    if value.is_complex() or (value.is_floating_point() and not bool((value.flatten() == ids).all())):
        raise ConfigurationError(message)
    return ids


def _losses(loss: object, step: str) -> Tensor | None:
    if loss is None:
        return None
    if isinstance(loss, Tensor) and loss.dim() == 1:
        return loss
    raise ConfigurationError(
        f'{step} returned loss as {described(loss)}; a group\'s loss needs one per example, so use reduction="none" '
        f"or leave it out: {EXAMPLE}"
    )


def _tokens(tokens: object, step: str) -> Tensor | None:
    if tokens is None:
        return None
    if not isinstance(tokens, Tensor) or not _whole(tokens) or tokens.dim() != 1 or bool((tokens < 0).any()):
        raise ConfigurationError(
            f"{step} returned tokens as {described(tokens)}; they are whole numbers of at least 0, of shape (n,): how many "
            "tokens each text's loss is a mean over"
        )
    return tokens.long()


def _whole(values: Tensor) -> bool:
    return not values.is_floating_point() and not values.is_complex()


def _smallest_classes(label: Tensor, pred: Tensor) -> int:
    """Return the smallest number of classes, at least 2, that all ids fit into."""
    return max([2, *(int(ids.max()) + 1 for ids in (label, pred) if ids.numel())])
