"""Causal language modelling, with a loss for each text."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric

from dplit.models.finetuning import FineTuned
from dplit.models.huggingface import Batch, inputs, to_the_left


class CausalLM(FineTuned):
    """Next-token prediction; the loss of a text is the mean over its own tokens, so that it is one example's alone.

    The first token is not predicted, nor is padding, by `attention_mask`: a padding token that is also the end of text
    is told apart. A text with nothing to predict has loss 0. Logged are `val/loss`, the mean over texts, and
    `val/perplexity`, exp of the mean over all tokens; the same with `test`.

    Args:
        model: see `FineTuned`; a causal language model.
        **settings: tuning, saving and training, as `FineTuned` has them.

    """

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    headed: ClassVar[bool] = True

    def __init__(self, model: str, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.save_hyperparameters()
        self.by_token = MeanMetric()

    def forward(self, batch: Batch) -> Tensor:
        """Return `(b, T, V)` logits of the texts, each moved to the left end of its row."""
        net = self.loaded()
        logits: Tensor = net(**inputs(net, batch)).logits
        return logits

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the mean loss of each text, `(b,)`, and how many tokens it is a mean over, `(b,)`."""
        return by_text(self(batch), *to_the_left(batch))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the losses, `(b,)`, if the strategy asks for losses per example, else their mean."""
        return self._reduced(self.losses(batch)[0])

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return `{"loss": (b,), "tokens": (b,)}`, what `losses` does: all that a model which decides nothing can say."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return what `validation_step` does."""
        return self._evaluate(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of each text, `(b,)`; exp of it is the text's perplexity."""
        return self.losses(batch)[0]

    def on_validation_epoch_end(self) -> None:
        """Log the perplexity of the epoch."""
        self._log_perplexity("val")

    def on_test_epoch_end(self) -> None:
        """Log the perplexity of the epoch."""
        self._log_perplexity("test")

    def _evaluate(self, batch: Batch, split: str) -> dict[str, Tensor]:
        losses, tokens = self.losses(batch)
        self.by_token.update(losses.detach(), tokens)
        self.log(f"{split}/loss", losses.mean(), batch_size=len(losses), prog_bar=True, sync_dist=True)
        return {"loss": losses, "tokens": tokens}

    def _log_perplexity(self, split: str) -> None:
        self.log(f"{split}/perplexity", self.by_token.compute().exp(), prog_bar=True)
        self.by_token.reset()


def by_text(logits: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return each text's mean cross-entropy and its number of predicted tokens, both `(b,)`.

    Args:
        logits: `(b, T, V)`.
        ids: `(b, T)`, each text at the left end of its row.
        mask: `(b, T)`, 1 at its tokens.

    """
    labels = F.pad(ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100), (0, 1), value=-100)
    flat = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=-100)
    tokens = mask[:, 1:].sum(1)
    return flat.view(labels.shape).sum(1) / tokens.clamp(min=1), tokens
