"""Losses that compare examples with one another: contrastive, ranking, alignment of distributions, mining, weighting."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.grads.ownership.corpus.base import (
    CLASSES,
    FEATURES,
    WIDTH,
    coupling,
    each,
    grouped,
    net,
    pairs,
    scored,
    vectors,
)

# Contrastive


def unit(h: Tensor) -> Tensor:
    return F.normalize(h, dim=1)


@coupling("SimCLR", "contrastive", "matmul|mm", batch=pairs, source="Chen et al. 2020, arXiv:2002.05709")
def simclr(m, b, n):
    u = unit(m.hidden(torch.cat([b["x"], b["z"]])))
    scores = (u @ u.T / 0.5).masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(scores, torch.arange(2 * n).roll(n), reduction="none").view(2, n).mean(0)


@coupling("CLIP", "contrastive", "matmul|mm", batch=pairs, source="Radford et al. 2021, arXiv:2103.00020")
def clip(m, b, n):
    scores = 10 * unit(m.hidden(b["x"])) @ unit(m.hidden(b["z"])).t()
    own = torch.arange(n)
    return (each(scores, own) + each(scores.t(), own)) / 2


@coupling("SigLIP", "contrastive", "matmul|mm", batch=pairs, source="Zhai et al. 2023, arXiv:2303.15343")
def siglip(m, b, n):
    scores = 10 * unit(m.hidden(b["x"])) @ unit(m.hidden(b["z"])).t() - 5
    return -F.logsigmoid(scores * (2 * torch.eye(n) - 1)).sum(1)


@coupling(
    "InfoNCE with negatives detached", "contrastive", "einsum", batch=pairs, source="Oord et al. 2018, arXiv:1807.03748"
)
def info_nce(m, b, n):
    return each(torch.einsum("nd,md->nm", m.hidden(b["x"]), m.hidden(b["z"]).detach()), torch.arange(n))


@coupling("N-pair loss", "contrastive", "mm|matmul", batch=pairs, source="Sohn 2016")
def n_pair(m, b, n):
    scores = torch.mm(m.hidden(b["x"]), m.hidden(b["z"]).T)
    return torch.log1p((scores - scores.diagonal()[:, None]).exp().sum(1) - 1 + 1e-9)


@coupling(
    "triplet loss with the hardest in the batch", "contrastive", "cdist", source="Hermans et al. 2017, arXiv:1703.07737"
)
def batch_hard(m, b, n):
    far = torch.cdist(m.hidden(b["x"]), m.hidden(b["x"]))
    same = b["y"][:, None] == b["y"]
    return F.softplus(far.where(same, 0.0).amax(1) - far.where(~same, torch.inf).amin(1).clamp_max(10))


@coupling("supervised contrastive", "contrastive", "matmul|mm", source="Khosla et al. 2020, arXiv:2004.11362")
def supervised_contrastive(m, b, n):
    u = unit(m.hidden(b["x"]))
    same = (b["y"][:, None] == b["y"]) & ~torch.eye(n, dtype=torch.bool)
    log_p = (u @ u.T).masked_fill(torch.eye(n, dtype=torch.bool), -1e9).log_softmax(1)
    return -(log_p * same).sum(1) / same.sum(1).clamp_min(1)


@coupling("neighbourhood components", "contrastive", "cdist|eq", source="Goldberger et al. 2004")
def neighbourhood(m, b, n):
    near = (-torch.cdist(m.hidden(b["x"]), m.hidden(b["x"]).detach()) - 1e9 * torch.eye(n)).softmax(1)
    return -torch.log(1e-6 + (near * (b["y"][:, None] == b["y"])).sum(1))


@coupling("pairwise distances", "contrastive", "pdist")
def scattered(m, b, n):
    return each(m(b["x"]), b["y"]) - 0.1 * F.pdist(m.hidden(b["x"])).mean()


@coupling("uniformity on the sphere", "contrastive", "pdist", source="Wang and Isola 2020, arXiv:2005.10242")
def uniformity(m, b, n):
    return each(m(b["x"]), b["y"]) + torch.pdist(unit(m.hidden(b["x"]))).pow(2).mul(-2).exp().mean().log()


@coupling("KoLeo", "contrastive", "mm|matmul|getitem", source="Oquab et al. 2023, arXiv:2304.07193")
def koleo(m, b, n):
    u = unit(m.hidden(b["x"]))
    nearest = (u @ u.T).detach().fill_diagonal_(-1).argmax(1)
    return each(m(b["x"]), b["y"]) - 0.1 * F.pairwise_distance(u, u[nearest]).log()


@coupling(
    "Barlow Twins", "contrastive", "mean|std|matmul|mm", batch=pairs, source="Zbontar et al. 2021, arXiv:2103.03230"
)
def barlow(m, b, n):
    p, q = m.hidden(b["x"]), m.hidden(b["z"])
    p, q = ((h - h.mean(0)) / (h.std(0) + 1e-5) for h in (p, q))
    return each(m(b["x"]), b["y"]) + (p.T @ q / n - torch.eye(WIDTH)).square().sum()


@coupling("VICReg", "contrastive", "var|std|mean", batch=pairs, source="Bardes et al. 2021, arXiv:2105.04906")
def vicreg(m, b, n):
    p, q = m.hidden(b["x"]), m.hidden(b["z"])
    c = p - p.mean(0)
    spread, off = F.relu(1 - (p.var(0) + 1e-4).sqrt()).mean(), (c.T @ c / (n - 1)).fill_diagonal_(0.0).square().sum()
    return (p - q).square().mean(1) + spread + 0.04 * off


@coupling("DINO centring", "contrastive", "mean", batch=pairs, source="Caron et al. 2021, arXiv:2104.14294")
def dino(m, b, n):
    teacher = m(b["z"]).detach()
    return -(((teacher - teacher.mean(0)) / 0.1).softmax(1) * m(b["x"]).log_softmax(1)).sum(1)


def sinkhorn(scores: Tensor) -> Tensor:
    q = (scores / 0.5).exp()
    for _ in range(3):
        q = q / q.sum(0, keepdim=True) / q.shape[1]
        q = q / q.sum(1, keepdim=True) / q.shape[0]
    return q * q.shape[0]


@coupling("SwAV by Sinkhorn", "contrastive", "sum", batch=pairs, source="Caron et al. 2020, arXiv:2006.09882")
def swav(m, b, n):
    return -(sinkhorn(m(b["z"]).detach().tanh()) * m(b["x"]).log_softmax(1)).sum(1)


@coupling("soft labels of the nearest in the batch", "contrastive", "topk|getitem|matmul|mm")
def neighbours(m, b, n):
    h = m.hidden(b["x"])
    near = (h @ h.T).detach().topk(2, 1).indices
    return (m(b["x"])[:, None].log_softmax(-1) - m(b["x"]).detach()[near].log_softmax(-1)).square().mean((1, 2))


# Distributions brought together


def kernel(a: Tensor, b: Tensor) -> Tensor:
    return (-torch.cdist(a, b).square()).exp()


@coupling("MMD between groups", "distributions", "cdist|getitem", batch=grouped, source="Gretton et al. 2012")
def mmd(m, b, n):
    h, one = m.hidden(b["x"]), b["group"].double().type_as(b["x"])
    signs = one / one.sum().clamp_min(1) - (1 - one) / (1 - one).sum().clamp_min(1)
    return each(m(b["x"]), b["y"]) + signs @ kernel(h, h) @ signs


@coupling("MMD to draws of a prior", "distributions", "cdist", source="InfoVAE, Zhao et al. 2017, arXiv:1706.02262")
def info_vae(m, b, n):
    h, prior = m.hidden(b["x"]), torch.randn(n, WIDTH)
    return each(m(b["x"]), b["y"]) + kernel(h, h).mean() - 2 * kernel(h, prior).mean()


@coupling("CORAL between halves", "distributions", "cov", source="Sun and Saenko 2016, arXiv:1607.01719")
def coral(m, b, n):
    one, two = torch.cat([m.hidden(b["x"])] * 2).chunk(2)
    one = one.clone()
    one[n // 2 :] *= 0.5
    return each(m(b["x"]), b["y"]) + (torch.cov(one.T) - torch.cov(two.T)).square().sum()


@coupling(
    "adversary on means of domains",
    "distributions",
    "where|mul|sum|mean",
    batch=grouped,
    source="Ganin et al. 2015, arXiv:1505.07818",
)
def domain_means(m, b, n):
    h, one = m.hidden(b["x"]), b["group"].bool()[:, None]
    gap = torch.where(one, h, 0.0).sum(0) / one.sum().clamp_min(1) - torch.where(one, 0.0, h).sum(0) / (
        ~one
    ).sum().clamp_min(1)
    return each(m(b["x"]), b["y"]) + gap.square().sum()


@coupling("sliced Wasserstein distance", "distributions", "sort", source="Kolouri et al. 2018, arXiv:1804.01947")
def sliced(m, b, n):
    h, prior = m.hidden(b["x"]), torch.randn(n, WIDTH)
    theta = F.normalize(torch.randn(WIDTH, 4), dim=0)
    return each(m(b["x"]), b["y"]) + ((h @ theta).sort(0).values - (prior @ theta).sort(0).values).square().mean()


@coupling("HSIC", "distributions", "cdist|matmul|mm", batch=scored, source="Gretton et al. 2005")
def hsic(m, b, n):
    h, centre = m.hidden(b["x"]), torch.eye(n) - 1 / n
    return m(b["x"])[:, 0].square() + torch.trace(
        kernel(h, h) @ centre @ kernel(b["t"][:, None], b["t"][:, None]) @ centre
    )


@coupling("distance correlation", "distributions", "cdist", batch=scored, source="Szekely et al. 2007")
def distance_correlation(m, b, n):
    p, q = torch.cdist(m.hidden(b["x"]), m.hidden(b["x"])), (b["t"][:, None] - b["t"]).abs()
    p, q = (d - d.mean(0) - d.mean(1, keepdim=True) + d.mean() for d in (p, q))
    return m(b["x"])[:, 0].square() + (p * q).mean()


@coupling("MINE: the other half of a pair is drawn from the batch", "distributions", "getitem|index_select", batch=pairs,
          source="Belghazi et al. 2018, arXiv:1801.04062")  # fmt: skip
def mine(m, b, n):
    joint, product = m(b["x"] * b["z"])[:, 0], m(b["x"] * b["z"][torch.randperm(n)])[:, 0]
    return product.exp() - joint


@coupling(
    "total correlation by minibatch weighting",
    "distributions",
    "logsumexp|sub",
    source="beta-TCVAE, Chen et al. 2018, arXiv:1802.04942",
)
def total_correlation(m, b, n):
    mu = m.hidden(b["x"])
    z = mu + 0.1 * torch.randn_like(mu)
    log_q = -(z[:, None] - mu[None]).square() / 0.02
    return z.square().sum(1) + log_q.sum(2).logsumexp(1) - log_q.logsumexp(1).sum(1)


@coupling(
    "minibatch standard deviation",
    "distributions",
    "std|var",
    source="progressive GAN, Karras et al. 2017, arXiv:1710.10196",
)
def minibatch_deviation(m, b, n):
    h = m.hidden(b["x"])
    return each(m.head(h + h.std(0, correction=0).mean().expand(n, 1)), b["y"])


@coupling("minibatch discrimination", "distributions", "sub|sum", source="Salimans et al. 2016, arXiv:1606.03498")
def minibatch_discrimination(m, b, n):
    h = m.hidden(b["x"])
    return each(m.head(h + (-(h.unsqueeze(0) - h.unsqueeze(1)).abs()).exp().sum(1)), b["y"])


@coupling(
    "relativistic average GAN",
    "distributions",
    "mean",
    batch=pairs,
    source="Jolicoeur-Martineau 2018, arXiv:1807.00734",
)
def relativistic(m, b, n):
    real, fake = m(b["x"])[:, 0], m(b["z"])[:, 0]
    return F.softplus(-(real - fake.mean())) + F.softplus(fake - real.mean())


# Order


@coupling("pairwise hinge for AUC", "ranking", "sub", batch=grouped, source="Yan et al. 2003")
def auc(m, b, n):
    s, one = m(b["x"])[:, 0], b["group"] == 1
    return (F.relu(1 - (s[:, None] - s[None, :])) * one[:, None] * ~one[None, :]).sum(1)


@coupling("RankNet within the batch", "ranking", "sub", batch=scored, source="Burges et al. 2005")
def ranknet(m, b, n):
    s, t = m(b["x"])[:, 0], b["t"]
    return (F.softplus(-(s.unsqueeze(1) - s)) * (t.unsqueeze(1) > t)).sum(1)


@coupling("LambdaRank within the batch", "ranking", "argsort|sub", batch=scored, source="Burges 2010")
def lambdarank(m, b, n):
    s, t = m(b["x"])[:, 0], b["t"]
    rank = s.detach().argsort(descending=True).argsort() + 2.0
    weight = (rank.log2().reciprocal()[:, None] - rank.log2().reciprocal()).abs()
    return (F.softplus(-(s[:, None] - s)) * weight * (t[:, None] > t)).sum(1)


@coupling("ListNet with the batch as list", "ranking", "softmax", batch=scored, source="Cao et al. 2007")
def listnet(m, b, n):
    return -b["t"].softmax(0) * m(b["x"])[:, 0].log_softmax(0)


@coupling(
    "Cox partial likelihood",
    "ranking",
    "logcumsumexp|sort|argsort",
    batch=scored,
    source="DeepSurv, Katzman et al. 2018",
)
def cox(m, b, n):
    order = b["t"].argsort(descending=True)
    s = m(b["x"])[:, 0][order]
    return (s.logcumsumexp(0) - s)[order.argsort()]


@coupling("margin ranking against the next example", "ranking", "roll", batch=scored)
def next_ranked(m, b, n):
    s, t = m(b["x"])[:, 0], b["t"]
    return F.margin_ranking_loss(s, s.roll(-1), (t - t.roll(-1)).sign(), margin=0.1, reduction="none")


@coupling("soft rank", "ranking", "sub|sigmoid", batch=scored)
def soft_rank(m, b, n):
    s, t = m(b["x"])[:, 0], b["t"]
    return (torch.sigmoid(s[:, None] - s).sum(1) - torch.sigmoid(10 * (t[:, None] - t)).sum(1)).square()


# Which losses count


@coupling("hard examples by topk of losses", "mining", "topk", source="Shrivastava et al. 2016, arXiv:1604.03540")
def hardest(m, b, n):
    own = each(m(b["x"]), b["y"])
    return own * torch.zeros(n).scatter(0, own.topk(max(1, n // 2)).indices, 1.0)


@coupling("losses above their mean", "mining", "mean")
def above_mean(m, b, n):
    own = each(m(b["x"]), b["y"])
    return torch.where(own > own.mean(), own, 0.0)


@coupling("CVaR at the quantile of the batch", "mining", "quantile", source="Rockafellar and Uryasev 2000")
def cvar(m, b, n):
    own = each(m(b["x"]), b["y"])
    return F.relu(own - own.detach().quantile(0.7)) + own.detach().quantile(0.7)


@coupling("trimmed losses", "mining", "sort|kthvalue|lt|le", source="co-teaching, Han et al. 2018, arXiv:1804.06872")
def trimmed(m, b, n):
    own = each(m(b["x"]), b["y"])
    return own * (own <= own.sort().values[(n - 1) // 2])


@coupling("losses kept by rank of another head", "mining", "argsort", source="co-teaching, Han et al. 2018, arXiv:1804.06872",
          make=net(other=lambda: nn.Linear(FEATURES, CLASSES)))  # fmt: skip
def co_teaching(m, b, n):
    kept = each(m.other(b["x"]), b["y"]).argsort()[: (n + 1) // 2]
    return each(m(b["x"]), b["y"]).index_select(0, kept).sum() * torch.ones(n).index_fill(0, kept, 2.0)


@coupling("curriculum by the mean loss", "curriculum", "mean", source="self-paced learning, Kumar et al. 2010")
def curriculum(m, b, n):
    own = each(m(b["x"]), b["y"])
    return own * (own.detach() < 1.1 * own.detach().mean())


@coupling(
    "weights by softmax of losses", "curriculum", "softmax", source="tilted losses, Li et al. 2020, arXiv:2007.01162"
)
def tilted(m, b, n):
    own = each(m(b["x"]), b["y"])
    return own * own.detach().softmax(0) * n


@coupling("losses over the largest", "curriculum", "max|amax")
def over_largest(m, b, n):
    own = each(m(b["x"]), b["y"])
    return own / own.detach().max()


@coupling("temperature by the spread of scores", "curriculum", "std")
def temperature(m, b, n):
    s = m(b["x"])
    return each(s / (1 + s.detach().std()), b["y"])


@coupling("loss normalised by the norm of all losses", "curriculum", "norm")
def unit_losses(m, b, n):
    own = each(m(b["x"]), b["y"])
    return own / own.detach().norm()


@coupling("classes balanced by counts of the batch", "class weights", "bincount")
def balanced(m, b, n):
    return each(m(b["x"]), b["y"]) / b["y"].bincount(minlength=CLASSES)[b["y"]]


@coupling("classes balanced by one-hot sums", "class weights", "sum", source="Cui et al. 2019, arXiv:1901.05555")
def effective_number(m, b, n):
    count = F.one_hot(b["y"], CLASSES).sum(0)
    return F.cross_entropy(
        m(b["x"]), b["y"], weight=(0.1 / (1 - 0.9 ** count.clamp_min(1))).type_as(b["x"]), reduction="none"
    )


@coupling("classes balanced by equality", "class weights", "eq|sum|mean")
def by_equality(m, b, n):
    return each(m(b["x"]), b["y"]) / (b["y"][:, None] == b["y"][None]).sum(1)


@coupling("logits adjusted by the batch's prior", "class weights", "mean", source="Menon et al. 2020, arXiv:2007.07314")
def adjusted(m, b, n):
    prior = F.one_hot(b["y"], CLASSES).type_as(b["x"]).mean(0)
    return each(m(b["x"]) + (prior + 1e-3).log(), b["y"])


@coupling(
    "focal loss over the count of positives",
    "class weights",
    "sum",
    batch=grouped,
    source="Lin et al. 2017, arXiv:1708.02002",
)
def focal(m, b, n):
    s, t = m(b["x"])[:, 0], b["group"].type_as(b["x"])
    p = torch.sigmoid(s * (2 * t - 1))
    return -((1 - p) ** 2) * p.log() / t.sum().clamp_min(1)


@coupling("regression weights by a histogram of targets", "class weights", "histc|bucketize|bincount", batch=scored,
          source="Yang et al. 2021, arXiv:2102.09554")  # fmt: skip
def dense(m, b, n):
    cell = torch.bucketize(b["t"], torch.linspace(-2, 2, 4))
    return (m(b["x"])[:, 0] - b["t"]).square() / torch.bincount(cell, minlength=5)[cell]


# Penalties


def penalised(name: str, kind: str, by: str, penalty, weight: float = 1.0, **facts) -> None:
    @coupling(name, kind, by, **facts)
    def losses(m, b, n):
        return each(m(b["x"]), b["y"]) + weight * penalty(m, b)


def parity(m, b):
    p, g = m(b["x"]).softmax(1)[:, 0], b["group"]
    return (p[g == 0].sum() / (g == 0).sum().clamp_min(1) - p[g == 1].sum() / (g == 1).sum().clamp_min(1)).abs()


def covariance(m, b):
    return ((b["group"] - b["group"].type_as(b["x"]).mean()) * m(b["x"])[:, 0]).mean().abs()


def odds(m, b):
    own, one = each(m(b["x"]), b["y"]), torch.stack([b["group"] == k for k in range(2)]).type_as(b["x"])
    return ((one @ own) / one.sum(1).clamp_min(1)).diff().square().sum()


def worst_group(m, b):
    own = each(m(b["x"]), b["y"])
    return torch.zeros(2).index_add(0, b["group"], own).max()


def rex(m, b):
    return each(m(b["x"]), b["y"]).var()


def fishr(m, b):
    own = each(m(b["x"]), b["y"])
    (one,) = torch.autograd.grad(own.mean(), m.head.weight, create_graph=True)
    return one.square().sum()


def confidence(m, b):
    p = m(b["x"]).softmax(1).mean(0)
    return (p * p.log()).sum()


def variance(m, b):
    return m.layer(b["x"]).var(0, correction=0).mean()


def overflowing() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The variance of a record whose numbers are infinite is NaN, and 0 times NaN is NaN in all other losses."""
    one = vectors(4, torch.Generator().manual_seed(0))
    return one, {**one, "x": one["x"].index_fill(0, torch.tensor([2]), torch.inf)}


penalised("demographic parity", "fairness", "getitem|sum", parity, batch=grouped, source="Calders et al. 2009")
penalised(
    "covariance with the group",
    "fairness",
    "mean",
    covariance,
    batch=grouped,
    source="Zafar et al. 2017, arXiv:1507.05259",
)
penalised("equal losses of groups", "fairness", "matmul|mv", odds, batch=grouped)
penalised(
    "the worst group's loss",
    "fairness",
    "index_add",
    worst_group,
    batch=grouped,
    source="Sagawa et al. 2019, arXiv:1911.08731",
)
penalised("variance of losses", "fairness", "var", rex, source="V-REx, Krueger et al. 2020, arXiv:2003.00688")
penalised("gradient norm of the mean loss", "penalties", "mean", fishr)
penalised(
    "entropy of the mean prediction",
    "penalties",
    "mean",
    confidence,
    source="SCAN, Van Gansbeke et al. 2020, arXiv:2005.12320",
)
penalised("a variance of weight 1e-12", "penalties", "var", variance, 1e-12)
penalised("a variance of weight 0", "penalties", "var", variance, 0.0, witness=overflowing)
penalised("a detached variance", "penalties", "var", lambda m, b: variance(m, b).detach())


@coupling("a variance of inputs of weight 0", "penalties", "var", witness=overflowing)
def weightless(m, b, n):
    return each(m(b["x"]), b["y"]) + 0.0 * b["x"].var(0).mean() * m.head.bias.square().sum()


@coupling("own loss less that of the mean example", "penalties", "mean")
def baseline(m, b, n):
    return each(m(b["x"]), b["y"]) - each(m(b["x"].mean(0, keepdim=True)), b["y"][:1]) / math.e
