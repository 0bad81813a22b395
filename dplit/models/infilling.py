"""Classification by the word that a pretrained language-model head predicts at one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dplit import validation
from dplit.errors import ConfigurationError
from dplit.models.base import Batch
from dplit.models.classification import Classifier
from dplit.models.finetuning import FineTuned, check_labels
from dplit.models.huggingface import check_vocabulary, left_aligned, load_tokenizer, logits_at
from dplit.models.verbalizer import token_ids
from dplit.protocols import DeclaresClasses, FindsTokens

AUTO_CLASSES = {"mask": "AutoModelForMaskedLM", "end": "AutoModelForCausalLM"}


class Infilling(FineTuned, Classifier):
    """Text infilling: the logit of a class is the logit of its word, at the mask or after the end of the prompt.

    No parameter starts at random, which is why this does well under noise (Li et al. 2022, arXiv:2110.05679, section 3.2).
    The head's logits are computed at that one position of each text.

    Args:
        model: see `FineTuned`; a masked or a causal language model.
        words: one word for each class, in their order; each must be one token of the model.
        place: `mask`, the first mask token of each text; or `end`, after its last token.
        space: whether a space stands before the word, as after "It was".
        **settings: tuning, saving and training, as `FineTuned` has them.

    Raises:
        ConfigurationError: an argument is out of its range, a word is not a single token, a label is not a class; or, before
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
        validation.choice("place", place, AUTO_CLASSES)
        self.save_hyperparameters()
        self.auto_class = AUTO_CLASSES[place]
        self.word_ids: list[int] = []
        self.mask_id: int | None = None

    def configure_model(self) -> None:
        """Load the model and look up the words in its vocabulary, once.

        Raises:
            ConfigurationError: the model cannot be loaded, a word is not a single token, or the data module declares another
                number of classes.

        """
        super().configure_model()
        if not self.word_ids:
            self._check_classes()
            tokenizer = self.tokenizer or load_tokenizer(self.model)
            check_vocabulary(self.loaded(), tokenizer)
            self.tokenizer, self.mask_id = tokenizer, tokenizer.mask_token_id
            self.word_ids = token_ids(tokenizer, self.hparams["words"], self.hparams["space"])

    def on_fit_start(self) -> None:
        """Refuse training texts without a mask, before the first training step.

        Raises:
            ConfigurationError: a training text has no mask token.

        """
        data = self._datamodule()
        if self.hparams["place"] == "end" or not isinstance(data, FindsTokens):
            return
        lacking = data.training_texts_without(self.mask_id)
        if len(lacking):
            raise ConfigurationError(
                f"{len(lacking)} training texts have no mask token, text {int(lacking[0])} first, so no word can be "
                "predicted in them; put {mask} into the data module's template, or set place='end'"
            )

    def forward(self, batch: Batch) -> Tensor:
        """Return `(b, classes)` logits; those of a text without a mask are 0, so that its gradient is 0."""
        net = self.loaded()
        logits = logits_at(net, batch, self.position(batch))
        word_logits = logits[:, torch.tensor(self.word_ids, device=logits.device)]
        return word_logits.masked_fill(~self.has_place(batch)[:, None], 0.0)

    def position(self, batch: Batch) -> Tensor:
        """Return where the word of each text is predicted, `(b,)`, counted from its first token; 0 if it has no place."""
        ids, mask = left_aligned(batch)
        if self.hparams["place"] == "end":
            return (mask.sum(1) - 1).clamp(min=0)
        return ((ids == self.mask_id) & (mask == 1)).long().argmax(1)

    def has_place(self, batch: Batch) -> Tensor:
        """Return whether each text has a place for a word, `(b,)` bool: a mask, or, with `place="end"`, any token."""
        mask = batch["attention_mask"] == 1
        return (mask if self.hparams["place"] == "end" else mask & (batch["input_ids"] == self.mask_id)).any(1)

    def _check_classes(self) -> None:
        data, words = self._datamodule(), self.hparams["words"]
        if isinstance(data, DeclaresClasses) and data.num_classes != len(words):
            raise ConfigurationError(
                f"words={list(words)} does not fit {data.num_classes} classes; give one word for each"
            )

    def _losses(self, logits: Tensor, batch: Batch) -> Tensor:
        check_labels(batch, len(self.word_ids))
        return super()._losses(logits, batch)
