"""Statistics of the batch between two layers: normalisation as shipped, by hand, and in disguise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.grads.ownership.corpus.base import CLASSES, FEATURES, WIDTH, coupling, each, images, net, series

EPS = 1e-5


def ghost(h: Tensor) -> Tensor:
    return torch.cat([(c - c.mean(0)) / (c.std(0, correction=0) + EPS) for c in h.chunk(2)])


def by_cumsum(h: Tensor) -> Tensor:
    return h - h.cumsum(0)[-1] / len(h)


def by_convolution(h: Tensor) -> Tensor:
    return F.conv1d(h.T[None], torch.full((WIDTH, 1, 3), 1 / 3), padding=1, groups=WIDTH)[0].T


def by_scatter(h: Tensor) -> Tensor:
    return h - torch.zeros(1, WIDTH).scatter_add(0, torch.zeros(h.shape, dtype=torch.long), h)


def by_index_add(h: Tensor) -> Tensor:
    return h - torch.zeros(1, WIDTH).index_add(0, torch.zeros(len(h), dtype=torch.long), h)


def by_loop(h: Tensor) -> Tensor:
    total = torch.zeros(WIDTH)
    for row in h:
        total = total + row
    return h - total / len(h)


def whitened_cholesky(h: Tensor) -> Tensor:
    factor = torch.linalg.cholesky(h.T @ h + torch.eye(WIDTH))
    return torch.linalg.solve_triangular(factor, h.T, upper=False).T


def whitened_eigh(h: Tensor) -> Tensor:
    values, basis = torch.linalg.eigh(torch.cov(h.T) + 0.1 * torch.diag(torch.arange(1.0, WIDTH + 1)))
    return h @ basis @ torch.diag(values.rsqrt()) @ basis.T


def renormalised(h: Tensor) -> Tensor:
    centre, spread = h.mean(0).detach(), h.std(0, correction=0).detach() + EPS
    return (h - centre) / spread * spread.clamp(0.5, 2.0) + centre.clamp(-1, 1)


def evolved(h: Tensor) -> Tensor:
    return h / torch.maximum((h.var(0, correction=0) + EPS).sqrt(), h + (h.var(1, keepdim=True) + EPS).sqrt())


ROWS = {
    "functional batch norm": ("batch_norm", lambda h: F.batch_norm(h, None, None, training=True)),
    "torch.native_batch_norm": (
        "batch_norm",
        lambda h: torch.native_batch_norm(h, None, None, None, None, True, 0.1, EPS)[0],
    ),
    "mean and standard deviation by hand": ("mean|std", lambda h: (h - h.mean(0)) / (h.std(0) + EPS)),
    "mean alone": ("mean", lambda h: h - h.mean(0)),
    "mean, detached": ("mean", lambda h: h - h.detach().mean(0, keepdim=True)),
    "var_mean": ("var_mean", lambda h: (h - torch.var_mean(h, 0)[1]) / (torch.var_mean(h, 0)[0] + EPS).sqrt()),
    "std_mean": ("std_mean", lambda h: h / (1 + torch.std_mean(h, 0, correction=0)[0])),
    "nanmean": ("nanmean", lambda h: h - h.nanmean(0)),
    "einsum": ("einsum", lambda h: h - torch.einsum("nd->d", h) / len(h)),
    "einsum with ones": ("einsum", lambda h: h - torch.einsum("nd,n->d", h, torch.ones(len(h))) / len(h)),
    "matmul with ones": ("matmul", lambda h: h - torch.ones(len(h), len(h)) @ h / len(h)),
    "a linear layer over the batch": ("linear", lambda h: h - F.linear(h.T, torch.ones(len(h), len(h))).T / len(h)),
    "centring matrix": ("mm", lambda h: torch.mm(torch.eye(len(h)) - 1 / len(h), h)),
    "tensordot": ("tensordot", lambda h: h - torch.tensordot(torch.ones(len(h)), h, 1)),
    "addmm": ("addmm", lambda h: torch.addmm(h, torch.ones(len(h), len(h)), h, alpha=-0.1)),
    "last row of cumsum": ("cumsum", by_cumsum),
    "running means along the batch": ("cumsum", lambda h: h - h.cumsum(0) / torch.arange(1, len(h) + 1)[:, None]),
    "logcumsumexp": ("logcumsumexp", lambda h: h - h.logcumsumexp(0)),
    "cummax": ("cummax", lambda h: h - h.cummax(0).values),
    "cumprod": ("cumprod", lambda h: h + h.cumprod(0)),
    "convolution over the batch": ("conv1d", by_convolution),
    "average pooling over the batch": ("avg_pool1d", lambda h: h - F.adaptive_avg_pool1d(h.T, 1).T),
    "maximum pooling over the batch": ("max_pool1d", lambda h: h - F.max_pool1d(h.T, len(h)).T),
    "logsumexp": ("logsumexp", lambda h: h - h.logsumexp(0)),
    "the least of sort": ("sort", lambda h: h - h.sort(0).values[0]),
    "argsort as rank": ("argsort", lambda h: h * h.argsort(0).argsort(0)),
    "median": ("median", lambda h: h - h.median(0).values),
    "quantile": ("quantile", lambda h: h - h.quantile(0.25, 0)),
    "topk": ("topk", lambda h: h - h.topk(1, 0).values),
    "kthvalue": ("kthvalue", lambda h: h - h.kthvalue(1, 0).values),
    "mode": ("mode", lambda h: h - h.mul(2).round().detach().mode(0).values),
    "maximum": ("max", lambda h: h / h.abs().max()),
    "amax": ("amax", lambda h: h - h.amax(0)),
    "aminmax": ("aminmax", lambda h: (h - torch.aminmax(h, dim=0).min) / (h.aminmax(dim=0).max + 2)),
    "product": ("prod", lambda h: h * h.prod(0)),
    "index_add to one row": ("index_add", by_index_add),
    "scatter_add to one row": ("scatter_add", by_scatter),
    "a Python loop": ("add", by_loop),
    "layer norm over batch and features": ("layer_norm", lambda h: F.layer_norm(h, h.shape)),
    "layer norm over the transposed": ("layer_norm", lambda h: F.layer_norm(h.T, (len(h),)).T),
    "group norm with examples as space": ("group_norm", lambda h: F.group_norm(h.T[None], 2)[0].T),
    "instance norm with examples as space": (
        "instance_norm",
        lambda h: F.instance_norm(h.T[None])[0].T if len(h) > 1 else h,
    ),
    "softmax over the batch": ("softmax", lambda h: h.softmax(0)),
    "log_softmax over the batch": ("log_softmax", lambda h: F.log_softmax(h, 0)),
    "normalize over the batch": ("normalize", lambda h: F.normalize(h, dim=0)),
    "norm of all": ("norm", lambda h: h / h.norm()),
    "vector_norm over the batch": ("vector_norm", lambda h: h / (1 + torch.linalg.vector_norm(h, dim=0))),
    "renorm of columns": ("renorm", lambda h: torch.renorm(h, 2, 1, 1.0)),
    "ghost batch norm": ("mean|std", ghost),
    "virtual batch norm with the first example": ("getitem|sub", lambda h: h - h[0]),
    "virtual batch norm with the last half": ("mean", lambda h: h - h[len(h) // 2 :].mean(0)),
    "select and sub": ("select|sub", lambda h: h - h.select(0, -1)),
    "whitening by Cholesky": ("matmul|cholesky", whitened_cholesky),
    "whitening by eigenvectors": ("cov", whitened_eigh),
    "orthogonal columns by QR": (
        "qr",
        lambda h: h + F.pad(torch.linalg.qr(h.T)[0].T, (0, 0, 0, max(0, len(h) - WIDTH))),
    ),
    "left singular vectors": ("svd", lambda h: h / (1 + torch.linalg.svdvals(h)[0])),
    "pseudo-inverse": ("pinv", lambda h: h + torch.linalg.pinv(h).T),
    "batch renormalisation": ("mean|std", renormalised),
    "EvoNorm B0": ("var", evolved),
    "fourier transform over the batch": ("fft", lambda h: torch.fft.fft(h, dim=0).abs()),
    "difference of neighbours": ("diff", lambda h: h + F.pad(h.diff(dim=0), (0, 0, 0, 1))),
    "trapezoid": ("trapezoid|trapz", lambda h: h - torch.trapezoid(h, dim=0)),
    "count of positive numbers": ("count_nonzero", lambda h: h * (h > 0).count_nonzero(0)),
    "histogram": ("histc", lambda h: h * torch.histc(h.detach(), WIDTH, -1, 1)),
    "split and sum": ("add", lambda h: h - sum(h.split(1))),
    "unbind and stack": ("stack|mean", lambda h: h - torch.stack(h.unbind(0)).mean(0)),
}
SOURCES = {
    "ghost batch norm": "Hoffer et al. 2017, arXiv:1705.08741",
    "batch renormalisation": "Ioffe 2017, arXiv:1702.03275",
    "EvoNorm B0": "Liu et al. 2020, arXiv:2004.02967",
    "whitening by Cholesky": "Siarohin et al. 2019, arXiv:1806.00420",
    "whitening by eigenvectors": "Huang et al. 2018, arXiv:1804.08450",
    "virtual batch norm with the first example": "Salimans et al. 2016, arXiv:1606.03498",
}


def between(name: str, by: str, normalise) -> None:
    @coupling(f"normalisation: {name}", "normalisation", by, source=SOURCES.get(name, ""))
    def losses(m, b, n):
        return each(m.head(normalise(m.hidden(b["x"]))), b["y"])


for name, (by, normalise) in ROWS.items():
    between(name, by, normalise)


@coupling("BatchNorm1d", "normalisation", "batch_norm", make=net(norm=lambda: nn.BatchNorm1d(WIDTH)))
def module(m, b, n):
    return each(m.head(m.norm(m.hidden(b["x"]))), b["y"])


@coupling("BatchNorm1d without running figures, in eval mode", "normalisation", "batch_norm",
          make=net(norm=lambda: nn.BatchNorm1d(WIDTH, track_running_stats=False).eval()))  # fmt: skip
def never_frozen(m, b, n):
    return each(m.head(m.norm(m.hidden(b["x"]))), b["y"])


@coupling(
    "BatchNorm1d with momentum 0",
    "normalisation",
    "batch_norm",
    make=net(norm=lambda: nn.BatchNorm1d(WIDTH, momentum=0.0)),
)
def still(m, b, n):
    return each(m.head(m.norm(m.hidden(b["x"]))), b["y"])


class ResidualNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.norm(self.conv(x))).mean((2, 3)))


@coupling("BatchNorm2d after a convolution", "normalisation", "batch_norm", make=ResidualNet, batch=images)
def convolutional(m, b, n):
    return each(m(b["x"]), b["y"])


@coupling(
    "norm over time and examples",
    "normalisation",
    "batch_norm",
    make=net(norm=lambda: nn.BatchNorm1d(FEATURES)),
    batch=series,
)
def over_time(m, b, n):
    return each(m(m.norm(b["x"].flatten(0, 1)).view_as(b["x"]).mean(1)), b["y"])


@coupling("layer norm of a batch laid out features last by mistake", "normalisation", "layer_norm",
          make=net(norm=lambda: nn.LayerNorm((1,), elementwise_affine=False)), batch=images)  # fmt: skip
def wrong_axis(m, b, n):
    x = b["x"].flatten(1)[:, :FEATURES]
    return each(m(F.layer_norm(x.movedim(0, -1), (n,)).movedim(-1, 0)), b["y"])
