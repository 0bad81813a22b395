"""Sequences: recurrent networks, attention with its masks, positions, packing, alignment."""

from __future__ import annotations

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
    honest,
    net,
    reader,
    series,
    tokens,
    vectors,
)

KIND, ATTENTION = "recurrent", "attention"


@honest("LSTM, batch first", KIND, batch=series, make=net(rnn=lambda: nn.LSTM(FEATURES, WIDTH, batch_first=True)))
def lstm(m, b, n):
    return each(m.head(m.rnn(b["x"])[0][:, -1]), b["y"])


@honest("GRU, time first", KIND, batch=series, make=net(rnn=lambda: nn.GRU(FEATURES, WIDTH)))
def time_first(m, b, n):
    return each(m.head(m.rnn(b["x"].transpose(0, 1))[1][-1]), b["y"])


@honest(
    "RNN, two layers, both ways",
    KIND,
    batch=series,
    make=net(rnn=lambda: nn.RNN(FEATURES, WIDTH // 2, 2, batch_first=True, bidirectional=True)),
)
def both_ways(m, b, n):
    out, last = m.rnn(b["x"])
    return each(m.head(out.mean(1)), b["y"]) + last.square().mean((0, 2))


@honest("LSTM cell in a loop over time", KIND, batch=series, make=net(cell=lambda: nn.LSTMCell(FEATURES, WIDTH)))
def cells(m, b, n):
    h = c = torch.zeros(n, WIDTH)
    for x in b["x"].unbind(1):
        h, c = m.cell(x, (h, c))
    return each(m.head(h), b["y"])


@honest("LSTM that starts from a parameter", KIND, batch=series, make=net(
    rnn=lambda: nn.LSTM(FEATURES, WIDTH, batch_first=True), start=lambda: nn.Embedding(2, WIDTH)))  # fmt: skip
def learned_start(m, b, n):
    h, c = m.start.weight[:, None, None].expand(2, 1, n, WIDTH).contiguous()
    return each(m.head(m.rnn(b["x"], (h, c))[0][:, -1]), b["y"])


@honest(
    "packed rows, sorted and put back",
    KIND,
    batch=tokens,
    make=reader(rnn=lambda: nn.GRU(WIDTH, WIDTH, batch_first=True)),
)
def packed(m, b, n):
    rows = nn.utils.rnn.pack_padded_sequence(m.table(b["ids"]), b["lengths"], True, enforce_sorted=False)
    return each(m.head(m.rnn(rows)[1][0]), b["y"])


@honest(
    "packed rows, sorted by hand", KIND, batch=tokens, make=reader(rnn=lambda: nn.LSTM(WIDTH, WIDTH, batch_first=True))
)
def packed_by_hand(m, b, n):
    lengths, order = b["lengths"].sort(descending=True, stable=True)
    rows = nn.utils.rnn.pack_padded_sequence(m.table(b["ids"][order]), lengths, True)
    return each(m.head(m.rnn(rows)[1][0][0][order.argsort()]), b["y"])


@honest(
    "the last real step of each", KIND, batch=tokens, make=reader(rnn=lambda: nn.GRU(WIDTH, WIDTH, batch_first=True))
)
def last_real(m, b, n):
    out = m.rnn(m.table(b["ids"]))[0]
    return each(m.head(out[torch.arange(n), b["lengths"] - 1]), b["y"])


@honest("a linear recurrence by cumsum", KIND, batch=series)
def recurrence(m, b, n):
    return each(m(b["x"].cumsum(1).mean(1)), b["y"])


@honest("CTC, no reduction", KIND, batch=series)
def ctc(m, b, n):
    log_p = m(b["x"]).log_softmax(2).transpose(0, 1)
    return F.ctc_loss(
        log_p, b["y"][:, None].clamp(min=1), torch.full((n,), TIME), torch.ones(n, dtype=torch.long), reduction="none"
    )


@honest("CTC with lengths, mean", "scalar", batch=series, reduction="mean")
def ctc_mean(m, b, n):
    log_p = m(b["x"]).log_softmax(2).transpose(0, 1)
    targets = torch.stack([b["y"].clamp(min=1), 3 - b["y"].clamp(min=1)], 1)
    return F.ctc_loss(log_p, targets, torch.full((n,), TIME), 1 + b["y"].remainder(2))


@honest("conditional random field", KIND, batch=series, make=net(moves=lambda: nn.Linear(CLASSES, CLASSES)))
def crf(m, b, n):
    s = m(b["x"])
    total = s[:, 0]
    for t in range(1, TIME):
        total = (total[:, :, None] + m.moves.weight).logsumexp(1) + s[:, t]
    return total.logsumexp(1) - s.gather(2, b["y"][:, None, None].expand(n, TIME, 1)).sum((1, 2))


@honest("masked mean", "bags", batch=tokens, make=reader())
def masked_mean(m, b, n):
    h = m.table(b["ids"]) * b["mask"][:, :, None]
    return each(m.head(h.sum(1) / b["mask"].sum(1, keepdim=True)), b["y"])


@honest("masked maximum", "bags", batch=tokens, make=reader())
def masked_maximum(m, b, n):
    return each(m.head(m.table(b["ids"]).masked_fill(b["mask"][:, :, None] == 0, -torch.inf).amax(1)), b["y"])


@honest("embedding bag", "bags", batch=tokens, make=lambda: Bags())
def bag(m, b, n):
    return each(m.head(m.bag(b["ids"])), b["y"])


@honest("embedding bag with offsets", "bags", batch=tokens, make=lambda: Bags())
def offsets(m, b, n):
    return each(m.head(m.bag(b["ids"].flatten(), torch.arange(0, 7 * n, 7))), b["y"])


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(VOCABULARY, WIDTH), nn.Linear(WIDTH, CLASSES)


@honest("deep sets over an example's own set", "bags", batch=series)
def deep_sets(m, b, n):
    return each(m.head(m.hidden(b["x"]).sum(1)), b["y"])


@honest(
    "a graph of each example",
    "bags",
    batch=lambda n, g: {**series(n, g), "edges": torch.rand(n, TIME, TIME, generator=g)},
)
def graphs(m, b, n):
    return each(m.head((b["edges"].gt(0.5).type_as(b["x"]) @ m.hidden(b["x"])).mean(1)), b["y"])


@honest(
    "attention, batch first",
    ATTENTION,
    batch=series,
    make=net(mix=lambda: nn.MultiheadAttention(FEATURES, 2, batch_first=True)),
)
def attention(m, b, n):
    return each(m(m.mix(b["x"], b["x"], b["x"])[0].mean(1)), b["y"])


@honest("attention, time first", ATTENTION, batch=series, make=net(mix=lambda: nn.MultiheadAttention(FEATURES, 3)))
def attention_time_first(m, b, n):
    x = b["x"].transpose(0, 1)
    return each(m(m.mix(x, x, x)[0].mean(0)), b["y"])


@honest(
    "attention with its padding masked",
    ATTENTION,
    batch=tokens,
    make=reader(mix=lambda: nn.MultiheadAttention(WIDTH, 2, batch_first=True)),
)
def padding_masked(m, b, n):
    h = m.table(b["ids"])
    return each(m.head(m.mix(h, h, h, key_padding_mask=b["mask"] == 0)[0][:, 0]), b["y"])


@honest(
    "attention with a causal mask",
    ATTENTION,
    batch=series,
    make=net(mix=lambda: nn.MultiheadAttention(FEATURES, 2, batch_first=True)),
)
def causal(m, b, n):
    mask = nn.Transformer.generate_square_subsequent_mask(TIME)
    return each(m(m.mix(b["x"], b["x"], b["x"], attn_mask=mask, is_causal=True, need_weights=False)[0][:, -1]), b["y"])


def one_layer() -> nn.Module:
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(WIDTH, 2, 8, batch_first=True), 1, enable_nested_tensor=False
    )


@honest("transformer encoder with padding", ATTENTION, batch=tokens, make=reader(encoder=one_layer))
def encoder(m, b, n):
    return each(m.head(m.encoder(m.table(b["ids"]), src_key_padding_mask=b["mask"] == 0)[:, 0]), b["y"])


@honest(
    "transformer decoder, time first",
    ATTENTION,
    batch=series,
    make=net(decoder=lambda: nn.TransformerDecoderLayer(FEATURES, 2, 8)),
)
def decoder(m, b, n):
    x = b["x"].movedim(1, 0)
    return each(
        m(m.decoder(x, x.flip(0), tgt_mask=nn.Transformer.generate_square_subsequent_mask(TIME)).mean(0)), b["y"]
    )


@honest("attention by hand with a mask of each", ATTENTION, batch=tokens, make=reader())
def by_hand(m, b, n):
    h = m.table(b["ids"])
    scores = torch.einsum("nqd,nkd->nqk", h, h) / WIDTH**0.5
    scores = scores + (1.0 - b["mask"][:, None].type_as(h)) * -1e9
    return each(m.head((scores.softmax(-1) @ h)[:, 0]), b["y"])


@honest("heads folded into the batch", ATTENTION, batch=series, make=net(mix=lambda: nn.Linear(FEATURES, 12)))
def folded(m, b, n):
    q = m.mix(b["x"]).view(n, TIME, 2, 6).transpose(1, 2).reshape(2 * n, TIME, 6)
    out = torch.bmm(torch.baddbmm(torch.zeros(1, 1, 1), q, q.mT).softmax(-1), q)
    return each(m(out.view(n, 2, TIME, 6).mean((1, 2))), b["y"])


@honest("grouped queries by expanded keys", ATTENTION, batch=series, make=net(mix=lambda: nn.Linear(FEATURES, 16)))
def grouped_queries(m, b, n):
    q = m.mix(b["x"]).view(n, TIME, 4, 4).transpose(1, 2)
    k = q[:, :2, None].expand(n, 2, 2, TIME, 4).reshape(n, 4, TIME, 4)
    out = F.scaled_dot_product_attention(q, k, k, is_causal=True)
    return each(m.head(out.transpose(1, 2).reshape(n, TIME, 16)[:, -1, :WIDTH]), b["y"])


@honest("rotary positions", ATTENTION, batch=series)
def rotary(m, b, n):
    h = m.hidden(b["x"])
    angle = torch.outer(torch.arange(TIME).type_as(h), 10.0 ** -torch.arange(4.0)).repeat(1, 2)
    turned = h * angle.cos() + torch.cat([-h[..., 4:], h[..., :4]], -1) * angle.sin()
    return each(m.head(F.scaled_dot_product_attention(turned, turned, h).mean(1)), b["y"])


@honest("rotary positions by complex numbers", ATTENTION, batch=series)
def rotary_complex(m, b, n):
    h = torch.view_as_complex(m.hidden(b["x"]).view(n, TIME, 4, 2))
    turn = torch.polar(
        torch.ones(TIME, 4), torch.outer(torch.arange(TIME).type(h.real.dtype), torch.linspace(1, 0.1, 4))
    )
    return each(m.head(torch.view_as_real(h * turn).flatten(2).mean(1)), b["y"])


@honest("ALiBi", ATTENTION, batch=series)
def alibi(m, b, n):
    h = m.hidden(b["x"])[:, None]
    away = (torch.arange(TIME)[None] - torch.arange(TIME)[:, None]).abs()
    return each(m.head(F.scaled_dot_product_attention(h, h, h, attn_mask=-0.5 * away.type_as(h)).mean((1, 2))), b["y"])


@honest("positions by arange", ATTENTION, batch=tokens, make=reader(places=lambda: nn.Embedding(7, WIDTH)))
def positions(m, b, n):
    return each(m.head((m.table(b["ids"]) + m.places(torch.arange(7)[None])).tanh().mean(1)), b["y"])


@honest("positions by cumsum of each mask", ATTENTION, batch=tokens, make=reader(places=lambda: nn.Embedding(9, WIDTH)))
def masked_positions(m, b, n):
    place = b["mask"].cumsum(1) * b["mask"]
    return each(m.head((m.table(b["ids"]) + m.places(place)).tanh().mean(1)), b["y"])


@honest(
    "a learned class token",
    ATTENTION,
    batch=series,
    make=net(mix=lambda: nn.MultiheadAttention(FEATURES, 2, batch_first=True), token=lambda: nn.Embedding(1, FEATURES)),
)
def class_token(m, b, n):
    x = torch.cat([m.token.weight.expand(n, 1, FEATURES), b["x"]], 1)
    return each(m(m.mix(x, x, x)[0][:, 0]), b["y"])


@honest(
    "learned queries",
    ATTENTION,
    batch=series,
    make=net(queries=lambda: nn.Embedding(2, WIDTH)),
    source="Perceiver, Jaegle et al. 2021",
)
def learned_queries(m, b, n):
    h = m.hidden(b["x"])
    return each(m.head((torch.einsum("qd,ntd->nqt", m.queries.weight, h).softmax(-1) @ h).mean(1)), b["y"])


@honest(
    "packed tokens with a mask between examples",
    ATTENTION,
    batch=tokens,
    make=reader(),
    source="Krell et al. 2021, arXiv:2107.02027",
)
def packed_attention(m, b, n):
    h, owner = m.table(b["ids"].reshape(1, -1)), torch.arange(n).repeat_interleave(7)
    mask = owner[:, None] == owner
    return each(m.head(F.scaled_dot_product_attention(h, h, h, attn_mask=mask).view(n, 7, WIDTH).mean(1)), b["y"])


@honest("local windows", ATTENTION, batch=series)
def windows(m, b, n):
    h = F.pad(m.hidden(b["x"]), (0, 0, 1, 1)).unfold(1, 3, 1)
    return each(
        m.head(torch.einsum("ntdk,ntd->ntk", h, h[..., 1]).softmax(-1).unsqueeze(2).mul(h).sum(-1).mean(1)), b["y"]
    )


@honest(
    "relative positions by a gathered table",
    ATTENTION,
    batch=series,
    make=net(bias=lambda: nn.Embedding(2 * TIME - 1, 1)),
)
def relative(m, b, n):
    h = m.hidden(b["x"])
    away = torch.arange(TIME)[:, None] - torch.arange(TIME) + TIME - 1
    return each(m.head((h @ h.mT + m.bias(away)[..., 0]).softmax(-1).matmul(h).mean(1)), b["y"])


@honest("teacher forcing", KIND, batch=tokens, make=reader(rnn=lambda: nn.GRU(WIDTH, WIDTH, batch_first=True)))
def teacher_forced(m, b, n):
    out = m.rnn(m.table(b["ids"][:, :-1]))[0]
    own = F.cross_entropy(m.head(out).transpose(1, 2), b["ids"][:, 1:] % CLASSES, reduction="none")
    return (own * b["mask"][:, 1:]).sum(1) / b["mask"][:, 1:].sum(1).clamp_min(1)


@honest("greedy decoding of its own", KIND, make=net(step=lambda: nn.GRUCell(CLASSES, WIDTH)), batch=vectors)
def greedy(m, b, n):
    h, own = m.hidden(b["x"]), torch.zeros(n)
    for _ in range(3):
        s = m.head(h)
        own = own + each(s, b["y"])
        h = m.step(F.one_hot(s.argmax(1), CLASSES).type_as(h), h)
    return own


def beams(h: Tensor) -> Tensor:
    return h.topk(2, 1).values.sum(1)


@honest("beams of each example", KIND, batch=vectors)
def beam(m, b, n):
    return beams(m(b["x"]).log_softmax(1)[:, :, None].add(m(b["x"])[:, None]).flatten(1)).neg() + each(
        m(b["x"]), b["y"]
    )
