"""A multilayer perceptron for tables."""

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
from dplit.protocols import DeclaresFeatures, DeclaresImages


class MLP(Classifier):
    """Linear layers with an activation between them; the features are under `x` in the batch, `(n, num_features)`.

    The features of images, `(n, channels, height, width)`, are their pixels.

    Args:
        hidden: widths of the hidden layers; an empty list gives a logistic regression.
        num_features: width of `x`, or the number of its pixels; None takes it from the data module.
        num_classes: number of classes; None takes it from the data module.
        activation: `relu` or `tanh`.
        layer_norm: normalise each hidden layer over its own width, before the activation.
        **training: learning_rate, optimizer, schedule and the other settings of `BaseModel`.

    Raises:
        ConfigurationError: an argument is out of its range, or a size is given neither here nor by the data module.

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
        if any(width < 1 for width in hidden):
            raise ConfigurationError(f"hidden={list(hidden)} has a layer without units; give widths of at least 1")
        if num_features is not None:
            validation.count("num_features", num_features)
        if num_classes is not None:
            validation.count("num_classes", num_classes, least=2)
        validation.choice("activation", activation, ACTIVATIONS)
        self.save_hyperparameters()
        self.net: nn.Sequential | None = None
        if num_features is not None and num_classes is not None:
            self.configure_model()

    def configure_model(self) -> None:
        """Build the layers, once; sizes that are not given come from the data module and are saved in the checkpoint.

        Raises:
            ConfigurationError: a size is given neither to the model nor by the data module.

        """
        if self.net is not None:
            return
        if self.hparams["num_features"] is None:
            self.hparams["num_features"] = self._num_features_of_data()
        if self.hparams["num_classes"] is None:
            self.hparams["num_classes"] = self._num_classes_of_data()
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
        norms = [nn.LayerNorm(fan_out)] if self.hparams["layer_norm"] else []
        return [nn.Linear(fan_in, fan_out), *norms, ACTIVATIONS[self.hparams["activation"]]()]

    def _num_features_of_data(self) -> int:
        data = self._datamodule()
        if isinstance(data, DeclaresImages):
            return prod(data.image_shape)
        return required("num_features", data.num_features if isinstance(data, DeclaresFeatures) else None)
