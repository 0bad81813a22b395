"""A multilayer perceptron for tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any, Literal

from torch import Tensor, nn

from dplit.errors import ConfigurationError
from dplit.models.classification import Batch, Classifier

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


class MLP(Classifier):
    """Linear layers with an activation between them; the features are under `x` in the batch, `(n, num_features)`.

    Of images, `(n, channels, height, width)`, the features are the pixels.

    Args:
        hidden: widths of the hidden layers; an empty list makes it a logistic regression.
        num_features: width of `x`, or its pixels; taken from the data module if it is not given.
        num_classes: number of classes; taken from the data module if it is not given.
        activation: `relu` or `tanh`.
        layer_norm: normalise each hidden layer over its own width, before the activation.
        **training: learning_rate, optimizer, schedule and the other settings of `BaseModel`.

    Raises:
        ConfigurationError: an argument is out of its range, or a size is known neither here nor to the data module.

    """

    def __init__(
        self,
        hidden: Sequence[int] = (64, 32),
        num_features: int | None = None,
        num_classes: int | None = None,
        activation: Literal["relu", "tanh"] = "relu",
        layer_norm: bool = False,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        _check(hidden, num_features, num_classes, activation)
        self.save_hyperparameters()
        self.net: nn.Sequential | None = None
        if num_features is not None and num_classes is not None:
            self.configure_model()

    def configure_model(self) -> None:
        """Build the layers, once; sizes that were left open come from the data module and go into the checkpoint."""
        if self.net is not None:
            return
        if self.hparams["num_features"] is None:
            shape = getattr(self._datamodule(), "image_shape", None)
            self.hparams["num_features"] = self.from_data("num_features") if shape is None else prod(shape)
        if self.hparams["num_classes"] is None:
            self.hparams["num_classes"] = self.from_data("num_classes")
        widths = [self.hparams["num_features"], *self.hparams["hidden"]]
        blocks = [layer for fan in pairwise(widths) for layer in self._block(*fan)]
        self.net = nn.Sequential(*blocks, nn.Linear(widths[-1], self.hparams["num_classes"]))

    def forward(self, batch: Batch) -> Tensor:
        """Return `(n, num_classes)` logits."""
        if self.net is None:
            raise ConfigurationError("the model has no layers yet; give num_features and num_classes, or let it be fit")
        logits: Tensor = self.net(batch["x"].flatten(1))
        return logits

    def _block(self, fan_in: int, fan_out: int) -> list[nn.Module]:
        normalise = [nn.LayerNorm(fan_out)] if self.hparams["layer_norm"] else []
        return [nn.Linear(fan_in, fan_out), *normalise, ACTIVATIONS[self.hparams["activation"]]()]


def _check(hidden: Sequence[int], num_features: int | None, num_classes: int | None, activation: str) -> None:
    if any(width < 1 for width in hidden):
        raise ConfigurationError(f"hidden={list(hidden)} has a layer without units; give widths of at least 1")
    for name, size, least in (("num_features", num_features, 1), ("num_classes", num_classes, 2)):
        if size is not None and size < least:
            raise ConfigurationError(f"{name}={size} leaves nothing to learn; give at least {least}")
    if activation not in ACTIVATIONS:
        raise ConfigurationError(f"activation={activation!r} is not known here; choose {' or '.join(ACTIVATIONS)}")
