"""Which class a model predicts, and that it predicts none where its logits say nothing."""

from __future__ import annotations

from torch import Tensor

NO_CLASS = -1
"""Stands for the class of an example without a prediction."""


def predicted_classes(logits: Tensor) -> Tensor:
    """Return `(n,)` int64: the class of the largest logit, or `NO_CLASS` where no logit is the largest.

    That is where one is NaN, or where several are infinite together at the largest: the softmax of all these is NaN. Taken by
    `argmax`, such a row would count as class 0, and a model that has diverged as right about all of that class.

    Args:
        logits: `(n, C)`; or `(n,)` or `(n, 1)` for two classes, of which class 1 is predicted above 0.

    >>> import torch
    >>> predicted_classes(torch.tensor([[0.1, 0.9], [torch.nan, 2.0], [torch.inf, torch.inf], [-torch.inf, -9.0]])).tolist()
    [1, -1, -1, 1]
    >>> predicted_classes(torch.tensor([0.5, -torch.inf, torch.nan])).tolist()
    [1, 0, -1]
    """
    if logits.dim() == 1 or logits.shape[1] == 1:
        return (logits.flatten() > 0).long().masked_fill(logits.flatten().isnan(), NO_CLASS)
    largest, classes = logits.max(1)
    several = (logits == largest[:, None]).sum(1) > 1
    return classes.masked_fill(largest.isnan() | (largest.isinf() & several), NO_CLASS)
