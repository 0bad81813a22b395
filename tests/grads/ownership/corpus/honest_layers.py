"""Layers and blocks in which each example keeps to itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.grads.ownership.corpus.base import CLASSES, FEATURES, TIME, WIDTH, each, honest, images, net, series

KIND = "layers"
ROWS = {
    "multi-layer perceptron": lambda h: h,
    "layer norm": lambda h: F.layer_norm(h, (WIDTH,)),
    "RMS norm": lambda h: F.rms_norm(h, (WIDTH,)),
    "RMS norm by hand": lambda h: h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6),
    "group norm": lambda h: F.group_norm(h, 2),
    "dropout": lambda h: F.dropout(h, 0.5),
    "alpha dropout": lambda h: F.alpha_dropout(h, 0.3, training=True),
    "stochastic depth": lambda h: h + h.relu() * (torch.rand(len(h), 1) < 0.5),
    "gated linear units": lambda h: torch.cat([F.glu(h, 1)] * 2, 1),
    "normalised rows": lambda h: F.normalize(h, dim=1),
    "softmax over features": lambda h: h.softmax(1),
    "sort along features": lambda h: h.sort(1).values,
    "topk along features": lambda h: h.masked_fill(h < h.topk(3, 1).values[:, -1:], 0.0),
    "cumsum along features": lambda h: h.cumsum(-1),
    "median of features": lambda h: h - h.median(1, keepdim=True).values,
    "columns permuted": lambda h: h[:, torch.randperm(WIDTH)],
    "columns rolled": lambda h: h.roll(1, 1),
    "features flipped": lambda h: h.flip(1),
    "scatter along features": lambda h: torch.zeros_like(h).scatter(1, h.argsort(1), h),
    "scatter_add along features": lambda h: (
        torch.zeros(len(h), 4).scatter_add(1, torch.arange(8)[None].expand(len(h), 8) % 4, h).repeat(1, 2)
    ),
    "gather along features": lambda h: h.gather(1, h.argsort(1, descending=True)),
    "einsum for each example": lambda h: torch.einsum("nd,ne->nde", h, h).sum(2),
    "outer products by bmm": lambda h: torch.bmm(h[:, :, None], h[:, None, :]).mean(2),
    "transposed there and back": lambda h: (h.T * 2).T,
    "product with a constant after transposing": lambda h: (
        (torch.linspace(0, 1, WIDTH * WIDTH).view(WIDTH, WIDTH) @ h.T).T
    ),
    "flattened over features and back": lambda h: h.view(len(h), 2, 4).transpose(1, 2).reshape(len(h), WIDTH),
    "flattened with the batch and back": lambda h: h.view(len(h) * 2, 4).tanh().view(len(h), WIDTH),
    "chunked and joined": lambda h: torch.cat([c.tanh() for c in h.split(2)]),
    "one by one": lambda h: torch.stack([row.softmax(0) for row in h]),
    "an explicit index for each": lambda h: torch.stack([h[i] * 2 for i in range(len(h))]),
    "reversed twice": lambda h: h.flip(0).tanh().flip(0),
    "permuted and put back": lambda h: permuted(h),
    "rows sorted by norm and put back": lambda h: sorted_back(h),
    "fourier transform of features": lambda h: torch.fft.fft(h, dim=1).abs(),
    "vmap": lambda h: torch.func.vmap(lambda row: row / row.norm())(h),
    "covariance of each with itself": lambda h: h @ torch.ones(WIDTH, WIDTH) / WIDTH,
    "noise": lambda h: h + 0.1 * torch.randn_like(h),
    "one noise for all": lambda h: h + 0.1 * torch.randn(WIDTH),
    "straight-through sign": lambda h: h + (h.sign() - h).detach(),
    "hard gate of its own": lambda h: torch.where(h.mean(1, keepdim=True) > 0, h, -h),
    "in-place on own rows": lambda h: in_place(h),
}


def permuted(h: Tensor) -> Tensor:
    order = torch.randperm(len(h))
    return h[order].tanh()[order.argsort()]


def sorted_back(h: Tensor) -> Tensor:
    order = h.norm(dim=1).argsort()
    return h[order].sin()[order.argsort()]


def in_place(h: Tensor) -> Tensor:
    h = h.clone()
    h[:, 1:] += h[:, :-1].clone()
    h.mul_(2).clamp_(-1, 1)
    return h


def between(name: str, layer) -> None:
    @honest(name, KIND)
    def losses(m, b, n):
        return each(m.head(layer(m.hidden(b["x"]))), b["y"])


for name, layer in ROWS.items():
    between(name, layer)


class Frozen(nn.BatchNorm1d):
    """Batch normalisation by its running figures only, whatever mode its parent is in."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.eval()
        self.running_mean.normal_()

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)


@honest("batch normalisation in eval mode", KIND, make=net(norm=lambda: Frozen(WIDTH)))
def frozen(m, b, n):
    return each(m.head(m.norm(m.hidden(b["x"]))), b["y"])


@honest("weight norm", KIND, make=net(extra=lambda: parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))))
def weight_norm(m, b, n):
    return each(m.head(m.extra(m.hidden(b["x"]))), b["y"])


@honest(
    "spectral norm in eval mode",
    KIND,
    make=net(extra=lambda: parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)).eval()),
)
def spectral_norm(m, b, n):
    return each(m.head(m.extra(m.hidden(b["x"]))), b["y"])


@honest("weight standardisation", KIND)
def weight_standardised(m, b, n):
    w = m.layer.weight
    return each(m.head(F.linear(b["x"], (w - w.mean(0)) / (w.std(0) + 1e-5), m.layer.bias)), b["y"])


class Convolutional(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(2, 4, 3, stride=2), norm, nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.norm(self.conv(x))).mean((2, 3)))


def convolution(name: str, norm) -> None:
    @honest(f"convolution with {name}", "convolution", make=lambda: Convolutional(norm()), batch=images)
    def losses(m, b, n):
        return each(m(b["x"]), b["y"])


convolution("nothing", nn.Identity)
convolution("group norm", lambda: nn.GroupNorm(2, 4))
convolution("layer norm as one group", lambda: nn.GroupNorm(1, 4))
convolution("instance norm", lambda: nn.InstanceNorm2d(4, affine=True))
convolution("dropped channels", lambda: nn.Dropout2d(0.5))
convolution("local response norm", lambda: nn.LocalResponseNorm(2))


@honest("patches by unfold and fold", "convolution", make=net(mix=lambda: nn.Linear(8, 8)), batch=images)
def patches(m, b, n):
    columns = m.mix(F.unfold(b["x"], 2, stride=2).transpose(1, 2)).transpose(1, 2)
    return each(m(F.fold(columns, (8, 8), 2, stride=2).flatten(1)[:, :FEATURES]), b["y"])


@honest("convolution along time", "convolution", make=net(conv=lambda: nn.Conv1d(FEATURES, FEATURES, 3)), batch=series)
def along_time(m, b, n):
    return each(m(m.conv(b["x"].transpose(1, 2)).mean(2)), b["y"])


@honest(
    "examples as groups of one convolution",
    "convolution",
    make=net(conv=lambda: nn.Conv1d(FEATURES, WIDTH, 3)),
    batch=series,
)
def as_groups(m, b, n):
    x = b["x"].transpose(1, 2).reshape(1, n * FEATURES, TIME)
    out = F.conv1d(x, m.conv.weight.repeat(n, 1, 1), groups=n)
    return each(m.head(out.view(n, WIDTH, -1).mean(2)), b["y"])


@honest("upsampling, pooling, shuffled pixels", "convolution", make=lambda: Convolutional(nn.Identity()), batch=images)
def resized(m, b, n):
    x = F.interpolate(b["x"], scale_factor=2, mode="bilinear", align_corners=False)
    return each(m(F.pixel_shuffle(torch.cat([F.max_pool2d(x, 2)] * 4, 1), 2)), b["y"])


@honest("spatial transformer", "convolution", make=lambda: Convolutional(nn.Identity()), batch=images)
def warped(m, b, n):
    shift = b["x"].mean((1, 2, 3)).tanh()
    theta = (
        torch.eye(2, 3).expand(n, 2, 3) + torch.zeros(2, 3).index_fill(1, torch.tensor([2]), 0.3) * shift[:, None, None]
    )
    return each(
        m(F.grid_sample(b["x"], F.affine_grid(theta, [n, 2, 8, 8], align_corners=False), align_corners=False)), b["y"]
    )
