"""Sequence classification: a pretrained encoder and a new linear head."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dplit import validation
from dplit.models.base import Batch
from dplit.models.classification import Classifier
from dplit.models.finetuning import FineTuned, check_labels
from dplit.models.huggingface import left_aligned, model_inputs
from dplit.models.optim.adam_bc import ParameterGroup

POOLINGS = ("mean", "first", "last")


class SequenceClassifier(FineTuned, Classifier):
    """A linear head on one vector per text: the mean over its tokens, its first token, or its last token.

    The saved folder holds the encoder for `AutoModel.from_pretrained`, and `head.safetensors` with `weight` and `bias` of
    the head and the pooling in its metadata. A text without tokens has the zero vector.

    Args:
        model: see `FineTuned`.
        num_classes: number of classes; None takes it from the data module.
        pooling: `mean` over the tokens without padding; `first`, where encoders put their summary; or `last`, the only token
            of a causal model that has seen the whole text.
        head_learning_rate: the highest step size of the head; None for `learning_rate`. The head starts at random and a
            private run has few steps, so a value some tens of times larger than `learning_rate` helps.
        **settings: tuning, saving and training, as `FineTuned` has them.

    Raises:
        ConfigurationError: an argument is out of its range, or a label is not a class.

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
        if num_classes is not None:
            validation.count("num_classes", num_classes, least=2)
        validation.choice("pooling", pooling, POOLINGS)
        if head_learning_rate is not None:
            validation.positive_finite("head_learning_rate", head_learning_rate)
        self.save_hyperparameters()
        self.head: nn.Linear | None = None

    def configure_model(self) -> None:
        """Load the encoder and create the head, once; `num_classes` is saved in the checkpoint.

        Raises:
            ConfigurationError: the encoder cannot be loaded, or the number of classes is not known.

        """
        super().configure_model()
        if self.head is None:
            if self.hparams["num_classes"] is None:
                self.hparams["num_classes"] = self._num_classes_of_data()
            self.head = nn.Linear(self._hidden_size(), self.hparams["num_classes"])

    def forward(self, batch: Batch) -> Tensor:
        """Return `(b, num_classes)` logits."""
        net = self.loaded()
        assert self.head is not None
        _, mask = left_aligned(batch)
        states = net(**model_inputs(net, batch)).last_hidden_state
        logits: Tensor = self.head(pooled(states, mask, self.hparams["pooling"]))
        return logits

    def _parameter_groups(self) -> list[ParameterGroup]:
        rate = self.hparams["head_learning_rate"]
        if rate is None:
            return super()._parameter_groups()
        assert self.head is not None
        body = [parameter for parameter in self.loaded().parameters() if parameter.requires_grad]
        groups: list[ParameterGroup] = [{"params": body}, {"params": list(self.head.parameters()), "lr": rate}]
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
    """Return one vector per text, `(b, d)`.

    Args:
        states: `(b, T, d)`, each text at the left end of its row.
        mask: `(b, T)` int64, 1 at tokens and 0 at padding.
        pooling: a name in `POOLINGS`.

    """
    states = states.masked_fill(mask.unsqueeze(2) == 0, 0.0)
    if pooling == "first":
        return states[:, 0]
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), (mask.sum(1) - 1).clamp(min=0)]
    return torch.sum(states, 1) / mask.sum(1, keepdim=True).clamp(min=1)
