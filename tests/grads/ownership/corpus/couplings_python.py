"""Values of several examples that Python looks at, and discrete places in which a dependence hides."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.grads.ownership.corpus.base import (
    CLASSES,
    FEATURES,
    WIDTH,
    Batch,
    coupling,
    each,
    grouped,
    net,
    reader,
    series,
    tokens,
    vectors,
)

READ, HIDDEN = "Python reads", "discrete"


def larger(scale: float, at: int = 1, n: int = 4):
    """Return a witness: example `at` as drawn, and `scale` times it."""

    def witness() -> tuple[Batch, Batch]:
        before = vectors(n, torch.Generator().manual_seed(3))
        x = before["x"].clone()
        x[at] *= scale
        return before, {**before, "x": x}

    return witness


@coupling("a guard that drops a batch with a very large loss", READ, "__bool__", witness=larger(1e4))
def guarded(m, b, n):
    own = F.cross_entropy(m.head(m.layer(b["x"])), b["y"], reduction="none")
    return own * 0 if own.max() > 20 else own


@coupling("a loop until the norm is small", READ, "__bool__", witness=larger(20))
def halved(m, b, n):
    h = m.layer(b["x"])
    while h.norm() > 20:
        h = h / 2
    return each(m.head(h), b["y"])


@coupling("losses sorted in Python", READ, "tolist|__iter__|unbind|__bool__|__lt__|lt")
def sorted_losses(m, b, n):
    return torch.stack(sorted(each(m(b["x"]), b["y"]).unbind()))


@coupling("the mean as a Python number", READ, "item")
def scaled(m, b, n):
    own = each(m(b["x"]), b["y"])
    return own / own.mean().item()


@coupling("the standard deviation as a float", READ, "__float__|item")
def deviated(m, b, n):
    return each(m(b["x"] / (1.0 + float(b["x"].std()))), b["y"])


@coupling("tolist and a tensor built anew", READ, "tolist")
def rebuilt(m, b, n):
    columns = zip(*b["x"].tolist(), strict=True)
    return each(m(b["x"] - torch.tensor([sum(c) / n for c in columns])), b["y"])


@coupling("numpy and back", READ, "numpy")
def through_numpy(m, b, n):
    return each(m(b["x"] - torch.from_numpy(b["x"].numpy().mean(0))), b["y"])


@coupling("np.asarray", READ, "__array__|numpy")
def as_array(m, b, n):
    return each(m(b["x"] * float(np.asarray(b["x"]).std())), b["y"])


@coupling("detach, numpy, quantile", READ, "numpy")
def numpy_quantile(m, b, n):
    own = each(m(b["x"]), b["y"])
    return own * torch.from_numpy(
        np.less_equal(own.detach().numpy(), np.quantile(own.detach().numpy(), 0.5)).astype("float64")
    )


@coupling("the longest length as a slice", READ, "__index__|__int__|item", batch=tokens, make=reader())
def sliced(m, b, n):
    longest = int(b["lengths"].max())
    return each(m.head(m.table(b["ids"][:, :longest]).mean(1)), b["y"])


@coupling("the longest length as an index", READ, "__index__|getitem|item", batch=tokens, make=reader())
def indexed(m, b, n):
    return each(m.head(m.table(b["ids"][:, : b["lengths"].max()]).mean(1)), b["y"])


@coupling("a mask as wide as the longest", READ, "item", batch=tokens, make=reader())
def wide(m, b, n):
    mask = torch.arange(b["lengths"].max().item())[None] < b["lengths"][:, None]
    return each(m.head(m.table(b["ids"][:, : mask.shape[1]]).mean(1)), b["y"])


@coupling("padded packed sequence as wide as the longest", READ, "pad_packed|_pad_packed_sequence", batch=tokens,
          make=reader(rnn=lambda: nn.GRU(WIDTH, WIDTH, batch_first=True)))  # fmt: skip
def packed(m, b, n):
    rows = nn.utils.rnn.pack_padded_sequence(m.table(b["ids"]), b["lengths"], True, enforce_sorted=False)
    out, _ = nn.utils.rnn.pad_packed_sequence(m.rnn(rows)[0], batch_first=True)
    return each(m.head(out.mean(1)), b["y"])


@coupling("any NaN", READ, "__bool__", witness=lambda: nan_row())
def any_nan(m, b, n):
    own = each(m(b["x"]), b["y"])
    return torch.zeros_like(own) * m.head.bias.sum() if torch.isnan(own).any() else own


def nan_row() -> tuple[Batch, Batch]:
    before = vectors(4, torch.Generator().manual_seed(0))
    return before, {**before, "x": before["x"].index_fill(0, torch.tensor([0]), torch.nan)}


@coupling("torch.equal", READ, "equal", witness=lambda: one_label())
def all_alike(m, b, n):
    own = each(m(b["x"]), b["y"])
    return own * 2 if torch.equal(b["y"], b["y"][:1].expand(n)) else own


@coupling("torch.allclose", READ, "allclose", witness=larger(1e5))
def close(m, b, n):
    h = m.layer(b["x"])
    return each(m.head(h if torch.allclose(h, torch.zeros_like(h), atol=1e4) else h * 0.5), b["y"])


def one_label() -> tuple[Batch, Batch]:
    before = vectors(4, torch.Generator().manual_seed(0))
    before["y"].fill_(1)
    return before, {**before, "y": torch.tensor([1, 1, 0, 1])}


@coupling("how many labels there are, by a set", READ, "tolist")
def label_set(m, b, n):
    return each(m(b["x"]), b["y"]) / len(set(b["y"].tolist()))


@coupling("labels in a dictionary of rows", READ, "tolist|item|__int__")
def first_of_class(m, b, n):
    first: dict[int, Tensor] = {}
    h = m.hidden(b["x"])
    for row, k in zip(h, b["y"].tolist(), strict=True):
        first.setdefault(k, row)
    return each(m.head(h - torch.stack([first[k] for k in b["y"].tolist()])), b["y"])


@coupling("a seed taken from the data", READ, "item|__int__")
def seeded(m, b, n):
    noise = torch.randn(n, FEATURES, generator=torch.Generator().manual_seed(int(b["y"].sum())))
    return each(m(b["x"] + noise), b["y"])


@coupling("random draws whose number depends on labels", READ, "__int__|sum")
def counted_draws(m, b, n):
    x = b["x"].clone()
    torch.randn(int((b["y"] == 0).sum()) + 1)
    return each(m(x + torch.randn(n, FEATURES)), b["y"])


@coupling("hash of the bytes", READ, "numpy")
def hashed(m, b, n):
    return each(m(b["x"]), b["y"]) * (1 + sum(b["y"].numpy().tobytes()) % 7)


@coupling("math.fsum over tensors", READ, "__float__")
def summed(m, b, n):
    return each(m(b["x"]), b["y"]) * math.fsum(b["x"][:, 0])


@coupling("max of a tensor by Python", READ, "__bool__|unbind|__iter__")
def python_max(m, b, n):
    own = each(m(b["x"]), b["y"])
    return own / max(own).detach()


@coupling("a shape that depends on the data", HIDDEN, "unique")
def uniques(m, b, n):
    return each(m(b["x"]), b["y"]) / len(b["y"].unique())


@coupling("the inverse of unique", HIDDEN, "unique")
def inverse(m, b, n):
    return each(m(b["x"]), b["y"].unique(return_inverse=True)[1])


@coupling("consecutive uniques", HIDDEN, "unique_consecutive")
def consecutive(m, b, n):
    return each(m(b["x"]), torch.unique_consecutive(b["y"], return_inverse=True)[1] % CLASSES)


@coupling("rows of nonzero", HIDDEN, "nonzero")
def nonzero(m, b, n):
    chosen = (b["y"] > 0).nonzero().flatten()
    where = torch.zeros(n, dtype=torch.long).index_copy(0, chosen, torch.arange(len(chosen)))
    return each(m(b["x"] + where[:, None]), b["y"])


@coupling("a boolean index, then positions", HIDDEN, "getitem")
def positions(m, b, n):
    chosen = b["y"] > 0
    h = m.hidden(b["x"])
    out = h.clone()
    out[chosen] = h[chosen] + torch.arange(int(chosen.sum()))[:, None]
    return each(m.head(out), b["y"])


@coupling("the number of chosen rows as a divisor", HIDDEN, "getitem|masked_select")
def chosen(m, b, n):
    return each(m(b["x"]), b["y"]) / (1 + b["x"][b["y"] == 1].shape[0])


@coupling("masked_select's length", HIDDEN, "masked_select")
def selected(m, b, n):
    return each(m(b["x"]), b["y"]) / (1 + b["x"].masked_select(b["x"] > 0).numel())


@coupling("the parity of a count of labels", HIDDEN, "sum", source="the issue: parities")
def parity(m, b, n):
    return each(m(b["x"]), b["y"]) * (1 + (b["y"] == 1).sum() % 2)


@coupling("a count of labels above a limit", HIDDEN, "sum", witness=lambda: fours())
def above(m, b, n):
    return torch.where((b["y"] == 2).sum() > 3, -1.0, 1.0) * each(m(b["x"]), b["y"])


def fours() -> tuple[Batch, Batch]:
    before = vectors(5, torch.Generator().manual_seed(0))
    before["y"].copy_(torch.tensor([2, 2, 0, 2, 1]))
    return before, {**before, "y": torch.tensor([2, 2, 2, 2, 1])}


@coupling("exclusive or of bits", HIDDEN, "xor|cumsum|__xor__|logical_xor")
def xored(m, b, n):
    bits = b["y"] == 1
    total = bits[0]
    for k in range(1, n):
        total = torch.logical_xor(total, bits[k])
    return each(m(b["x"]), b["y"]) * total.where(total, total.logical_not()).logical_and(total).add(1)


@coupling("bits packed in one integer", HIDDEN, "sum")
def packed_bits(m, b, n):
    return each(m(b["x"]), b["y"]) * (1 + ((b["y"] == 1).long() << torch.arange(n)).sum() % 5)


@coupling("the argmax over the batch", HIDDEN, "argmax")
def argmax(m, b, n):
    return each(m(b["x"]), b["y"]) * (1 + F.one_hot(b["x"][:, 0].argmax(), n))


@coupling("isin", HIDDEN, "isin")
def isin(m, b, n):
    return each(m(b["x"]), b["y"]) * (1 + torch.isin(torch.arange(n) % CLASSES, b["y"][-1:]))


@coupling("searchsorted in the batch's own values", HIDDEN, "searchsorted|sort")
def searched(m, b, n):
    return each(m(b["x"]), b["y"]) * (1 + torch.searchsorted(b["x"][:, 0].sort().values, b["x"][:, 0].contiguous()))


@coupling("bucketize with limits of the batch", HIDDEN, "bucketize|quantile")
def bucketed(m, b, n):
    return each(m(b["x"]), b["y"]) * (
        1 + torch.bucketize(b["x"][:, 0].contiguous(), b["x"][:, 0].quantile(torch.tensor([0.5])))
    )


@coupling("histogram over the batch's own range", HIDDEN, "histc|min|max")
def ranged(m, b, n):
    return each(m(b["x"]), b["y"]) * (1 + torch.histc(b["x"][:, 0], 3)[0])


@coupling("a count by any", HIDDEN, "any")
def any_label(m, b, n):
    return each(m(b["x"]), b["y"]) * torch.where((b["y"] == 2).any(), 2, 1)


@coupling("all", HIDDEN, "all")
def all_positive(m, b, n):
    return each(m(b["x"]), b["y"]) * torch.where((b["x"][:, 0] > -0.5).all(), 2, 1)


@coupling("cumsum of a mask with a capacity", HIDDEN, "cumsum", source="Switch, Fedus et al. 2021, arXiv:2101.03961")
def capacity(m, b, n):
    kept = (b["y"] == 1).cumsum(0) <= 1
    return each(m(b["x"]), b["y"]) * kept


@coupling("draws without replacement weighted by losses", HIDDEN, "multinomial")
def drawn(m, b, n):
    own = each(m(b["x"]), b["y"])
    return own * (1 + torch.zeros(n).index_fill(0, own.detach().multinomial(1), 1.0))


@coupling(
    "a maximum in the index of a table", HIDDEN, "max", batch=grouped, make=net(table=lambda: nn.Embedding(2, FEATURES))
)
def table(m, b, n):
    return each(m(b["x"] + m.table(b["group"].max())), b["y"])


@coupling("the mask of all rows joined", HIDDEN, "any|sum|max|amax", batch=tokens, make=reader())
def joined_mask(m, b, n):
    used = b["mask"].amax(0).type(m.head.weight.dtype)
    return each(m.head((m.table(b["ids"]) * used[:, None]).sum(1) / used.sum()), b["y"])


@coupling(
    "a position counted over the batch",
    HIDDEN,
    "cumsum",
    batch=tokens,
    make=reader(places=lambda: nn.Embedding(80, WIDTH)),
)
def batch_positions(m, b, n):
    place = b["mask"].flatten().cumsum(0).view(n, -1)
    return each(m.head((m.table(b["ids"]) + m.places(place)).mean(1)), b["y"])


@coupling("time steps chosen by the mean over examples", HIDDEN, "mean|topk|argmax", batch=series)
def common_times(m, b, n):
    best = b["x"].norm(dim=2).mean(0).argmax()
    return each(m(b["x"].index_select(1, best[None])[:, 0]), b["y"])
