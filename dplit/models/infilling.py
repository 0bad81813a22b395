"""Classification by the word that a pretrained language-model head predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dplit.errors import ConfigurationError
from dplit.models.classification import Batch, Classifier
from dplit.models.finetuning import FineTuned, check_labels
from dplit.models.huggingface import check_vocabulary, inputs, logits_at, to_the_left, tokenizer_of
from dplit.models.verbalizer import token_ids

AUTO = {"mask": "AutoModelForMaskedLM", "end": "AutoModelForCausalLM"}


class Infilling(FineTuned, Classifier):
    """Text infilling: the logits of a class are those of its word, at the mask or after the end of the prompt.

    Nothing is trained from the start, which is what makes it do well under noise (Li et al. 2022, arXiv:2110.05679,
    section 3.2). The head is asked about that one position of each text.

    Args:
        model: see `FineTuned`; a masked or a causal language model.
        words: one word for each class, in their order; each must be one token of the model.
        place: `mask`, the first mask token of each text; or `end`, after its last token.
        space: a space stands before the word, as after "It was".
        **settings: tuning, saving and training, as `FineTuned` has them.

    Raises:
        ConfigurationError: an argument is out of its range, a word is no single token, a label is no class; or, before
            training, one of the data module's training texts has no mask.

    """

    headed: ClassVar[bool] = True

    def __init__(
        self,
        model: str,
        words: Sequence[str],
        place: Literal["mask", "end"] = "mask",
        space: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(model, **settings)
        if isinstance(words, str) or len(words) < 2:
            raise ConfigurationError(f"words={words!r} leaves nothing to tell apart; give one word for each class")
        if place not in AUTO:
            raise ConfigurationError(f"place={place!r} is not known here; choose {' or '.join(AUTO)}")
        self.save_hyperparameters()
        self.auto_class = AUTO[place]  # type: ignore[misc]
        self.word_ids: list[int] = []
        self.mask_id: int | None = None

    def configure_model(self) -> None:
        """Load the model and find the words in its vocabulary, once."""
        super().configure_model()
        if not self.word_ids:
            self._check_classes()
            tokenizer = self.tokenizer or tokenizer_of(self.model)
            check_vocabulary(self.loaded(), tokenizer)
            self.tokenizer, self.mask_id = tokenizer, tokenizer.mask_token_id
            self.word_ids = token_ids(tokenizer, self.hparams["words"], self.hparams["space"])

    def on_fit_start(self) -> None:
        """Refuse training texts that have no mask, before any of them has moved a weight."""
        without = getattr(self._datamodule(), "training_texts_without", None)
        if self.hparams["place"] == "end" or without is None:
            return
        lacking = without(self.mask_id)
        if len(lacking):
            raise ConfigurationError(
                f"{len(lacking)} training texts have no mask token, text {int(lacking[0])} first, so no word can be "
                "predicted in them; put {mask} into the data module's template, or set place='end'"
            )

    def forward(self, batch: Batch) -> Tensor:
        """Return `(b, classes)` logits; those of a text that has no mask are 0, so that it moves no weight."""
        net = self.loaded()
        logits = logits_at(net, inputs(net, batch), self.position(batch))
        words = logits[:, torch.tensor(self.word_ids, device=logits.device)]
        return words.masked_fill(~self.asks(batch)[:, None], 0.0)

    def position(self, batch: Batch) -> Tensor:
        """Return where each text's word is predicted, `(b,)`, counted from its first token; 0 where none is asked for."""
        ids, mask = to_the_left(batch)
        if self.hparams["place"] == "end":
            return (mask.sum(1) - 1).clamp(min=0)
        return ((ids == self.mask_id) & (mask == 1)).long().argmax(1)

    def asks(self, batch: Batch) -> Tensor:
        """Return whether each text asks for a word, `(b,)` bool: it has a mask, or, at `end`, any token."""
        mask = batch["attention_mask"] == 1
        return (mask if self.hparams["place"] == "end" else mask & (batch["input_ids"] == self.mask_id)).any(1)

    def _check_classes(self) -> None:
        declared, words = getattr(self._datamodule(), "num_classes", None), self.hparams["words"]
        if declared not in (None, len(words)):
            raise ConfigurationError(f"{len(words)} words for {declared} classes; give one for each")

    def _losses(self, logits: Tensor, batch: Batch) -> Tensor:
        check_labels(batch, len(self.word_ids))
        return super()._losses(logits, batch)
