"""Modules written with torch alone: `nn.Transformer`, and models that are awkward on purpose."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.errors import UnsupportedOperation
from tests.zoo.family import (
    CLASSES,
    VOCABULARY,
    WIDTH,
    Size,
    Subject,
    as_returned,
    case,
    classes,
    each_class,
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
        source = x if self.batch_first else x.transpose(0, 1)
        causal = torch.ones(t, t, dtype=torch.bool).triu(1)
        padded = attention_mask == 0
        y = self.body(source, source, tgt_mask=causal, src_key_padding_mask=padded, memory_key_padding_mask=padded)
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


class Awkward(nn.Module):
    """Embeds, mixes, and predicts the next token; every subclass has a habit."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.scale, self.shift = nn.Parameter(torch.tensor(1.3)), nn.Parameter(torch.randn(1, 32, 2 * WIDTH))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.body(self.embed(input_ids)) @ self.embed.weight.T

    def body(self, x: Tensor) -> Tensor:
        return self.mix(x)


class TiedFunctionally(Awkward):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return F.linear(self.mix(F.embedding(input_ids, self.embed.weight)), self.embed.weight)


class UsedTwice(Awkward):
    def body(self, x: Tensor) -> Tensor:
        return self.mix(self.mix(x).tanh())


class BareScale(Awkward):
    def body(self, x: Tensor) -> Tensor:
        return self.scale * self.mix(x) / self.scale.exp()


class Sliced(Awkward):
    def body(self, x: Tensor) -> Tensor:
        return self.mix(x) + self.shift[:, : x.shape[1], :WIDTH] * self.shift[0, 3, 1]


class FourDimensions(Awkward):
    """Examples × 2 × tokens × width."""

    def body(self, x: Tensor) -> Tensor:
        return self.mix(torch.stack([x, x.cos()], 1)).tanh().sum(1)


class FalconLike(Awkward):
    """`x @ weight.T + bias` in place of a linear map."""

    def body(self, x: Tensor) -> Tensor:
        return x @ self.mix.weight.T + self.mix.bias


class Chunked(Awkward):
    """One parameter cut in three, as fused query, key and value projections are."""

    def body(self, x: Tensor) -> Tensor:
        low, high = self.mix.weight.chunk(2)
        return torch.cat([F.linear(x, high), F.linear(x, low, self.mix.bias[: WIDTH // 2])], -1)


class Stacked(Awkward):
    """Parameters put together before they are used."""

    def body(self, x: Tensor) -> Tensor:
        both = torch.cat([self.mix.weight, self.mix.weight.T * self.scale])
        return F.linear(x, both).view(*x.shape[:-1], 2, WIDTH).tanh().sum(-2)


class TokensFirst(Awkward):
    def body(self, x: Tensor) -> Tensor:
        return (self.mix(x.transpose(0, 1)).cumsum(0) * self.scale).transpose(0, 1)


class WeightNormed(Awkward):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))


class Packed(Awkward):
    """Padding is taken out, so that examples no longer have equally many rows."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        kept = attention_mask.bool()
        y = self.embed(input_ids).new_zeros(*input_ids.shape, WIDTH)
        y[kept] = self.mix(self.embed(input_ids)[kept])
        return y @ self.embed.weight.T


class Recurrent(Awkward):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def body(self, x: Tensor) -> Tensor:
        return self.mix(self.cell(x)[0])


class CellByCell(Awkward):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(WIDTH, WIDTH)

    def body(self, x: Tensor) -> Tensor:
        state, states = x[:, 0], []
        for token in x.unbind(1):
            state = self.cell(token, state)
            states.append(state)
        return torch.stack(states, 1)


class Bilinear(Awkward):
    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Bilinear(WIDTH, WIDTH, WIDTH)

    def body(self, x: Tensor) -> Tensor:
        return self.pair(x, x.cos())


class Rectified(Awkward):
    def __init__(self) -> None:
        super().__init__()
        self.rectify = nn.PReLU()

    def body(self, x: Tensor) -> Tensor:
        return self.rectify(self.mix(x))


class Powers(Awkward):
    """A parameter as an exponent, as a threshold, as a choice."""

    def body(self, x: Tensor) -> Tensor:
        x = torch.where(x > 0, x, self.scale)
        return torch.maximum(x, self.mix.bias) + x.sigmoid() ** self.scale


class Gathered(Awkward):
    """A table read by fancy indexing with the example's own ids."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.mix(self.embed.weight[input_ids]) @ self.embed.weight.T


class BatchNormed(Awkward):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)

    def body(self, x: Tensor) -> Tensor:
        return self.norm(self.mix(x).transpose(1, 2)).transpose(1, 2)


def _awkward(kind: type[Awkward], may_refuse: bool = True) -> None:
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in kind.__name__).strip()

    @case("Awkward", words, targets=("mix",), allowed=UnsupportedOperation if may_refuse else None)
    def awkward(size: Size) -> Subject:
        inputs = text(size)
        return Subject(kind(), inputs, following(inputs), each_token)


for _kind in (TiedFunctionally, UsedTwice, BareScale, Sliced, FourDimensions, FalconLike):
    _awkward(_kind, may_refuse=False)
for _kind in Awkward.__subclasses__():
    if f"Awkward {_kind.__name__}" and _kind not in (
        *(TiedFunctionally, UsedTwice, BareScale, Sliced, FourDimensions, FalconLike),
    ):
        _awkward(_kind)


class Decayed(nn.Module):
    """A parameter reaches the loss without meeting data: weight decay, for each example."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.mix(x), y, reduction="none") + 0.1 * self.mix.weight.square().sum()


@case("Awkward", "weight decay in the loss", targets=("mix",), allowed=UnsupportedOperation)
def decayed(size: Size) -> Subject:
    inputs = {"x": torch.randn(size.examples, WIDTH), "y": classes(size)}
    return Subject(Decayed(), inputs, inputs["y"], as_returned)
