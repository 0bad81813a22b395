"""What a validation or test step must hand over for its examples to be counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dplit.errors import ConfigurationError

EXAMPLE = 'return {"logits": logits, "target": y, "loss": F.cross_entropy(logits, y, reduction="none")}'


class Outcome(NamedTuple):
    """Labels and predictions `(n,)` int64, losses `(n,)` or None, and the number of classes C they are over."""

    label: Tensor
    pred: Tensor
    loss: Tensor | None
    classes: int


def outcome(outputs: Any, step: str, classes: int | None = None) -> Outcome:
    """Read what `step` returned.

    Args:
        outputs: a mapping with "target" `(n,)` and either "logits", `(n, C)` or, binary with threshold 0, `(n,)` or
            `(n, 1)`; or "preds" `(n,)` class ids. "loss" `(n,)` is optional.
        step: the method's name, for messages.
        classes: C, if declared. Otherwise C is the width of the logits; with "preds", the largest id seen, plus one.

    Raises:
        ConfigurationError: anything else was returned, or the logits do not have the declared width.

    """
    if not isinstance(outputs, Mapping) or "target" not in outputs or not ({"logits", "preds"} & outputs.keys()):
        raise ConfigurationError(
            f'{step} returned {_describe(outputs)}; FairnessMonitor reads "logits" or "preds", "target" and, '
            f'optionally, per-example "loss": {EXAMPLE}'
        )
    label = _ids(outputs["target"], "target", step)
    if "logits" in outputs:
        pred, found = _decided(outputs["logits"], step, classes)
    else:
        pred = _ids(outputs["preds"], "preds", step)
        found = classes or _smallest(label, pred)
    return Outcome(label, pred, _losses(outputs.get("loss"), step), found)


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


def _smallest(*ids: Tensor) -> int:
    return max([2, *(int(some.max()) + 1 for some in ids if some.numel())])


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a mapping with keys {', '.join(map(str, value)) or '(none)'}"
    return "nothing" if value is None else f"a {type(value).__name__}"
