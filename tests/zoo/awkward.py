"""Models that are awkward on purpose: each has a habit that per-module bookkeeping misses."""

from __future__ import annotations

import re
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.family import (
    CLASSES,
    VOCABULARY,
    WIDTH,
    Size,
    Subject,
    as_returned,
    case,
    classes,
    each_token,
    following,
    text,
)


class Awkward(nn.Module):
    """Embeds, mixes, and predicts the next token with the table of embeddings."""

    facts: ClassVar[dict[str, object]] = {"promised": False, "targets": ("mix",)}

    def __init_subclass__(cls, **facts: object) -> None:
        cls.facts = {**cls.facts, **facts}
        words = re.sub(r"(?<!^)([A-Z])", lambda m: f" {m[1].lower()}", cls.__name__)

        @case("Awkward", words, **cls.facts)
        def awkward(size: Size) -> Subject:
            inputs = text(size)
            return Subject(cls(), inputs, following(inputs), each_token)

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.scale, self.shift = nn.Parameter(torch.tensor(1.3)), nn.Parameter(torch.randn(1, 32, 2 * WIDTH))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.body(self.embed(input_ids)) @ self.embed.weight.T

    def body(self, x: Tensor) -> Tensor:
        return self.mix(x)


class TiedFunctionally(Awkward, promised=True):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return F.linear(self.mix(F.embedding(input_ids, self.embed.weight)), self.embed.weight)


class UsedTwice(Awkward, promised=True):
    def body(self, x: Tensor) -> Tensor:
        return self.mix(self.mix(x).tanh())


class BareScale(Awkward, promised=True):
    def body(self, x: Tensor) -> Tensor:
        return self.scale * self.mix(x) / self.scale.exp()


class Sliced(Awkward, promised=True):
    def body(self, x: Tensor) -> Tensor:
        return self.mix(x) + self.shift[:, : x.shape[1], :WIDTH] * self.shift[0, 3, 1]


class FourDimensions(Awkward, promised=True):
    """Examples × 2 × tokens × width."""

    def body(self, x: Tensor) -> Tensor:
        return self.mix(torch.stack([x, x.cos()], 1)).tanh().sum(1)


class FalconLike(Awkward, promised=True, targets=()):
    """`x @ weight.T + bias` in place of a linear map."""

    def body(self, x: Tensor) -> Tensor:
        return x @ self.mix.weight.T + self.mix.bias


class WeightNormed(Awkward, promised=True):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))


class MergedAdapter(Awkward, promised=True, targets=()):
    """LoRA written out, as a sum of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(2, WIDTH)), nn.Parameter(torch.randn(WIDTH, 2))
        self.mix.weight.requires_grad_(False)

    def body(self, x: Tensor) -> Tensor:
        return F.linear(x, self.mix.weight + 1.5 * self.b @ self.a, self.mix.bias)


class TokensFirst(Awkward):
    def body(self, x: Tensor) -> Tensor:
        return (self.mix(x.transpose(0, 1)).cumsum(0) * self.scale).transpose(0, 1)


class Chunked(Awkward, targets=()):
    """One parameter cut in two, as fused projections are in three."""

    def body(self, x: Tensor) -> Tensor:
        low, high = self.mix.weight.chunk(2)
        return torch.cat([F.linear(x, high), F.linear(x, low, self.mix.bias[: WIDTH // 2])], -1)


class Stacked(Awkward, targets=()):
    """Parameters put together before they are used."""

    def body(self, x: Tensor) -> Tensor:
        both = torch.cat([self.mix.weight, self.mix.weight.T * self.scale])
        return F.linear(x, both).view(*x.shape[:-1], 2, WIDTH).tanh().sum(-2)


class Packed(Awkward):
    """Padding is taken out, so that examples no longer have equally many rows."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        kept = attention_mask.bool()
        y = self.embed(input_ids).new_zeros(*input_ids.shape, WIDTH)
        y[kept] = self.mix(self.embed(input_ids)[kept])
        return y @ self.embed.weight.T


class Sorted(Awkward):
    """Examples are sorted by their length, and put back."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        order = attention_mask.sum(1).argsort()
        x = self.mix(self.embed(input_ids)[order])
        return x[order.argsort()] @ self.embed.weight.T


class FirstTokens(Awkward):
    """Rows laid out token by token: as many as examples × tokens, but not the examples outermost."""

    def body(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        return self.mix(x.transpose(0, 1).reshape(n * t, d)).view(t, n, d).transpose(0, 1)


class Gathered(Awkward):
    """A table read by indexing with the example's own ids."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.mix(self.embed.weight[input_ids]) @ self.embed.weight.T


class Prompted(Awkward):
    """A learned prompt in front of each example's tokens."""

    def body(self, x: Tensor) -> Tensor:
        prompt = self.shift[:, :2, :WIDTH].expand(x.shape[0], -1, -1)
        return self.mix(torch.cat([prompt, x], 1).cumsum(1))[:, 2:]


class Powers(Awkward, targets=()):
    """A parameter as an exponent, as a threshold, as a choice."""

    def body(self, x: Tensor) -> Tensor:
        x = torch.where(x > 0, x, self.scale)
        return torch.maximum(x, self.mix.bias) + x.sigmoid() ** self.scale


class Rectified(Awkward):
    def __init__(self) -> None:
        super().__init__()
        self.rectify = nn.PReLU()

    def body(self, x: Tensor) -> Tensor:
        return self.rectify(self.mix(x))


class Bilinear(Awkward, targets=()):
    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Bilinear(WIDTH, WIDTH, WIDTH)

    def body(self, x: Tensor) -> Tensor:
        return self.pair(x, x.cos())


class Recurrent(Awkward):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def body(self, x: Tensor) -> Tensor:
        return self.mix(self.cell(x)[0])


class CellByCell(Awkward, targets=()):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(WIDTH, WIDTH)

    def body(self, x: Tensor) -> Tensor:
        state, states = x[:, 0], []
        for token in x.unbind(1):
            state = self.cell(token, state)
            states.append(state)
        return torch.stack(states, 1)


class BatchNormed(Awkward, coupled=True):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)

    def body(self, x: Tensor) -> Tensor:
        return self.norm(self.mix(x).transpose(1, 2)).transpose(1, 2)


class Decayed(nn.Module):
    """A parameter reaches the loss without meeting data: weight decay, for each example."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.mix(x), y, reduction="none") + 0.1 * self.mix.weight.square().sum()


@case("Awkward", "Weight decay in the loss", targets=("mix",))
def decayed(size: Size) -> Subject:
    inputs = {"x": torch.randn(size.examples, WIDTH), "y": classes(size)}
    return Subject(Decayed(), inputs, inputs["y"], as_returned)
