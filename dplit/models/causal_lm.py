"""Causal language modelling, with one loss for each text."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric

from dplit.models.base import Batch
from dplit.models.finetuning import FineTuned
from dplit.models.huggingface import left_aligned, model_inputs


class CausalLM(FineTuned):
    """Next-token prediction. The loss of a text is the mean over its own tokens, so it depends on no other example.

    The first token and padding are not predicted. `attention_mask` says what is padding, so a tokenizer may use its
    end-of-text token as padding. A text without a token to predict has loss 0. `val/loss`, the mean over texts, and
    `val/perplexity`, exp of the mean over all tokens, are logged; also for `test`.

    Args:
        model: see `FineTuned`; a causal language model.
        **settings: tuning, saving and training, as `FineTuned` has them.

    """

    auto_class: str = "AutoModelForCausalLM"
    headed: ClassVar[bool] = True

    def __init__(self, model: str, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.save_hyperparameters()
        self.token_loss = MeanMetric()

    def forward(self, batch: Batch) -> Tensor:
        """Return `(b, T, V)` logits; each text stands at the left end of its row."""
        net = self.loaded()
        logits: Tensor = net(**model_inputs(net, batch)).logits
        return logits

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the mean loss of each text, `(b,)`, and its number of predicted tokens, `(b,)`."""
        return mean_loss_by_text(self(batch), *left_aligned(batch))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the losses, `(b,)`, if the strategy asks for losses per example, else their mean."""
        return self._reduced(self.losses(batch)[0])

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return `{"loss": (b,), "tokens": (b,)}`, as `losses` does; a language model predicts no class."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return `{"loss": (b,), "tokens": (b,)}`, as `losses` does."""
        return self._evaluate(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of each text, `(b,)`; its exponential is the perplexity of the text."""
        return self.losses(batch)[0]

    def on_validation_epoch_end(self) -> None:
        """Log the perplexity of the epoch."""
        self._log_perplexity("val")

    def on_test_epoch_end(self) -> None:
        """Log the perplexity of the epoch."""
        self._log_perplexity("test")

    def _evaluate(self, batch: Batch, split: str) -> dict[str, Tensor]:
        losses, tokens = self.losses(batch)
        self.token_loss.update(losses.detach(), tokens)
        self.log(f"{split}/loss", losses.mean(), batch_size=len(losses), prog_bar=True, sync_dist=True)
        return {"loss": losses, "tokens": tokens}

    def _log_perplexity(self, split: str) -> None:
        self.log(f"{split}/perplexity", self.token_loss.compute().exp(), prog_bar=True)
        self.token_loss.reset()


def mean_loss_by_text(logits: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return each text's mean cross-entropy and its number of predicted tokens, both `(b,)`.

    Args:
        logits: `(b, T, V)`.
        ids: `(b, T)` int64, each text at the left end of its row.
        mask: `(b, T)` int64, 1 at tokens and 0 at padding.

    """
    labels = F.pad(ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100), (0, 1), value=-100)
    token_losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=-100)
    tokens = mask[:, 1:].sum(1)
    return token_losses.view(labels.shape).sum(1) / tokens.clamp(min=1), tokens
