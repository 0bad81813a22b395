"""Rows that travel and come home: experts, groups, chunks, loops; augmentation of each example by itself."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.grads.ownership.corpus.base import (
    CLASSES,
    FEATURES,
    WIDTH,
    each,
    grouped,
    honest,
    images,
    net,
    series,
    vectors,
)

KIND, OWN = "routing", "augmentation"
EXPERTS = 4


def experts():
    return net(
        gate=lambda: nn.Linear(WIDTH, EXPERTS),
        experts=lambda: nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(EXPERTS)),
    )


@honest("soft mixture of experts", KIND, make=experts())
def soft(m, b, n):
    h = m.hidden(b["x"])
    return each(m.head((torch.stack([e(h) for e in m.experts], 1) * m.gate(h).softmax(1)[:, :, None]).sum(1)), b["y"])


@honest("experts by where", KIND, make=experts())
def by_where(m, b, n):
    h = m.hidden(b["x"])
    mine = m.gate(h).argmax(1)
    return each(m.head(sum(torch.where(mine[:, None] == k, e(h), 0.0) for k, e in enumerate(m.experts))), b["y"])


@honest("experts by masks and index_add, some of them empty", KIND, make=experts(), source="Mixtral in transformers")
def index_add(m, b, n):
    h = m.hidden(b["x"])
    weight, chosen = m.gate(h).softmax(1).topk(2, 1)
    out, mask = torch.zeros_like(h), F.one_hot(chosen, EXPERTS).permute(2, 1, 0)
    for k, e in enumerate(m.experts):
        place, row = torch.where(mask[k])
        out.index_add_(0, row, e(h[row]) * weight[row, place, None])
    return each(m.head(out), b["y"])


@honest("experts by boolean index", KIND, make=experts())
def by_boolean(m, b, n):
    h = m.hidden(b["x"])
    mine, out = m.gate(h).argmax(1), torch.zeros(n, WIDTH)
    for k, e in enumerate(m.experts):
        out[mine == k] = e(h[mine == k])
    return each(m.head(out), b["y"])


@honest("experts by a stable sort and back", KIND, make=experts())
def by_sort(m, b, n):
    h = m.hidden(b["x"])
    mine = m.gate(h).argmax(1)
    order = mine.argsort(stable=True)
    parts = h[order].split(mine.bincount(minlength=EXPERTS).tolist())
    out = torch.cat([e(p) for e, p in zip(m.experts, parts, strict=True)])
    return each(m.head(torch.empty_like(out).index_copy(0, order, out)), b["y"])


@honest(
    "a head of its own for each group",
    KIND,
    batch=grouped,
    make=net(heads=lambda: nn.ModuleList(nn.Linear(WIDTH, CLASSES) for _ in range(2))),
)
def heads(m, b, n):
    h = m.hidden(b["x"])
    return each(torch.stack([head(h) for head in m.heads], 1)[torch.arange(n), b["group"]], b["y"])


@honest(
    "weights gathered for each example", KIND, batch=grouped, make=net(table=lambda: nn.Embedding(2, WIDTH * CLASSES))
)
def gathered(m, b, n):
    return each(torch.bmm(m.hidden(b["x"])[:, None], m.table(b["group"]).view(n, WIDTH, CLASSES))[:, 0], b["y"])


@honest(
    "a network that writes each example's weights",
    KIND,
    make=net(writer=lambda: nn.Linear(FEATURES, WIDTH * CLASSES)),
    source="Ha et al. 2016, arXiv:1609.09106",
)
def written(m, b, n):
    return each(torch.einsum("nd,ndc->nc", m.hidden(b["x"]), m.writer(b["x"]).view(n, WIDTH, CLASSES)), b["y"])


@honest(
    "feature-wise modulation",
    KIND,
    batch=grouped,
    make=net(table=lambda: nn.Embedding(2, 2 * WIDTH)),
    source="FiLM, Perez et al. 2017, arXiv:1709.07871",
)
def modulated(m, b, n):
    scale, shift = m.table(b["group"]).chunk(2, 1)
    return each(m.head(m.hidden(b["x"]) * scale + shift), b["y"])


@honest("loop over examples", KIND)
def loop(m, b, n):
    return torch.stack([F.cross_entropy(m(b["x"][i]), b["y"][i]) for i in range(n)])


@honest("loop over rows by iteration", KIND)
def iterated(m, b, n):
    return torch.stack([each(m(x[None]), y[None])[0] for x, y in zip(b["x"], b["y"], strict=True)])


@honest("loop that writes its own places", KIND)
def written_places(m, b, n):
    own = torch.zeros(n)
    for i in range(n):
        own[i] = F.cross_entropy(m(b["x"][i : i + 1]), b["y"][i : i + 1])
    return own


@honest("chunks of two", KIND)
def chunks(m, b, n):
    return torch.cat([each(m(x), y) for x, y in zip(b["x"].split(2), b["y"].split(2), strict=True)])


@honest("halves by slices", KIND)
def halves(m, b, n):
    return torch.cat([each(m(b["x"][s]), b["y"][s]) for s in (slice(n // 2), slice(n // 2, n))])


@honest("examples by index_select and scatter back", KIND)
def back(m, b, n):
    order = torch.arange(n - 1, -1, -1)
    h = m.hidden(b["x"].index_select(0, order))
    return each(m.head(torch.zeros_like(h).scatter(0, order[:, None].expand_as(h), h)), b["y"])


@honest("time folded into the batch", KIND, batch=series)
def folded(m, b, n):
    return each(m(b["x"].flatten(0, 1)).unflatten(0, (n, -1)).mean(1), b["y"])


@honest("time first, folded", KIND, batch=series)
def folded_time_first(m, b, n):
    s = m(b["x"].transpose(0, 1).reshape(-1, FEATURES)).view(-1, n, CLASSES)
    return each(s.mean(0), b["y"])


@honest("copies of each example, averaged", KIND)
def copies(m, b, n):
    s = m(F.dropout(b["x"].repeat_interleave(3, 0), 0.2))
    return each(s.view(n, 3, CLASSES).mean(1), b["y"])


@honest("copies of the batch, averaged", KIND)
def batches(m, b, n):
    return each(m(b["x"].repeat(3, 1) + torch.randn(3 * n, FEATURES)).view(3, n, CLASSES).mean(0), b["y"])


@honest(
    "ensemble by expanded weights",
    KIND,
    source="BatchEnsemble, Wen et al. 2020, arXiv:2002.06715",
    make=net(scales=lambda: nn.Embedding(3, FEATURES)),
)
def ensemble(m, b, n):
    return m(b["x"][None] * m.scales.weight[:, None]).log_softmax(-1).mean(0).gather(1, b["y"][:, None]).neg()[:, 0]


@honest("random members of the ensemble for each", KIND, make=net(scales=lambda: nn.Embedding(3, FEATURES)))
def members(m, b, n):
    return each(m(b["x"] * m.scales(torch.randint(3, (n,)))), b["y"])


@honest("early exit of each by where", KIND)
def early_exit(m, b, n):
    h = m.hidden(b["x"])
    first, second = m.head(h), m.head(h * 2)
    return each(torch.where(first.softmax(1).amax(1, keepdim=True) > 0.5, first, second), b["y"])


@honest("halting weights", KIND, source="adaptive computation, Graves 2016, arXiv:1603.08983")
def halting(m, b, n):
    h, left, total = m.hidden(b["x"]), torch.ones(n), torch.zeros(n)
    for _ in range(3):
        s = m.head(h)
        stop = s[:, 0].sigmoid() * left
        total, left, h = total + stop * each(s, b["y"]), left - stop, (h * 1.5).tanh()
    return total + left * each(m.head(h), b["y"])


@honest(
    "fixed-point iteration, a fixed number of times",
    KIND,
    source="deep equilibrium, Bai et al. 2019",
    make=net(inner=lambda: nn.Linear(WIDTH, WIDTH)),
)
def fixed_point(m, b, n):
    h = torch.zeros(n, WIDTH)
    for _ in range(4):
        h = (m.inner(h) + m.layer(b["x"])).tanh()
    return each(m.head(h), b["y"])


@honest("linear systems of each", KIND)
def systems(m, b, n):
    h = m.hidden(b["x"])
    matrix = torch.eye(WIDTH) + 0.1 * h[:, :, None] * h[:, None, :]
    return each(m.head(torch.linalg.solve(matrix, h)), b["y"])


@honest("eigenvalues of each", KIND, batch=series)
def eigenvalues(m, b, n):
    h = m.hidden(b["x"])
    return each(m.head(torch.linalg.eigvalsh(h.mT @ h + torch.diag(torch.arange(8.0)))), b["y"])


@honest("Sinkhorn of each", KIND, batch=series)
def sinkhorn(m, b, n):
    s = m(b["x"])
    for _ in range(3):
        s = s - s.logsumexp(1, keepdim=True)
        s = s - s.logsumexp(2, keepdim=True)
    return each(s.mean(1), b["y"])


@honest("random flips by where", OWN, batch=images)
def flips(m, b, n):
    x = torch.where(torch.rand(n, 1, 1, 1) < 0.5, b["x"].flip(-1), b["x"])
    return each(m(x.mean(1)[:, :, :FEATURES].mean(1)), b["y"])


@honest("one flip for all", OWN, batch=images)
def flip_for_all(m, b, n):
    x = b["x"].flip(-1) if torch.rand(()) < 0.5 else b["x"]
    return each(m(x.mean(1)[:, :, :FEATURES].mean(1)), b["y"])


@honest("random erasing of each", OWN, batch=images)
def erasing(m, b, n):
    hole = (torch.arange(8)[None] - torch.randint(8, (n, 1))).abs() < 2
    x = b["x"].masked_fill(hole[:, None, None], 0.0)
    return each(m(x.mean((1, 2))[:, :FEATURES]), b["y"])


@honest("random crops of each by Python's generator", OWN, batch=images)
def crops(m, b, n):
    x = torch.stack(
        [image[:, k : k + FEATURES] for image, k in zip(b["x"], [random.randint(0, 2) for _ in range(n)], strict=True)]
    )
    return each(m(x.mean((1, 3))), b["y"])


@honest("noise by numpy's generator", OWN)
def numpy_noise(m, b, n):
    return each(m(b["x"] + torch.from_numpy(np.random.randn(n, FEATURES)).type_as(b["x"])), b["y"])


@honest("mixup of an example with its own second view", OWN, batch=series)
def own_mixup(m, b, n):
    share = torch.distributions.Beta(torch.ones(n, 1), torch.ones(n, 1)).sample()
    return each(m(torch.lerp(b["x"][:, 0], b["x"][:, 1], share)), b["y"])


@honest("mixup with a fixed reference", OWN, make=net(reference=lambda: nn.Embedding(1, FEATURES)))
def reference_mixup(m, b, n):
    return each(m(b["x"].lerp(m.reference.weight, 0.3)), b["y"])


@honest("time steps masked", OWN, batch=series, source="SpecAugment, Park et al. 2019, arXiv:1904.08779")
def masked_steps(m, b, n):
    return each(m((b["x"] * (torch.rand(n, b["x"].shape[1], 1) > 0.3)).mean(1)), b["y"])


@honest("time steps shuffled in each", OWN, batch=series)
def shuffled_steps(m, b, n):
    order = torch.rand(n, b["x"].shape[1]).argsort(1)
    x = b["x"].gather(1, order[:, :, None].expand_as(b["x"]))
    return each(m((x * torch.arange(1.0, 6.0)[:, None]).mean(1)), b["y"])


@honest("standardised by itself", OWN, batch=images)
def standardised(m, b, n):
    x = b["x"].flatten(1)
    x = (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)
    return each(m(x[:, :FEATURES]), b["y"])


@honest("standardised by constants", OWN, make=net(scale=lambda: Scale()))
def by_constants(m, b, n):
    return each(m((b["x"] - m.scale.mean) / m.scale.std), b["y"])


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.linspace(-1, 1, FEATURES))
        self.register_buffer("std", torch.linspace(1, 2, FEATURES))


@honest("fourier features", OWN, make=net(back=lambda: nn.Linear(2 * WIDTH, WIDTH)), batch=vectors)
def fourier(m, b, n):
    angle = b["x"] @ torch.linspace(-1, 1, FEATURES * WIDTH).view(FEATURES, WIDTH)
    return each(m.head(m.back(torch.cat([angle.sin(), angle.cos()], 1))), b["y"])


@honest("a table of hashed features", OWN, batch=grouped, make=net(table=lambda: nn.Embedding(7, FEATURES)))
def hashed(m, b, n):
    key = (b["group"] * 31 + b["y"] * 17) % 7
    return each(m(b["x"] + m.table(key)), b["y"])


@honest("bins of a feature by fixed limits", OWN, make=net(table=lambda: nn.Embedding(4, FEATURES)))
def bins(m, b, n):
    key = torch.bucketize(b["x"][:, 0].contiguous(), torch.tensor([-1.0, 0.0, 1.0]))
    return each(m(b["x"] + m.table(key)), b["y"])


def mean_of(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean(0)


@honest("Monte Carlo dropout, ten passes", OWN)
def monte_carlo(m, b, n):
    return each(mean_of([m(F.dropout(b["x"], 0.3)) for _ in range(10)]), b["y"])
