"""Examples blended, exchanged or shifted before, or inside, the model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.grads.ownership.corpus.base import (
    FEATURES,
    TIME,
    WIDTH,
    coupling,
    each,
    images,
    net,
    reader,
    series,
    tokens,
    vectors,
)

KIND = "augmentation"


@coupling("mixup with a permutation", KIND, "getitem|index", source="Zhang et al. 2017, arXiv:1710.09412")
def mixup(m, b, n):
    other, share = torch.randperm(n), 0.3
    s = m((1 - share) * b["x"] + share * b["x"][other])
    return (1 - share) * each(s, b["y"]) + share * each(s, b["y"][other])


@coupling("mixup with the batch in reverse order", KIND, "flip", source="timm, Mixup")
def reversed_mixup(m, b, n):
    return each(m(b["x"].lerp(b["x"].flip(0), 0.2)), b["y"])


@coupling("mixup with the next", KIND, "roll")
def rolled_mixup(m, b, n):
    return each(m(b["x"].lerp(b["x"].roll(1, 0), 0.5)), b["y"])


@coupling("mixup of labels only", KIND, "roll")
def label_mixup(m, b, n):
    target = F.one_hot(b["y"], 3).type_as(b["x"])
    return F.cross_entropy(m(b["x"]), target.lerp(target.roll(1, 0), 0.1), reduction="none")


@coupling("mixup with a constant matrix of shares", KIND, "matmul|mm|einsum")
def matrix_mixup(m, b, n):
    shares = torch.rand(n, n).softmax(1)
    return each(m(torch.einsum("ij,jd->id", shares, b["x"])), b["y"])


@coupling("manifold mixup", KIND, "index_select", source="Verma et al. 2018, arXiv:1806.05236")
def manifold_mixup(m, b, n):
    h = m.hidden(b["x"])
    return each(m.head(0.8 * h + 0.2 * h.index_select(0, torch.arange(n - 1, -1, -1))), b["y"])


@coupling("cutmix", KIND, "roll|setitem", batch=images, make=net(), source="Yun et al. 2019, arXiv:1905.04899")
def cutmix(m, b, n):
    x = b["x"].clone()
    x[:, :, 2:6, :] = b["x"].roll(1, 0)[:, :, 2:6, :]
    return each(m(x.mean(1).flatten(1)[:, 20 : 20 + FEATURES]), b["y"])


@coupling("SMOTE between neighbours of a class", KIND, "cdist|getitem|index", source="Chawla et al. 2002")
def smote(m, b, n):
    far = torch.cdist(b["x"], b["x"]) + 1e6 * (b["y"][:, None] != b["y"])
    near = far.fill_diagonal_(torch.inf).argmin(1)
    return each(m(b["x"] + torch.rand(n, 1) * (b["x"][near] - b["x"])), b["y"])


@coupling("shuffled examples with their own labels left", KIND, "getitem|index")
def shuffled(m, b, n):
    return each(m(b["x"][torch.randperm(n)]), b["y"])


@coupling(
    "features of one column shuffled between examples",
    KIND,
    "getitem|index",
    source="Breiman 2001, permutation importance",
)
def column_shuffled(m, b, n):
    x = torch.cat([b["x"][torch.randperm(n), :1], b["x"][:, 1:]], 1)
    return each(m(x), b["y"])


@coupling("swap noise", KIND, "gather", source="Porto Seguro, first place 2017")
def swap_noise(m, b, n):
    return each(m(b["x"].gather(0, torch.randint(n, (n, FEATURES)))), b["y"])


@coupling("take_along_dim", KIND, "take_along_dim")
def taken(m, b, n):
    return each(m(torch.take_along_dim(b["x"], torch.arange(n)[:, None].roll(1, 0).expand(n, FEATURES), 0)), b["y"])


@coupling("torch.take of the flat batch", KIND, "take")
def flat_taken(m, b, n):
    return each(
        m(b["x"].take(torch.arange(n * FEATURES).add(FEATURES).remainder(n * FEATURES).view(n, FEATURES))), b["y"]
    )


@coupling("shift by padding", KIND, "pad|getitem|add")
def padded_shift(m, b, n):
    return each(m(b["x"] + F.pad(b["x"], (0, 0, 1, 0))[:-1]), b["y"])


@coupling("shift by cat", KIND, "cat|add")
def joined_shift(m, b, n):
    return each(m(b["x"] + torch.cat([b["x"][1:], b["x"][:1]])), b["y"])


@coupling("shift by narrow", KIND, "narrow|cat")
def narrowed(m, b, n):
    return each(m(torch.cat([b["x"].narrow(0, 1, n - 1), b["x"].narrow(0, 0, 1)])), b["y"])


@coupling("in-place addition of the row before", KIND, "iadd|setitem|add")
def in_place(m, b, n):
    x = b["x"].clone()
    x[1:] += b["x"][:-1]
    return each(m(x), b["y"])


@coupling("index_copy of another row", KIND, "index_copy")
def copied(m, b, n):
    return each(m(b["x"].index_copy(0, torch.tensor([0]), b["x"][-1:])), b["y"])


@coupling("scatter by a permutation of rows", KIND, "scatter")
def scattered(m, b, n):
    to = torch.arange(n).roll(1)[:, None].expand(n, FEATURES)
    return each(m(torch.zeros_like(b["x"]).scatter(0, to, b["x"])), b["y"])


@coupling("index_put", KIND, "index_put")
def index_put(m, b, n):
    return each(m(b["x"].index_put((torch.tensor([n - 1]),), b["x"][:1] * 2)), b["y"])


@coupling("masked_scatter in the order of the batch", KIND, "masked_scatter")
def masked_scatter(m, b, n):
    return each(m(torch.zeros_like(b["x"]).masked_scatter(b["x"] > 0, b["x"])), b["y"])


@coupling("as_strided with an offset of one row", KIND, "as_strided")
def strided(m, b, n):
    x = b["x"].contiguous()
    return each(m(torch.cat([x.as_strided((n - 1, FEATURES), (FEATURES, 1), FEATURES), x[:1]])), b["y"])


@coupling("as_strided with overlapping rows", KIND, "as_strided")
def overlapping(m, b, n):
    x = torch.cat([b["x"], b["x"][:1]]).flatten()
    return each(m(x.as_strided((n, FEATURES), (FEATURES, 1), FEATURES // 2)), b["y"])


@coupling("windows of two examples", KIND, "unfold")
def windows(m, b, n):
    return each(m(torch.cat([b["x"], b["x"][:1]]).unfold(0, 2, 1).mean(2)), b["y"])


@coupling("reshape to the transposed", "reshaping", "reshape|view")
def reshaped(m, b, n):
    return each(m.head(m.hidden(b["x"]).reshape(WIDTH, n).T), b["y"])


@coupling("view as half as many rows", "reshaping", "view|flip|cat")
def halves(m, b, n):
    x = torch.cat([b["x"], b["x"]]).view(n, 2 * FEATURES)
    return each(m(x[:, :FEATURES] + x[:, FEATURES:]), b["y"])


@coupling("pairs of examples as features", "reshaping", "view|reshape|mean")
def as_pairs(m, b, n):
    x = torch.cat([b["x"], b["x"]])
    return each(m(x.view(n, 2, FEATURES).mean(1).tanh()), b["y"])


@coupling("a Gram matrix back on the batch", "reshaping", "matmul|mm")
def gram(m, b, n):
    return each(m(b["x"] @ (b["x"].T @ b["x"])), b["y"])


@coupling("repeat for repeat_interleave", "reshaping", "view|reshape|repeat", batch=series)
def repeated(m, b, n):
    s = m(b["x"].reshape(n * TIME, FEATURES))
    return each(s, b["y"].repeat(TIME)).view(n, TIME).mean(1)


@coupling("time and batch exchanged before flattening", "reshaping", "transpose|reshape|view|flatten", batch=series)
def exchanged(m, b, n):
    s = m(b["x"].transpose(0, 1).reshape(n * TIME, FEATURES)).view(n, TIME, -1)
    return each(s.mean(1), b["y"])


@coupling("bilinear interpolation through the batch", "reshaping", "interpolate", batch=images)
def interpolated(m, b, n):
    x = F.interpolate(b["x"].flatten(1)[None, None, :, :FEATURES], (n, FEATURES), mode="bilinear", align_corners=False)
    x = F.interpolate(x, (2 * n, FEATURES), mode="bilinear", align_corners=False)[0, 0, ::2]
    return each(m(x), b["y"])


@coupling(
    "LSTM that takes examples for time",
    "batch as time",
    "lstm",
    batch=series,
    make=net(rnn=lambda: nn.LSTM(FEATURES, WIDTH)),
)
def batch_first_forgotten(m, b, n):
    return each(m.head(m.rnn(b["x"])[0].mean(1)), b["y"])


@coupling("GRU without a batch", "batch as time", "gru", make=net(rnn=lambda: nn.GRU(FEATURES, WIDTH)))
def unbatched(m, b, n):
    return each(m.head(m.rnn(b["x"])[0]), b["y"])


@coupling(
    "convolution with examples as time",
    "batch as time",
    "conv1d",
    make=net(conv=lambda: nn.Conv1d(FEATURES, WIDTH, 3, padding=1)),
)
def convolved(m, b, n):
    return each(m.head(m.conv(b["x"].T).T), b["y"])


@coupling("3d convolution with examples as depth", "batch as time", "conv3d", batch=images,
          make=net(conv=lambda: nn.Conv3d(2, FEATURES, 3, padding=1)))  # fmt: skip
def deep(m, b, n):
    return each(m(m.conv(b["x"].transpose(0, 1)).mean((2, 3)).T), b["y"])


@coupling("attention with examples as a sequence", "batch as time", "multi_head_attention|attention",
          make=net(mix=lambda: nn.MultiheadAttention(FEATURES, 2)))  # fmt: skip
def attending(m, b, n):
    return each(m(m.mix(b["x"], b["x"], b["x"])[0]), b["y"])


@coupling("attention with batch_first forgotten", "batch as time", "multi_head_attention|attention", batch=series,
          make=net(mix=lambda: nn.MultiheadAttention(FEATURES, 2)))  # fmt: skip
def forgetful(m, b, n):
    return each(m(m.mix(b["x"], b["x"], b["x"])[0].mean(1)), b["y"])


@coupling("scaled dot product of examples", "batch as time", "scaled_dot_product")
def dotted(m, b, n):
    h = m.hidden(b["x"])
    return each(m.head(F.scaled_dot_product_attention(h, h, h)), b["y"])


@coupling("attention to earlier examples only", "batch as time", "scaled_dot_product")
def causal(m, b, n):
    h = m.hidden(b["x"])[None]
    return each(m.head(F.scaled_dot_product_attention(h, h, h, is_causal=True)[0]), b["y"])


@coupling("intersample attention", "batch as time", "matmul", source="SAINT, Somepalli et al. 2021, arXiv:2106.01342")
def intersample(m, b, n):
    h = m.hidden(b["x"])
    return each(m.head((torch.matmul(h, h.t()) / WIDTH**0.5).softmax(1) @ h), b["y"])


@coupling("a set transformer over the batch", "batch as time", "bmm|baddbmm|matmul", source="Lee et al. 2018, arXiv:1810.00825",
          make=net(seeds=lambda: nn.Linear(WIDTH, 2)))  # fmt: skip
def inducing(m, b, n):
    h = m.hidden(b["x"])[None]
    pooled = torch.bmm(m.seeds.weight[None], h.mT).softmax(2).bmm(h)
    return each(m.head(h[0] + torch.bmm(h, pooled.mT).softmax(2).bmm(pooled)[0]), b["y"])


class Packed(nn.Module):
    """Tokens of all examples in one row that attends to itself, as in packing without its mask."""

    def __init__(self) -> None:
        super().__init__()
        self.read = reader()()

    def forward(self, ids: Tensor) -> Tensor:
        h = self.read.table(ids.reshape(1, -1))
        return self.read.head(F.scaled_dot_product_attention(h, h, h).view(*ids.shape, -1).mean(1))


@coupling("packed tokens without a mask between examples", "batch as time", "scaled_dot_product", make=Packed, batch=tokens,
          source="Krell et al. 2021, arXiv:2107.02027")  # fmt: skip
def packed(m, b, n):
    return each(m(b["ids"]), b["y"])


@coupling(
    "graph convolution over nearest examples",
    "batch as time",
    "cdist|topk|getitem",
    batch=vectors,
    source="Wang et al. 2018, arXiv:1801.07829",
)
def nearest(m, b, n):
    near = torch.cdist(b["x"], b["x"]).topk(2, largest=False).indices
    return each(m.head(m.hidden(b["x"])[near].amax(1)), b["y"])


@coupling("label propagation", "batch as time", "cdist|solve", source="Liu et al. 2018, arXiv:1805.10002")
def propagated(m, b, n):
    near = (-torch.cdist(m.hidden(b["x"]), m.hidden(b["x"]))).softmax(1)
    return -(torch.linalg.solve(torch.eye(n) - 0.5 * near, F.one_hot(b["y"], 3).type_as(near)).add(0.1).log()).sum(1)
