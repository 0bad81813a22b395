"""State: what a batch leaves in the module, and the next batch's losses read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.grads.ownership.corpus.base import CLASSES, FEATURES, WIDTH, Net, coupling, each, net, pairs

KIND = "state"


class Kept(Net):
    """`Net` with a buffer, a queue, a list and a number that a step may fill."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", torch.zeros(12, WIDTH))
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.register_buffer("centres", torch.zeros(CLASSES, WIDTH))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.seen: list[Tensor] = []
        self.scale = 1.0
        self.generator = torch.Generator().manual_seed(0)


def later(name: str, by: str, **facts):
    return coupling(name, KIND, by, **{"make": Kept, "later": True, **facts})


@later("a queue of keys", "setitem|copy_|cat", batch=pairs, source="MoCo, He et al. 2019, arXiv:1911.05722")
def moco(m, b, n):
    q, k = m.hidden(b["x"]), m.hidden(b["z"]).detach()
    scores = torch.cat([(q * k).sum(1, keepdim=True), q @ m.queue.clone().T], 1)
    m.queue = torch.cat([k, m.queue])[:12]
    return each(scores, torch.zeros(n, dtype=torch.long))


@later("a queue written in place", "setitem", batch=pairs, source="MoCo, He et al. 2019, arXiv:1911.05722")
def moco_in_place(m, b, n):
    q, k = m.hidden(b["x"]), m.hidden(b["z"]).detach()
    scores = torch.cat([(q * k).sum(1, keepdim=True), q @ m.queue.clone().T], 1)
    m.queue[:n] = k
    return each(scores, torch.zeros(n, dtype=torch.long))


@later("a running mean", "mean|lerp_|mul_|add_")
def running(m, b, n):
    h = m.hidden(b["x"])
    own = each(m.head(h - m.mean.clone()), b["y"])
    m.mean.lerp_(h.detach().mean(0), 0.1)
    return own


@later(
    "batch norm in eval mode whose figures are written by hand",
    "batch_norm|mean|copy_|lerp_",
    make=net(norm=lambda: nn.BatchNorm1d(WIDTH).eval()),
)
def by_hand(m, b, n):
    h = m.hidden(b["x"])
    own = each(m.head(m.norm(h)), b["y"])
    m.norm.running_mean = 0.9 * m.norm.running_mean + 0.1 * h.detach().mean(0)
    return own


@later("centres of classes", "index_add|setitem|lerp_|add_", source="centre loss, Wen et al. 2016")
def centre_loss(m, b, n):
    h = m.hidden(b["x"])
    own = each(m.head(h), b["y"]) + (h - m.centres[b["y"]]).square().sum(1)
    m.centres = m.centres.index_add(0, b["y"], 0.1 * (h.detach() - m.centres[b["y"]]))
    return own


@later(
    "prototypes by .data",
    "data|lerp_|getitem|mean",
    make=net(book=lambda: nn.Embedding(CLASSES, WIDTH)),
    source="prototypical networks, Snell et al. 2017",
)
def prototypes(m, b, n):
    h = m.hidden(b["x"])
    own = each(-torch.cdist(h, m.book.weight.clone()), b["y"])
    for k in range(CLASSES):
        m.book.weight.data[k] = m.book.weight.data[k] * 0.9 + 0.1 * h[b["y"] == k].detach().sum(0)
    return own


@later("a code book by moving averages", "matmul|mm|lerp_|add_", source="VQ-VAE, Oord et al. 2017, arXiv:1711.00937")
def code_book(m, b, n):
    h = m.hidden(b["x"])
    chosen = F.one_hot(torch.cdist(h, m.centres + torch.eye(CLASSES, WIDTH)).argmin(1), CLASSES).type_as(h)
    own = each(m.head(h + (chosen @ m.centres - h).detach()), b["y"])
    m.centres = 0.9 * m.centres + 0.1 * chosen.T @ h.detach()
    return own


@later("a list of hidden rows", "detach|append", make=Kept)
def listed(m, b, n):
    h = m.hidden(b["x"])
    own = each(m.head(h - (m.seen[-1] if m.seen else 0.0)), b["y"])
    m.seen.append(h.detach()[-1])
    return own


@later("a Python number from the loss", "item|__float__")
def number(m, b, n):
    own = each(m(b["x"]), b["y"])
    scaled = own / m.scale
    m.scale = 0.9 * m.scale + 0.1 * own.mean().item()
    return scaled


@later("a counter of a rare class", "sum|add_|iadd")
def counter(m, b, n):
    own = each(m(b["x"]), b["y"]) / (1 + m.count)
    m.count = m.count + (b["y"] == 1).sum()
    return own


@later("class counts as priors", "bincount")
def priors(m, b, n):
    own = each(m(b["x"]) + (1 + m.centres[:, 0]).log(), b["y"])
    m.centres = m.centres + b["y"].bincount(minlength=CLASSES)[:, None]
    return own


@later("the state of a recurrent network kept", "gru", make=lambda: stateful())
def carried(m, b, n):
    out, m.state = m.rnn(b["x"][:, None], None if m.state is None else m.state.detach())
    return each(m.head(out[:, 0]), b["y"])


def stateful() -> Net:
    m = Net(rnn=nn.GRU(FEATURES, WIDTH, batch_first=True))
    m.state = None
    return m


@later("the running largest", "max|maximum|amax", source="observer of a quantised model")
def observer(m, b, n):
    h = m.hidden(b["x"])
    own = each(m.head((h / (1 + m.mean.max()) * 8).round() / 8 + h - h.detach()), b["y"])
    m.mean = torch.maximum(m.mean, h.detach().abs().amax(0))
    return own


@later("a teacher's centre", "mean", batch=pairs, source="DINO, Caron et al. 2021, arXiv:2104.14294")
def centre(m, b, n):
    teacher = m.hidden(b["z"]).detach()
    own = -((teacher - m.mean).softmax(1) * m.hidden(b["x"]).log_softmax(1)).sum(1)
    m.mean = 0.9 * m.mean + 0.1 * teacher.mean(0)
    return own


@later("return normalisation", "std|var", source="PopArt, van Hasselt et al. 2016, arXiv:1602.07714")
def popart(m, b, n):
    own = (m(b["x"])[:, 0] - b["x"][:, 0] / m.scale).square()
    m.scale = 0.9 * m.scale + 0.1 * b["x"][:, 0].std(correction=0)
    return own


@later("a parameter that takes the data", "add_|mean", make=Kept)
def overwritten(m, b, n):
    own = each(m(b["x"]), b["y"])
    with torch.no_grad():
        m.head.bias[:1].mul_(0.9).add_(0.1 * own.mean())
    return own


@later("a penalty by the loss of the last batch", "mean|clone|detach", make=Kept)
def momentum(m, b, n):
    own = each(m(b["x"]), b["y"])
    weighed = own * (own.detach() > m.count)
    m.count = own.detach().mean()
    return weighed + own


@later(
    "memory bank by the row of the example", "setitem|index_copy", make=Kept, source="Wu et al. 2018, arXiv:1805.01978"
)
def bank(m, b, n):
    h = m.hidden(b["x"])
    own = each(h @ m.queue.clone().T, torch.arange(n))
    m.queue = m.queue.index_copy(0, torch.arange(n), h.detach())
    return own


@later("the generator moved by the data", "item|__int__|nonzero")
def generator(m, b, n):
    own = each(m(b["x"] + torch.randn(n, FEATURES, generator=m.generator)), b["y"])
    m.generator.manual_seed(int(b["y"].sum()))
    return own
