"""A convolutional network for small images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any, Literal

from torch import Tensor, nn

from dplit import validation
from dplit.errors import ConfigurationError
from dplit.models.activations import ACTIVATIONS
from dplit.models.base import Batch, required
from dplit.models.classification import Classifier
from dplit.protocols import DeclaresImages

POOLING: dict[str, type[nn.Module]] = {"average": nn.AvgPool2d, "max": nn.MaxPool2d}


class CNN(Classifier):
    """Convolutions without padding, each followed by an activation, and a linear head; images are under `x` in the batch.

    The defaults are the network of Esipova et al. 2023 (arXiv:2206.07737): 97,114 parameters for images of
    `(1, 28, 28)` and ten classes.

    Args:
        channels: output channels of each convolution.
        kernel: height and width of the kernels.
        activation: `tanh` or `relu`.
        pooling: `average`, `max` or `none`, after each activation, over squares of 2 by 2 pixels.
        norm_groups: groups of a GroupNorm before each activation; None for no normalisation.
        image_shape: `(channels, height, width)` of `x`; None takes it from the data module.
        num_classes: number of classes; None takes it from the data module.
        **training: learning_rate, optimizer, schedule and the other settings of `BaseModel`.

    Raises:
        ConfigurationError: an argument is out of its range, a size is given neither here nor by the data module, or the
            convolutions leave no pixel of the image.

    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 16),
        kernel: int = 3,
        activation: Literal["tanh", "relu"] = "tanh",
        pooling: Literal["average", "max", "none"] = "none",
        norm_groups: int | None = None,
        image_shape: Sequence[int] | None = None,
        num_classes: int | None = None,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        _check_layers(channels, kernel, activation, pooling, norm_groups)
        if num_classes is not None:
            validation.count("num_classes", num_classes, least=2)
        if image_shape is not None and (len(image_shape) != 3 or min(image_shape) < 1):
            raise ConfigurationError(
                f"image_shape={list(image_shape)} is not (channels, height, width); give three numbers of at least 1"
            )
        self.save_hyperparameters()
        self.net: nn.Sequential | None = None
        if image_shape is not None and num_classes is not None:
            self.configure_model()

    def configure_model(self) -> None:
        """Build the layers, once; sizes that are not given come from the data module and are saved in the checkpoint.

        Raises:
            ConfigurationError: a size is given neither to the model nor by the data module, or the convolutions leave no
                pixel of the image.

        """
        if self.net is not None:
            return
        if self.hparams["image_shape"] is None:
            self.hparams["image_shape"] = self._image_shape_of_data()
        if self.hparams["num_classes"] is None:
            self.hparams["num_classes"] = self._num_classes_of_data()
        shape = tuple(self.hparams["image_shape"])
        widths = [shape[0], *self.hparams["channels"]]
        layers = [layer for fan in pairwise(widths) for layer in self._block(*fan)]
        head = nn.Linear(self._head_inputs(shape), self.hparams["num_classes"])
        self.net = nn.Sequential(*layers, nn.Flatten(), head)

    def forward(self, batch: Batch) -> Tensor:
        """Return `(n, num_classes)` logits of the images `x`, `(n, *image_shape)`."""
        if self.net is None:
            raise ConfigurationError("the model has no layers yet; give image_shape and num_classes, or let it be fit")
        logits: Tensor = self.net(batch["x"])
        return logits

    def _block(self, fan_in: int, fan_out: int) -> list[nn.Module]:
        groups, pooling = self.hparams["norm_groups"], self.hparams["pooling"]
        norms = [] if groups is None else [nn.GroupNorm(groups, fan_out)]
        pool = [] if pooling == "none" else [POOLING[pooling](2)]
        activation = ACTIVATIONS[self.hparams["activation"]]()
        return [nn.Conv2d(fan_in, fan_out, self.hparams["kernel"]), *norms, activation, *pool]

    def _head_inputs(self, shape: tuple[int, ...]) -> int:
        """Return how many numbers of one image reach the head."""
        kernel, channels = self.hparams["kernel"], self.hparams["channels"]
        step = 1 if self.hparams["pooling"] == "none" else 2
        sides = shape[1:]
        for _ in channels:
            sides = tuple((side - kernel + 1) // step for side in sides)
        if min(sides) < 1:
            raise ConfigurationError(
                f"{len(channels)} layers leave nothing of an image of {shape}; give fewer channels or a smaller kernel"
            )
        return int(channels[-1] * prod(sides))

    def _image_shape_of_data(self) -> tuple[int, ...]:
        data = self._datamodule()
        return tuple(required("image_shape", data.image_shape if isinstance(data, DeclaresImages) else None))


def _check_layers(channels: Sequence[int], kernel: int, activation: str, pooling: str, norm_groups: int | None) -> None:
    if not channels or any(width < 1 for width in channels):
        raise ConfigurationError(
            f"channels={list(channels)} makes no image; give one number of at least 1 for each layer"
        )
    validation.count("kernel", kernel)
    validation.choice("activation", activation, ACTIVATIONS)
    validation.choice("pooling", pooling, (*POOLING, "none"))
    if norm_groups is not None and (norm_groups < 1 or any(width % norm_groups for width in channels)):
        raise ConfigurationError(
            f"norm_groups={norm_groups} does not divide channels={list(channels)}; give a number that divides each"
        )
