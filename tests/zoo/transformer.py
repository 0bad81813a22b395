"""`nn.Transformer` and its encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.zoo.family import (
    VOCABULARY,
    WIDTH,
    Size,
    Subject,
    case,
    each_token,
    following,
    hidden,
    text,
)


class Translator(nn.Module):
    """`nn.Transformer` between two embeddings and a head, its batch turned if the module wants the tokens first."""

    def __init__(self, batch_first: bool, norm_first: bool = False) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(32, WIDTH)
        self.body = nn.Transformer(
            WIDTH, 4, 2, 2, 32, dropout=0.0, batch_first=batch_first, norm_first=norm_first, activation="gelu"
        )
        self.head = nn.Linear(WIDTH, VOCABULARY)
        self.batch_first = batch_first

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x, t = self.embed(input_ids) + self.place(torch.arange(input_ids.shape[1])), input_ids.shape[1]
        tracked = x if self.batch_first else x.transpose(0, 1)
        causal = torch.ones(t, t, dtype=torch.bool).triu(1)
        padded = attention_mask == 0
        y = self.body(tracked, tracked, tgt_mask=causal, src_key_padding_mask=padded, memory_key_padding_mask=padded)
        return self.head(y if self.batch_first else y.transpose(0, 1))


def _translator(head: str, **how: bool) -> None:
    @case("nn.Transformer", head, targets=("linear1", "linear2"))
    def translator(size: Size) -> Subject:
        inputs = text(size)
        return Subject(Translator(**how), inputs, following(inputs), each_token)


_translator("batch first", batch_first=True)
_translator("tokens first", batch_first=False)
_translator("batch first, norm first", batch_first=True, norm_first=True)


class Tagger(nn.Module):
    """`nn.TransformerEncoder` over images' rows or tokens, learned positions added."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 32, dropout=0.0, batch_first=batch_first)
        self.embed, self.place = nn.Embedding(VOCABULARY, WIDTH), nn.Parameter(torch.randn(1, 32, WIDTH))
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head, self.batch_first = nn.Linear(WIDTH, VOCABULARY), batch_first

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embed(input_ids) + self.place[:, : input_ids.shape[1]]
        x = x if self.batch_first else x.transpose(0, 1)
        x = self.body(x, src_key_padding_mask=attention_mask == 0)
        return self.head(x if self.batch_first else x.transpose(0, 1))


def _tagger(head: str, batch_first: bool) -> None:
    @case("nn.TransformerEncoder", head, targets=("linear1", "linear2"))
    def tagger(size: Size) -> Subject:
        inputs = text(size)
        return Subject(Tagger(batch_first), inputs, hidden(inputs), each_token)


_tagger("batch first", True)
_tagger("tokens first", False)


class Fixed(Tagger):
    """A frozen body in eval mode, where torch would take its fused path, under a trainable head."""

    def __init__(self) -> None:
        super().__init__(batch_first=True)
        self.requires_grad_(False)
        self.head.requires_grad_()

    def train(self, mode: bool = True) -> Fixed:
        return super().train(False)


@case("nn.TransformerEncoder", "frozen, in eval mode", targets=())
def fixed(size: Size) -> Subject:
    inputs = text(size)
    return Subject(Fixed(), inputs, hidden(inputs), each_token)
