"""Experts with capacities, expert choice, and penalties for the balance of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.grads.ownership.corpus.base import WIDTH, coupling, each, net

KIND = "experts"
EXPERTS = 3


def experts():
    return net(
        gate=lambda: nn.Linear(WIDTH, EXPERTS),
        experts=lambda: nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(EXPERTS)),
    )


def routed(m, h: Tensor, kept: Tensor) -> Tensor:
    """Send row i to the experts k of `kept[i, k]`, all rows through each expert."""
    return torch.stack([torch.where(kept[:, k : k + 1], e(h), 0.0) for k, e in enumerate(m.experts)]).sum(0)


def switched(name: str, capacity: int, by: str, **facts) -> None:
    @coupling(name, KIND, by, make=experts(), source="Switch, Fedus et al. 2021, arXiv:2101.03961", **facts)
    def losses(m, b, n):
        h = m.hidden(b["x"])
        mine = F.one_hot(m.gate(h).argmax(1), EXPERTS)
        return each(m.head(routed(m, h, (mine * mine.cumsum(0) <= capacity) & (mine == 1))), b["y"])


def crowd() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Five records alike fill an expert; the first of them elsewhere leaves room for the last."""
    x = torch.tensor([[1.0], [1.0], [1.0], [1.0], [1.0]]) * torch.linspace(-1, 1, 6)
    y = torch.zeros(5, dtype=torch.long)
    other = torch.cat([-x[:1], x[1:]])
    return {"x": x, "y": y}, {"x": other, "y": y}


switched("experts with a capacity of one", 1, "cumsum")
switched("experts with a capacity seldom reached", 4, "cumsum", witness=crowd)


@coupling("the balance of loads", KIND, "mean", make=experts(), source="Switch, Fedus et al. 2021, arXiv:2101.03961")
def balance(m, b, n):
    h = m.hidden(b["x"])
    p = m.gate(h).softmax(1)
    chosen = F.one_hot(p.argmax(1), EXPERTS)
    penalty = EXPERTS * (chosen.type_as(p).mean(0) * p.mean(0)).sum()
    return each(m.head(routed(m, h, chosen == 1)), b["y"]) + 0.01 * penalty


@coupling(
    "the importance of experts", KIND, "sum|std|var", make=experts(), source="Shazeer et al. 2017, arXiv:1701.06538"
)
def importance(m, b, n):
    h = m.hidden(b["x"])
    p = m.gate(h).softmax(1)
    load = p.sum(0)
    return each(m.head(routed(m, h, p > 0.2)), b["y"]) + (load.std() / load.mean()).square()


@coupling("experts choose their examples", KIND, "topk", make=experts(), source="Zhou et al. 2022, arXiv:2202.09368")
def expert_choice(m, b, n):
    h = m.hidden(b["x"])
    share = m.gate(h).softmax(1)
    chosen = share.topk(max(1, n // 2), 0).indices
    kept = torch.zeros(n, EXPERTS, dtype=torch.bool).scatter(0, chosen, True)
    return each(m.head(routed(m, h, kept)), b["y"])


@coupling("a dispatch by sorted order without going back", KIND, "argsort|getitem", make=experts())
def unsorted(m, b, n):
    h = m.hidden(b["x"])
    order = m.gate(h).argmax(1).argsort(stable=True)
    return each(m.head(h[order]), b["y"])


@coupling(
    "soft experts: slots mix examples",
    KIND,
    "softmax",
    make=experts(),
    source="Puigcerver et al. 2023, arXiv:2308.00951",
)
def soft(m, b, n):
    h = m.hidden(b["x"])
    scores = m.gate(h)
    slots = torch.stack([e(s) for e, s in zip(m.experts, scores.softmax(0).T @ h, strict=True)])
    return each(m.head(scores.softmax(1) @ slots), b["y"])


@coupling("Sinkhorn routing", KIND, "sum", make=experts(), source="BASE layers, Lewis et al. 2021, arXiv:2103.16716")
def base_layers(m, b, n):
    h = m.hidden(b["x"])
    p = m.gate(h).exp()
    for _ in range(2):
        p = p / p.sum(0)
        p = p / p.sum(1, keepdim=True)
    return each(m.head(h * p.amax(1, keepdim=True)), b["y"])


@coupling("one expert for all by majority", KIND, "mode|item|__int__|__index__", make=experts())
def majority(m, b, n):
    h = m.hidden(b["x"])
    return each(m.head(m.experts[int(m.gate(h).argmax(1).mode().values)](h)), b["y"])


@coupling("early exit of the whole batch", KIND, "__bool__", make=experts())
def early_exit(m, b, n):
    h = m.hidden(b["x"])
    for e in m.experts:
        if m.head(h).softmax(1).max() > 0.55:
            break
        h = h + e(h)
    return each(m.head(h), b["y"])


@coupling("vector quantisation with the batch as code book", KIND, "cdist|getitem|argmin")
def quantised(m, b, n):
    h = m.hidden(b["x"])
    code = (torch.cdist(h, h) + 1e3 * torch.eye(n)).argmin(1)
    return each(m.head(h + (h[code] - h).detach()), b["y"])
