"""The number of examples, or the place of one among them: both change when another is left out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.grads.ownership.corpus.base import FEATURES, coupling, each, net

KIND = "number of examples"


@coupling("losses over the number of examples", KIND)
def over_number(m, b, n):
    return each(m(b["x"]), b["y"]) / len(b["x"])


@coupling("temperature by the number of examples", KIND)
def temperature(m, b, n):
    return each(m(b["x"]) * b["x"].shape[0] ** 0.5, b["y"])


@coupling("odd batches scaled", KIND)
def odd(m, b, n):
    own = each(m(b["x"]), b["y"])
    return own * 2 if n % 2 else own


@coupling("an odd batch loses its last example", KIND, "getitem|cat")
def dropped(m, b, n):
    own = each(m(b["x"][: n // 2 * 2]), b["y"][: n // 2 * 2])
    return torch.cat([own, own.new_zeros(n % 2)])


@coupling("the place in the batch as weight", KIND, "arange|mul|linspace")
def placed(m, b, n):
    return each(m(b["x"]), b["y"]) * torch.arange(1, n + 1)


@coupling(
    "position embeddings by the place in the batch",
    KIND,
    "embedding",
    make=net(places=lambda: nn.Embedding(16, FEATURES)),
)
def positions(m, b, n):
    return each(m(b["x"] + m.places(torch.arange(n))), b["y"])


@coupling(
    "even places through another head", KIND, "getitem|where|arange", make=net(other=lambda: nn.Linear(FEATURES, 3))
)
def alternate(m, b, n):
    even = (torch.arange(n) % 2 == 0)[:, None]
    return each(torch.where(even, m(b["x"]), m.other(b["x"])), b["y"])


@coupling("a label that is the place", KIND, "cross_entropy|nll_loss")
def instance_labels(m, b, n):
    return each(F.pad(m(b["x"]), (0, n)), torch.arange(n))


@coupling("warm-up by the mean's divisor", KIND)
def averaged(m, b, n):
    share = torch.full((n,), 1.0 / n)
    return share * each(m(b["x"]), b["y"])


@coupling("a penalty of all parameters shared out", KIND)
def shared_out(m, b, n):
    return each(m(b["x"]), b["y"]) + sum(p.square().sum() for p in m.parameters()) / n
