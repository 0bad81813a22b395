"""Image classifiers, and CLIP."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor, nn

from tests.zoo.family import (
    CLASSES,
    PADDING,
    VOCABULARY,
    WIDTH,
    Size,
    Subject,
    case,
    classes,
    each_class,
    image,
    quiet,
    text,
)

SMALL = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 8,
    "num_labels": CLASSES,
}


def _classifier(family: str, prefix: str, promised: bool = True, **sizes: Any) -> None:
    @case(family, "classification", promised=promised)
    def classifier(size: Size) -> Subject:
        config = quiet(getattr(hf, f"{prefix}Config")(**sizes))
        module = getattr(hf, f"{prefix}ForImageClassification")(config)
        return Subject(module, image(size), classes(size), each_class)


_classifier("ViT", "ViT", **SMALL)
_classifier("ConvNeXt", "ConvNext", hidden_sizes=[8, 10], depths=[1, 1], num_stages=2, num_labels=CLASSES)
_classifier(
    "Swin",
    "Swin",
    image_size=16,
    patch_size=2,
    embed_dim=8,
    depths=[2, 2],
    num_heads=[2, 4],
    window_size=4,
    num_labels=CLASSES,
)
_classifier("DeiT", "DeiT", promised=False, **SMALL)
_classifier("BEiT", "Beit", promised=False, **SMALL, use_relative_position_bias=True, use_mask_token=True)
_classifier(
    "DINOv2", "Dinov2", promised=False, **{k: v for k, v in SMALL.items() if k != "intermediate_size"}, mlp_ratio=2
)
_classifier(
    "ConvNeXt V2", "ConvNextV2", promised=False, hidden_sizes=[8, 10], depths=[1, 1], num_stages=2, num_labels=CLASSES
)
_classifier(
    "SegFormer",
    "Segformer",
    promised=False,
    num_encoder_blocks=2,
    depths=[1, 1],
    sr_ratios=[2, 1],
    hidden_sizes=[8, 16],
    patch_sizes=[3, 3],
    strides=[2, 2],
    num_attention_heads=[2, 4],
    mlp_ratios=[2, 2],
    num_labels=CLASSES,
)
_classifier(
    "PoolFormer", "PoolFormer", promised=False, depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 10, 10], num_labels=CLASSES
)


def _clip() -> hf.CLIPConfig:
    body = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    words = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 32,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": PADDING,
    }
    return quiet(
        hf.CLIPConfig(
            text_config={**body, **words, "projection_dim": 8},
            vision_config={**body, "image_size": 16, "patch_size": 8, "projection_dim": 8},
            projection_dim=8,
        )
    )


def _weigh_when_done(size: Size) -> dict[str, Tensor]:
    """Text that ends in the token whose embedding CLIP takes."""
    inputs = text(size)
    inputs["input_ids"].scatter_(1, inputs["attention_mask"].sum(1, keepdim=True) - 1, 2)
    return inputs


@case("CLIP", "text tower")
def clip_text(size: Size) -> Subject:
    module = hf.CLIPTextModelWithProjection(_clip().text_config)
    return Subject(module, _weigh_when_done(size), torch.randn(size.examples, 8), _distance("text_embeds"))


@case("CLIP", "vision tower")
def clip_vision(size: Size) -> Subject:
    module = hf.CLIPVisionModelWithProjection(_clip().vision_config)
    return Subject(module, image(size), torch.randn(size.examples, 8), _distance("image_embeds"))


def _distance(name: str) -> Any:
    return lambda output, labels: (getattr(output, name) - labels.to(getattr(output, name).dtype)).square().sum(1)


@case("CLIP", "contrastive loss", coupled=True)
def clip_contrastive(size: Size) -> Subject:
    inputs = {**_weigh_when_done(size), **image(size)}
    return Subject(hf.CLIPModel(_clip()), inputs, torch.zeros(size.examples), _contrastive)


def _contrastive(output: Any, labels: Tensor) -> Tensor:
    return F.cross_entropy(output.logits_per_text, torch.arange(len(labels)), reduction="none")


class Block(nn.Module):
    """Two normalised convolutions and a way around them, as in ResNet v2 (`before`) or v1."""

    def __init__(self, c: int, d: int, stride: int, before: bool) -> None:
        super().__init__()
        self.one, self.two = nn.GroupNorm(2, c if before else d), nn.GroupNorm(2, d)
        self.first = nn.Conv2d(c, d, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(d, d, 3, 1, 1, bias=False)
        self.around = nn.Conv2d(c, d, 1, stride, bias=False) if (c, stride) != (d, 1) else nn.Identity()
        self.before = before

    def forward(self, x: Tensor) -> Tensor:
        if self.before:
            y = F.relu(self.one(x))
            return self.around(x) + self.second(F.relu(self.two(self.first(y))))
        y = self.two(self.second(F.relu(self.one(self.first(x)), inplace=True)))
        y += self.around(x)
        return F.relu(y, inplace=True)


class ResNet(nn.Module):
    """A stem, two stages of two blocks, a pooled head."""

    def __init__(self, widths: tuple[int, int], before: bool) -> None:
        super().__init__()
        c, d = widths
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=not before), nn.GroupNorm(2, 8))
        blocks = [(8, c, 1), (c, c, 1), (c, d, 2), (d, d, 1)]
        self.body = nn.Sequential(*(Block(*shape, before) for shape in blocks))
        self.head = nn.Linear(d, CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.body(self.stem(pixel_values)), 1).flatten(1))


@case("ResNet with GroupNorm", "classification", targets="Conv2d")
def resnet(size: Size) -> Subject:
    return Subject(ResNet((8, 10), before=False), image(size, 8), classes(size), each_class)


@case("WideResNet", "classification", targets="Conv2d")
def wide_resnet(size: Size) -> Subject:
    return Subject(ResNet((16, 32), before=True), image(size, 8), classes(size), each_class)
