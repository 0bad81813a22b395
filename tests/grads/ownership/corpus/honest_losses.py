"""Losses in which no example looks at another: (n,) and plain reductions of them."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.grads.ownership.corpus.base import (
    CLASSES,
    FEATURES,
    TIME,
    VOCABULARY,
    WIDTH,
    each,
    grouped,
    honest,
    images,
    net,
    pairs,
    reader,
    scored,
    series,
    tokens,
    vectors,
)

KIND = "losses"


@honest("label smoothing", KIND)
def smoothed(m, b, n):
    return F.cross_entropy(m(b["x"]), b["y"], label_smoothing=0.1, reduction="none")


@honest("class weights without a mean", KIND)
def weighted(m, b, n):
    return F.cross_entropy(m(b["x"]), b["y"], weight=torch.tensor([1.0, 50.0, 0.1]), reduction="none")


@honest("focal loss", KIND, batch=grouped)
def focal(m, b, n):
    s, t = m(b["x"])[:, 0], b["group"].type_as(b["x"])
    own = F.binary_cross_entropy_with_logits(s, t, reduction="none")
    return (1 - torch.exp(-own)) ** 2 * own


@honest("cross entropy gathered by hand", KIND)
def gathered(m, b, n):
    return -m(b["x"]).log_softmax(1).gather(1, b["y"][:, None])[:, 0]


@honest("cross entropy by an index of rows", KIND)
def indexed(m, b, n):
    return -m(b["x"]).log_softmax(1)[torch.arange(n), b["y"]]


@honest("cross entropy by one-hot", KIND)
def one_hot(m, b, n):
    return -(F.one_hot(b["y"], CLASSES) * m(b["x"]).log_softmax(1)).sum(1)


@honest("a temperature that is learned", KIND, make=net(scale=lambda: nn.Linear(1, 1)))
def temperature(m, b, n):
    return each(m(b["x"]) * m.scale.bias.exp(), b["y"])


@honest("hinge with the largest wrong class", KIND)
def hinge(m, b, n):
    s = m(b["x"])
    own = F.one_hot(b["y"], CLASSES).bool()
    return F.relu(1 + s.masked_fill(own, -torch.inf).amax(1) - s[own])


@honest("multi-margin", KIND)
def multi_margin(m, b, n):
    return F.multi_margin_loss(m(b["x"]), b["y"], reduction="none")


@honest("arc-face margins to class centres that are parameters", KIND, source="Deng et al. 2018, arXiv:1801.07698")
def arc_face(m, b, n):
    cosine = F.linear(F.normalize(m.hidden(b["x"])), F.normalize(m.head.weight)).clamp(-0.99, 0.99)
    angle = cosine.acos() + 0.2 * F.one_hot(b["y"], CLASSES)
    return each(8 * angle.cos(), b["y"])


@honest("nearest prototype that is a parameter", KIND, make=net(book=lambda: nn.Embedding(CLASSES, WIDTH)))
def prototypes(m, b, n):
    return each(-torch.cdist(m.hidden(b["x"]), m.book.weight), b["y"])


@honest(
    "vector quantisation by a learned book",
    KIND,
    make=net(book=lambda: nn.Embedding(5, WIDTH)),
    source="VQ-VAE, Oord et al. 2017",
)
def quantised(m, b, n):
    h = m.hidden(b["x"])
    q = m.book(torch.cdist(h, m.book.weight).argmin(1))
    return each(m.head(h + (q - h).detach()), b["y"]) + (q - h.detach()).square().mean(1)


@honest("centre loss with centres that are parameters", KIND, make=net(book=lambda: nn.Embedding(CLASSES, WIDTH)))
def centres(m, b, n):
    h = m.hidden(b["x"])
    return each(m.head(h), b["y"]) + (h - m.book(b["y"])).square().sum(1)


def negatives(n: int, g: torch.Generator) -> dict[str, Tensor]:
    """An anchor, its positive and four negatives of its own."""
    return {**pairs(n, g), "negatives": torch.randn(n, 4, FEATURES, generator=g)}


@honest("triplet loss with own negatives", KIND, batch=negatives)
def triplet(m, b, n):
    a, p, q = m.hidden(b["x"]), m.hidden(b["z"]), m.hidden(b["negatives"][:, 0])
    return F.triplet_margin_loss(a, p, q, reduction="none")


@honest("contrastive loss with own negatives", KIND, batch=negatives)
def own_negatives(m, b, n):
    a, p, q = m.hidden(b["x"]), m.hidden(b["z"]), m.hidden(b["negatives"])
    scores = torch.cat([(a * p).sum(1, keepdim=True), torch.bmm(q, a[:, :, None])[:, :, 0]], 1)
    return each(scores, torch.zeros(n, dtype=torch.long))


def drawn_for_all(name: str, count) -> None:
    @honest(
        f"negatives drawn for all, {name}", KIND, make=reader(users=lambda: nn.Embedding(9, WIDTH)), batch=purchases
    )
    def losses(m, b, n):
        u, own = m.users(b["user"]), m.table(b["item"])
        scores = u @ m.table(torch.randint(VOCABULARY, (count(n),))).T
        return torch.cat([(u * own).sum(1, True), scores], 1).logsumexp(1) - (u * own).sum(1)


def purchases(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return {"user": torch.randint(9, (n,), generator=g), "item": torch.randint(VOCABULARY, (n,), generator=g)}


drawn_for_all("as many as examples", lambda n: n)
drawn_for_all("twice as many as examples", lambda n: 2 * n)
drawn_for_all("seven", lambda n: 7)


@honest("negatives drawn for each", KIND, make=reader(users=lambda: nn.Embedding(9, WIDTH)), batch=purchases)
def drawn_for_each(m, b, n):
    u, candidates = m.users(b["user"]), torch.cat([b["item"][:, None], torch.randint(VOCABULARY, (n, 5))], 1)
    return each(torch.einsum("nd,nkd->nk", u, m.table(candidates)), torch.zeros(n, dtype=torch.long))


@honest("all items as negatives", KIND, make=reader(users=lambda: nn.Embedding(9, WIDTH)), batch=purchases)
def all_items(m, b, n):
    return each(m.users(b["user"]) @ m.table.weight.T, b["item"])


@honest(
    "variational autoencoder",
    KIND,
    make=net(spread=lambda: nn.Linear(FEATURES, WIDTH), back=lambda: nn.Linear(WIDTH, FEATURES)),
)
def variational(m, b, n):
    mu, log_s = m.layer(b["x"]), m.spread(b["x"]).tanh()
    x = m.back(mu + log_s.exp() * torch.randn_like(mu))
    return (x - b["x"]).square().sum(1) - 0.5 * (1 + 2 * log_s - mu.square() - (2 * log_s).exp()).sum(1)


@honest("by torch.distributions", KIND, batch=scored)
def distributions(m, b, n):
    s = m(b["x"])
    q = torch.distributions.Normal(s[:, 0], F.softplus(s[:, 1]) + 0.1, validate_args=False)
    return -q.log_prob(b["t"]) + torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))


@honest(
    "diffusion with a time for each",
    KIND,
    make=net(back=lambda: nn.Linear(WIDTH, FEATURES)),
    source="Ho et al. 2020, arXiv:2006.11239",
)
def diffusion(m, b, n):
    kept = torch.linspace(0.99, 0.01, 10).cumprod(0)[torch.randint(10, (n,))][:, None]
    noise = torch.randn_like(b["x"])
    x = kept.sqrt() * b["x"] + (1 - kept).sqrt() * noise
    return (m.back(m.hidden(x)) - noise).square().mean(1)


@honest("diffusion with one time for all", KIND, make=net(back=lambda: nn.Linear(WIDTH, FEATURES)))
def one_time(m, b, n):
    t = torch.rand(())
    return (m.back(m.hidden(b["x"] * (1 - t) + t * torch.randn_like(b["x"]))) - b["x"]).square().mean(1)


@honest("gradient penalty of each example", KIND, source="WGAN-GP, Gulrajani et al. 2017, arXiv:1704.00028")
def penalised(m, b, n):
    x = b["x"].detach().requires_grad_()
    s = m(x)
    (slope,) = torch.autograd.grad(s[:, 0].sum(), x, create_graph=True)
    return each(s, b["y"]) + (slope.norm(dim=1) - 1).square()


@honest(
    "adversarial examples by the sign of their own gradient", KIND, source="Goodfellow et al. 2014, arXiv:1412.6572"
)
def adversarial(m, b, n):
    x = b["x"].detach().requires_grad_()
    (slope,) = torch.autograd.grad(each(m(x), b["y"]).sum(), x)
    return each(m(x.detach() + 0.1 * slope.sign()), b["y"])


@honest("virtual adversarial training", KIND, source="Miyato et al. 2017, arXiv:1704.03976")
def virtual(m, b, n):
    d = F.normalize(torch.randn_like(b["x"])).requires_grad_()
    p = m(b["x"]).detach().softmax(1)
    (slope,) = torch.autograd.grad(F.kl_div(m(b["x"] + d).log_softmax(1), p, reduction="sum"), d)
    return each(m(b["x"]), b["y"]) + F.kl_div(m(b["x"] + F.normalize(slope)).log_softmax(1), p, reduction="none").sum(1)


@honest("derivative along a direction by torch.func.jvp", KIND)
def by_jvp(m, b, n):
    with warnings.catch_warnings():  # torch 2.13 compiles its decompositions when jvp is first used
        warnings.simplefilter("ignore", DeprecationWarning)
        s, slope = torch.func.jvp(m, (b["x"],), (torch.ones_like(b["x"]),))
    return each(s, b["y"]) + slope.square().sum(1)


@honest("divergence by vmap of jacrev", KIND)
def divergence(m, b, n):
    slope = torch.func.vmap(torch.func.jacrev(m))(b["x"])
    return each(m(b["x"]), b["y"]) + slope.square().sum((1, 2))


@honest(
    "distillation from frozen layers",
    KIND,
    make=net(teacher=lambda: nn.Linear(FEATURES, CLASSES).requires_grad_(False)),
)
def distilled(m, b, n):
    return F.kl_div(m(b["x"]).log_softmax(1), m.teacher(b["x"]).softmax(1), reduction="none").sum(1)


@honest("two views, cosine", KIND, batch=pairs, source="SimSiam without its batch norm, Chen and He 2020")
def two_views(m, b, n):
    return -F.cosine_similarity(m.hidden(b["x"]), m.hidden(b["z"]).detach(), dim=-1)


@honest("two views joined in one batch", KIND, batch=pairs)
def two_views_joined(m, b, n):
    p, q = m.hidden(torch.cat([b["x"], b["z"]])).chunk(2)
    return (p - q).square().sum(1)


@honest("two views interleaved", KIND, batch=pairs)
def interleaved(m, b, n):
    h = m.hidden(torch.stack([b["x"], b["z"]], 1).flatten(0, 1)).view(n, 2, WIDTH)
    return (h[:, 0] - h[:, 1]).square().sum(1)


@honest("ranking of a pair that is one example", KIND, batch=pairs)
def own_pair(m, b, n):
    return F.softplus(m(b["z"])[:, 0] - m(b["x"])[:, 0])


@honest("ListNet over an example's own list", KIND, batch=series)
def own_list(m, b, n):
    return -(b["x"][:, :, 0].softmax(1) * m(b["x"])[:, :, 0].log_softmax(1)).sum(1)


@honest("quantile loss", KIND, batch=scored)
def quantiles(m, b, n):
    gap = b["t"][:, None] - m(b["x"])
    q = torch.tensor([0.1, 0.5, 0.9])
    return torch.maximum(q * gap, (q - 1) * gap).sum(1)


@honest("Huber with own scale", KIND, batch=scored)
def huber(m, b, n):
    return F.huber_loss(m(b["x"])[:, 0], b["t"], reduction="none", delta=0.5)


@honest(
    "multi-label", KIND, batch=lambda n, g: {**vectors(n, g), "labels": torch.randint(2, (n, CLASSES), generator=g)}
)
def multi_label(m, b, n):
    return F.binary_cross_entropy_with_logits(m(b["x"]), b["labels"].type_as(b["x"]), reduction="none").mean(1)


@honest("segmentation: cross entropy on (n, classes, h, w)", KIND, make=lambda: Segmenting(), batch=lambda n, g: {
    **images(n, g), "labels": torch.randint(CLASSES, (n, 8, 8), generator=g)})  # fmt: skip
def segmented(m, b, n):
    return F.cross_entropy(m(b["x"]), b["labels"], reduction="none").mean((1, 2))


@honest("Dice of each example", KIND, make=lambda: Segmenting(), batch=lambda n, g: {
    **images(n, g), "labels": torch.randint(2, (n, 8, 8), generator=g)})  # fmt: skip
def dice(m, b, n):
    p, t = m(b["x"])[:, 0].sigmoid(), b["labels"]
    return 1 - (2 * (p * t).sum((1, 2)) + 1) / (p.sum((1, 2)) + t.sum((1, 2)) + 1)


class Segmenting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ConvTranspose2d(4, CLASSES, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.relu(self.down(x)))


@honest("clipped losses", KIND)
def clipped(m, b, n):
    return each(m(b["x"]), b["y"]).clamp(max=1.5)


@honest(
    "weights carried by the batch", KIND, batch=lambda n, g: {**vectors(n, g), "weight": torch.rand(n, generator=g)}
)
def carried(m, b, n):
    return b["weight"] * each(m(b["x"]), b["y"])


@honest(
    "ignored labels without a mean",
    KIND,
    batch=lambda n, g: {**vectors(n, g), "y": torch.randint(-1, CLASSES, (n,), generator=g)},
)
def ignored(m, b, n):
    return F.cross_entropy(m(b["x"]), b["y"], ignore_index=-1, reduction="none")


@honest("a batch that is a tuple", KIND, batch=lambda n, g: tuple(vectors(n, g).values()))
def in_a_tuple(m, b, n):
    x, y = b
    return each(m(x), y)


@honest(
    "regression with a column of targets",
    KIND,
    batch=lambda n, g: {**vectors(n, g), "t": torch.randn(n, 1, generator=g)},
)
def column(m, b, n):
    return (m(b["x"])[:, :1] - b["t"]).square().squeeze(1)


@honest("a Gram matrix of its own time steps", KIND, batch=series)
def own_gram(m, b, n):
    h = m.hidden(b["x"])
    return each(m.head(h.mean(1)), b["y"]) + (h @ h.mT - torch.eye(TIME)).square().sum((1, 2))


@honest("pairwise distances within each example", KIND, batch=series)
def own_distances(m, b, n):
    h = m.hidden(b["x"])
    return torch.cdist(h, h).mean((1, 2)) + each(m.head(h[:, -1]), b["y"])


@honest("tokens' mean of each example", KIND, make=reader(), batch=tokens)
def own_tokens(m, b, n):
    own = F.cross_entropy(m.head(m.table(b["ids"])).mT, b["ids"] % CLASSES, reduction="none")
    return (own * b["mask"]).sum(1) / b["mask"].sum(1)


@honest("tokens flattened, losses put back", KIND, make=reader(), batch=tokens)
def put_back(m, b, n):
    own = F.cross_entropy(m.head(m.table(b["ids"])).flatten(0, 1), (b["ids"] % CLASSES).flatten(), reduction="none")
    return (own.view(n, -1) * b["mask"]).sum(1)


# Scalars


def scalar(name: str, losses, reduction: str = "mean", kind: str = "scalar", **facts) -> None:
    def step(m, b, n):
        return losses(m, b)

    honest(name, kind, reduction=reduction, **facts)(step)


scalar("cross entropy, mean", lambda m, b: F.cross_entropy(m(b["x"]), b["y"]))
scalar("cross entropy, sum", lambda m, b: F.cross_entropy(m(b["x"]), b["y"], reduction="sum"), "sum")
scalar("cross entropy with label smoothing, mean", lambda m, b: F.cross_entropy(m(b["x"]), b["y"], label_smoothing=0.1))
scalar(
    "class weights, sum",
    lambda m, b: F.cross_entropy(m(b["x"]), b["y"], torch.tensor([1.0, 50.0, 0.1]), reduction="sum"),
    "sum",
)
scalar(
    "class weights, mean of each",
    lambda m, b: F.cross_entropy(m(b["x"]), b["y"], torch.tensor([1.0, 50.0, 0.1]), reduction="none").mean(),
)
scalar("mean of own losses", lambda m, b: each(m(b["x"]), b["y"]).mean())
scalar("sum of own losses", lambda m, b: each(m(b["x"]), b["y"]).sum(), "sum")
scalar("sum over the number by hand", lambda m, b: each(m(b["x"]), b["y"]).sum() / len(b["x"]))
scalar("mean by einsum", lambda m, b: torch.einsum("n->", each(m(b["x"]), b["y"])) / len(b["x"]))
scalar("nll_loss, mean", lambda m, b: F.nll_loss(m(b["x"]).log_softmax(1), b["y"]))
scalar("mse over vectors, mean", lambda m, b: F.mse_loss(m(b["x"]), torch.zeros(len(b["x"]), CLASSES)))
scalar(
    "mse over vectors, sum",
    lambda m, b: F.mse_loss(m(b["x"]), torch.ones(len(b["x"]), CLASSES), reduction="sum"),
    "sum",
)
scalar("l1 over a series, mean", lambda m, b: F.l1_loss(m(b["x"]), b["x"][:, :, :CLASSES]), batch=series)
scalar(
    "kl_div, batchmean",
    lambda m, b: F.kl_div(m(b["x"]).log_softmax(1), b["x"][:, :CLASSES].softmax(1), reduction="batchmean"),
)
scalar("binary with pos_weight, mean", lambda m, b: F.binary_cross_entropy_with_logits(
    m(b["x"])[:, 0], b["group"].type_as(b["x"]), pos_weight=torch.tensor(9.0)), batch=grouped)  # fmt: skip
scalar(
    "multi-margin with class weights, mean",
    lambda m, b: F.multi_margin_loss(m(b["x"]), b["y"], weight=torch.tensor([1.0, 5.0, 0.1])),
)
scalar(
    "cross entropy on (n, classes, time), mean",
    lambda m, b: F.cross_entropy(m(b["x"]).mT, b["x"][:, :, 0].gt(0).long()),
    batch=series,
)
scalar("cross entropy on soft targets, mean", lambda m, b: F.cross_entropy(m(b["x"]), b["x"][:, :CLASSES].softmax(1)))
scalar(
    "Gaussian likelihood, mean",
    lambda m, b: F.gaussian_nll_loss(m(b["x"])[:, 0], b["t"], m(b["x"])[:, 1].exp()),
    batch=scored,
)
scalar(
    "triplet with own negatives, mean",
    lambda m, b: F.triplet_margin_loss(*(m.hidden(b["x"][:, k]) for k in range(3))),
    batch=series,
)
scalar("tokens' mean of each, then mean", lambda m, b: (
    (F.cross_entropy(m.head(m.table(b["ids"])).mT, b["ids"] % CLASSES, reduction="none") * b["mask"]).sum(1) / b["mask"].sum(1)
).mean(), make=reader(), batch=tokens)  # fmt: skip
scalar("a sum of means", lambda m, b: F.cross_entropy(m(b["x"]), b["y"]) + 0.3 * m.hidden(b["x"]).square().mean())
scalar(
    "means with learned uncertainty",
    lambda m, b: F.cross_entropy(m(b["x"]), b["y"]) * m.head.bias[0].exp() + m(b["x"]).abs().mean(),
    source="Kendall et al. 2017, arXiv:1705.07115",
)
scalar(
    "mean over chunks of means of equal size",
    lambda m, b: torch.stack([c.mean() for c in each(m(b["x"]), b["y"]).split(1)]).mean(),
)
scalar("mean over time of means over examples", lambda m, b: sum(
    F.cross_entropy(m(x), b["y"]) for x in b["x"].unbind(1)) / TIME, batch=series)  # fmt: skip
scalar("mean and a penalty of the weights", lambda m, b: F.cross_entropy(m(b["x"]), b["y"]) + 0.1 * m.head.weight.square().sum(),
       kind="parameters only")  # fmt: skip
scalar(
    "sum and a penalty of the weights",
    lambda m, b: each(m(b["x"]), b["y"]).sum() + 0.1 * m.head.weight.norm(),
    "",
    "parameters only",
)


@honest("own losses and a penalty of the weights", "parameters only")
def decayed(m, b, n):
    return each(m(b["x"]), b["y"]) + 0.1 * sum(p.square().sum() for p in m.parameters())


@honest("orthogonal weights", "parameters only")
def orthogonal(m, b, n):
    w = m.layer.weight
    return each(m(b["x"]), b["y"]) + (w.T @ w - torch.eye(FEATURES)).square().sum()


@honest(
    "Bayesian weights, one draw for all",
    "parameters only",
    make=net(spread=lambda: nn.Linear(FEATURES, WIDTH)),
    source="Blundell et al. 2015",
)
def bayesian(m, b, n):
    w = m.layer.weight + m.spread.weight.exp() * 0.1 * torch.randn(WIDTH, FEATURES)
    return each(m.head(F.linear(b["x"], w).tanh()), b["y"]) + 0.01 * m.spread.weight.square().sum()
