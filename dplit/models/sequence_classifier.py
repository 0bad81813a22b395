"""Sequence classification: a pretrained encoder and a new linear head."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dplit.errors import ConfigurationError
from dplit.models.classification import Batch, Classifier
from dplit.models.finetuning import FineTuned, check_labels
from dplit.models.huggingface import inputs, to_the_left

POOLINGS = ("mean", "first", "last")


class SequenceClassifier(FineTuned, Classifier):
    """A linear head on one vector a text: the mean over its own tokens, its first token, or its last.

    Saved, the folder holds the encoder for `AutoModel.from_pretrained`, and `head.safetensors` with `weight` and `bias`
    of the head and the pooling in its metadata. A text without tokens has the zero vector.

    Args:
        model: see `FineTuned`.
        num_classes: number of classes; taken from the data module if it is not given.
        pooling: `mean` over the tokens that are no padding; `first`, an encoder's own; or `last`, the only token of a causal
            model that has seen the whole text.
        head_learning_rate: step size of the head at its highest; None for `learning_rate`. The head starts at random, so
            the few steps of a private run take it further where it is some tens of times larger.
        **settings: tuning, saving and training, as `FineTuned` has them.

    Raises:
        ConfigurationError: an argument is out of its range, or a label is no class.

    """

    new_head: ClassVar[bool] = True

    def __init__(
        self,
        model: str = "minilm-l6",
        num_classes: int | None = None,
        pooling: Literal["mean", "first", "last"] = "mean",
        head_learning_rate: float | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(model, **settings)
        if num_classes is not None and num_classes < 2:
            raise ConfigurationError(f"num_classes={num_classes} leaves nothing to learn; give at least 2")
        if pooling not in POOLINGS:
            raise ConfigurationError(f"pooling={pooling!r} is not known here; choose {', '.join(POOLINGS)}")
        if head_learning_rate is not None and not 0 < head_learning_rate < float("inf"):
            raise ConfigurationError(
                f"head_learning_rate={head_learning_rate} would not move the head; give a number above 0"
            )
        self.save_hyperparameters()
        self.head: nn.Linear | None = None

    def configure_model(self) -> None:
        """Load the encoder and draw the head, once; `num_classes` goes into the checkpoint."""
        super().configure_model()
        if self.head is None:
            if self.hparams["num_classes"] is None:
                self.hparams["num_classes"] = self.from_data("num_classes")
            self.head = nn.Linear(self._width(), self.hparams["num_classes"])

    def forward(self, batch: Batch) -> Tensor:
        """Return `(b, num_classes)` logits."""
        net = self.loaded()
        assert self.head is not None
        _, mask = to_the_left(batch)
        states = net(**inputs(net, batch)).last_hidden_state
        logits: Tensor = self.head(pooled(states, mask, self.hparams["pooling"]))
        return logits

    def _trained(self) -> list[dict[str, Any]]:
        rate = self.hparams["head_learning_rate"]
        if rate is None:
            return super()._trained()
        assert self.head is not None
        body = [parameter for parameter in self.loaded().parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [{"params": body}, {"params": list(self.head.parameters()), "lr": rate}]
        return [group for group in groups if group["params"]]

    def _losses(self, logits: Tensor, batch: Batch) -> Tensor:
        check_labels(batch, logits.shape[1])
        return super()._losses(logits, batch)

    def _write(self, path: Path) -> None:
        from safetensors.torch import save_file

        super()._write(path)
        assert self.head is not None
        head = {name: weight.detach().cpu().contiguous() for name, weight in self.head.named_parameters()}
        save_file(head, path / "head.safetensors", {"pooling": self.hparams["pooling"]})


def pooled(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Return one vector a text, `(b, d)`, from `(b, T, d)` states and a `(b, T)` mask with the tokens on the left."""
    own = states.masked_fill(mask.unsqueeze(2) == 0, 0.0)
    if pooling == "first":
        return own[:, 0]
    if pooling == "last":
        return own[torch.arange(len(own), device=own.device), (mask.sum(1) - 1).clamp(min=0)]
    return torch.sum(own, 1) / mask.sum(1, keepdim=True).clamp(min=1)
