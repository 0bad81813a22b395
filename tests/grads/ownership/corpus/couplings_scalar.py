"""Scalars that are no plain mean or sum over the examples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.grads.ownership.corpus.base import (
    CLASSES,
    Batch,
    coupling,
    each,
    grouped,
    pairs,
    reader,
    scored,
    series,
    tokens,
    vectors,
)

KIND = "scalar"
WEIGHT = (1.0, 50.0, 0.1)


def labelled_tokens(n: int, g: torch.Generator) -> dict[str, Tensor]:
    """Tokens with a label each, -100 for padding and here and there."""
    b = tokens(n, g)
    skipped = (b["mask"] == 0) | (torch.rand(n, 7, generator=g) < 0.2)
    labels = torch.randint(CLASSES, (n, 7), generator=g).masked_fill(skipped, -100)
    labels[:, 0] = 1
    return {**b, "labels": labels}


@coupling("cross entropy with class weights, mean", KIND, "cross_entropy")
def weighted(m, b, n):
    return F.cross_entropy(m(b["x"]), b["y"], weight=torch.tensor(WEIGHT))


@coupling("nll_loss with class weights, mean", KIND, "nll_loss")
def weighted_nll(m, b, n):
    return F.nll_loss(m(b["x"]).log_softmax(1), b["y"], torch.tensor(WEIGHT))


@coupling("weighted mean by hand", KIND, "sum|div")
def weighted_by_hand(m, b, n):
    w = torch.tensor(WEIGHT)[b["y"]]
    return (w * each(m(b["x"]), b["y"])).sum() / w.sum()


@coupling("mean over the tokens of all examples", KIND, "cross_entropy", batch=labelled_tokens, make=reader())
def token_mean(m, b, n):
    return F.cross_entropy(m.head(m.table(b["ids"])).flatten(0, 1), b["labels"].flatten())


@coupling("mean over tokens on (n, classes, time)", KIND, "cross_entropy", batch=labelled_tokens, make=reader())
def token_mean_in_place(m, b, n):
    return F.cross_entropy(m.head(m.table(b["ids"])).transpose(1, 2), b["labels"])


@coupling("masked mean over all tokens by hand", KIND, "sum|div", batch=labelled_tokens, make=reader())
def masked_mean(m, b, n):
    own = F.cross_entropy(m.head(m.table(b["ids"])).mT, b["labels"], reduction="none")
    return (own * b["mask"]).sum() / b["mask"].sum()


@coupling("mean over chosen tokens", KIND, "getitem|mean", batch=labelled_tokens, make=reader())
def chosen_mean(m, b, n):
    own = F.cross_entropy(m.head(m.table(b["ids"])).mT, b["labels"], reduction="none")
    return own[b["labels"] != -100].mean()


@coupling("masked_select and mean", KIND, "masked_select|mean", batch=labelled_tokens, make=reader())
def selected_mean(m, b, n):
    own = F.cross_entropy(m.head(m.table(b["ids"])).mT, b["labels"], reduction="none")
    return own.masked_select(b["mask"].bool()).mean()


@coupling("nanmean over tokens", KIND, "nanmean", batch=labelled_tokens, make=reader())
def nan_mean(m, b, n):
    own = F.cross_entropy(m.head(m.table(b["ids"])).mT, b["labels"], reduction="none")
    return own.where(b["mask"].bool(), torch.nan).nanmean()


def ignored(n: int, g: torch.Generator) -> Batch:
    b = vectors(n, g)
    y = b["y"].masked_fill(torch.rand(n, generator=g) < 0.3, -100)
    y[0] = 1
    return {**b, "y": y}


@coupling("mean over what is not ignored", KIND, "cross_entropy", batch=ignored)
def not_ignored(m, b, n):
    return F.cross_entropy(m(b["x"]), b["y"])


def scalar(name: str, by: str, reduce, batch=vectors, source: str = "") -> None:
    @coupling(f"{name} of losses", KIND, by, batch=batch, source=source)
    def losses(m, b, n):
        return reduce(each(m(b["x"]), b["y"]))


scalar("the largest", "max", torch.max)
scalar("logsumexp", "logsumexp", lambda own: own.logsumexp(0), source="Li et al. 2020, arXiv:2007.01162")
scalar("the root of the mean", "sqrt|pow", lambda own: own.mean().sqrt())
scalar("the square of the mean", "square|pow|mul", lambda own: own.mean() ** 2)
scalar("the norm", "norm", lambda own: own.norm())
scalar("the product", "prod", lambda own: own.prod())
scalar("the median", "median", lambda own: own.median())
scalar("the geometric mean", "exp", lambda own: own.log().mean().exp())
scalar("mean and spread", "std|var", lambda own: own.mean() + own.std(correction=0))
scalar("mean of the larger half", "topk|mean", lambda own: own.topk((len(own) + 1) // 2).values.mean())
scalar("mean of the positive", "getitem|mean", lambda own: own[own > 0.9].sum() / (own > 0.9).sum().clamp_min(1))
scalar(
    "flooded mean",
    "abs",
    lambda own: (own.mean() - 1.2).abs() + 1.2,
    source="flooding, Ishida et al. 2020, arXiv:2002.08709",
)
scalar("clipped mean", "clamp|minimum", lambda own: own.mean().clamp(max=1.1))
scalar("mean over its own detached value", "div", lambda own: own.mean() / own.mean().detach())
scalar("mean times mean of confidence", "mul", lambda own: own.mean() * own.neg().exp().mean())
scalar("the last", "getitem|select", lambda own: own[-1] * own[0])


@coupling("soft Dice over the batch", KIND, "sum|div", batch=grouped, source="Milletari et al. 2016, arXiv:1606.04797")
def dice(m, b, n):
    p, t = m(b["x"])[:, 0].sigmoid(), b["group"]
    return 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)


@coupling("soft F1", KIND, "sum|div", batch=grouped)
def soft_f1(m, b, n):
    p, t = m(b["x"])[:, 0].sigmoid(), b["group"].type_as(b["x"])
    return 1 - 2 * (p @ t) / ((p + t).sum() + 1e-6)


@coupling("Pearson correlation", KIND, "corrcoef", batch=scored)
def pearson(m, b, n):
    return -torch.corrcoef(torch.stack([m(b["x"])[:, 0], b["t"]]))[0, 1]


@coupling("cosine of predictions and targets", KIND, "cosine_similarity", batch=scored)
def cosine(m, b, n):
    return 1 - F.cosine_similarity(m(b["x"])[:, 0], b["t"], dim=0)


@coupling("concordance correlation", KIND, "var|mean", batch=scored, source="Lin 1989")
def concordance(m, b, n):
    s, t = m(b["x"])[:, 0], b["t"]
    c = ((s - s.mean()) * (t - t.mean())).mean()
    return 1 - 2 * c / (s.var(correction=0) + t.var(correction=0) + (s.mean() - t.mean()) ** 2)


@coupling("one minus R squared", KIND, "mean|sum", batch=scored)
def r_squared(m, b, n):
    return (m(b["x"])[:, 0] - b["t"]).square().sum() / (b["t"] - b["t"].mean()).square().sum()


@coupling(
    "scale-invariant logarithmic error",
    KIND,
    "mean|square|pow",
    batch=scored,
    source="Eigen et al. 2014, arXiv:1406.2283",
)
def scale_invariant(m, b, n):
    d = m(b["x"])[:, 0] - b["t"]
    return d.square().mean() - 0.5 * d.mean().square()


@coupling("mean of group means", KIND, "mean|sum|div", batch=grouped)
def group_means(m, b, n):
    own = each(m(b["x"]), b["y"])
    return sum((own * (b["group"] == k)).sum() / (b["group"] == k).sum().clamp_min(1) for k in range(2)) / 2


@coupling("CLIP, mean", KIND, "matmul|mm|cross_entropy", batch=pairs, source="Radford et al. 2021, arXiv:2103.00020")
def clip(m, b, n):
    return F.cross_entropy(m.hidden(b["x"]) @ m.hidden(b["z"]).T, torch.arange(n))


@coupling("smooth_l1 of means", KIND, "smooth_l1|mean", batch=scored)
def of_means(m, b, n):
    return F.smooth_l1_loss(m(b["x"])[:, 0].mean(), b["t"].mean())


@coupling("mean squared error by broadcasting (n, 1) against (n,)", KIND, "sub", batch=scored, source="a usual slip")
def broadcast(m, b, n):
    return (m(b["x"])[:, :1] - b["t"]).square().mean()


@coupling("cross entropy over time steps chosen by all", KIND, "mean|argmax", batch=series)
def common(m, b, n):
    s = m(b["x"])
    return F.cross_entropy(s[:, s.detach().amax(2).mean(0).argmax()], b["y"])


@coupling("focal loss of the mean", KIND, "exp|mul|pow", source="catalyst's FocalLoss with mean first")
def focal_of_mean(m, b, n):
    own = F.cross_entropy(m(b["x"]), b["y"])
    return (1 - torch.exp(-own)) ** 2 * own


@coupling("CTC with targets joined and zero_infinity, over the longest", KIND, "max|div", batch=tokens, make=reader())
def over_longest(m, b, n):
    own = F.cross_entropy(m.head(m.table(b["ids"])).mT, b["ids"] % CLASSES, reduction="none")
    return ((own * b["mask"]).sum(1) / b["lengths"].max()).mean()


@coupling(
    "mean over unfolded weights of a learned uncertainty of the batch",
    KIND,
    "exp|div|mean",
    source="Kendall et al. 2017, arXiv:1705.07115",
)
def uncertain(m, b, n):
    s = m(b["x"])
    return F.cross_entropy(s, b["y"]) / s[:, 0].exp().mean() + s[:, 0].mean()
