"""What every fine-tuned language model shares: loading, what is trained, and saving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dplit.errors import ConfigurationError
from dplit.models.base import BaseModel
from dplit.models.huggingface import Batch, check_vocabulary, checkpointing, inner, load, without_dropout
from dplit.models.saving import free, write_model, written
from dplit.models.trainable import Tuning, tuned


class FineTuned(BaseModel):
    """A pretrained model from transformers, trained on texts; a subclass says which head and which losses.

    A text batch is a mapping with `input_ids` and `attention_mask`, `(b, T)` int64, and `y`, `(b,)`; rows may be padded
    on either side, which changes no loss. `trainer.datamodule.tokenizer`, where there is one, is checked against the
    model and saved with it.

    Exponential averaging of weights is Lightning's own and sees noised weights only:
    `EMAWeightAveraging(decay=0.99, use_buffers=False)` among the trainer's callbacks; validation and what is saved are
    then of the average. Keep `use_buffers=False`: averaging would round the whole numbers that models keep in buffers.

    Args:
        model: `minilm-l6` or another short name of `dplit.hub.pretrained`, any Hugging Face name, or a folder.
        tuning: `full`; `layers`, those named by `layers`; `bias`, every bias and no other weight (BitFit, Ben Zaken et
            al. 2022); `lora`, low-rank additions to linear layers (Hu et al. 2022, by peft); `head`, a new head alone.
            New heads are always trained, pretrained ones only with `full`, or where `layers` names them. Frozen
            parameters cost nothing.
        layers: for `layers`: how many last blocks, or a list of prefixes of parameter names.
        lora_rank: r of LoRA.
        lora_alpha: α of LoRA; additions are scaled by α/r.
        lora_targets: names of the layers that LoRA adapts, `all-linear`, or one regular expression for whole names, such as
            `.*layers.2[0-9].*q_proj`.
        gradient_checkpointing: compute activations again in the backward pass, for less memory.
        attention: how transformers computes attention, its `attn_implementation`: `eager`, `sdpa` or another; None leaves
            the choice to it. On a CPU `eager` is the quickest at short texts where products are not of full float32.
        dropout: keep the dropout that the model comes with; off, noise is the only regulariser.
        save_to: folder to save to when fit ends, taken from the run directory if relative, with a number added where it
            exists; None saves nothing.
        learning_rate: see `BaseModel`.
        optimizer: see `BaseModel`.
        schedule: see `BaseModel`.
        **training: momentum, weight_decay, warmup, floor and log_train_loss of `BaseModel`.

    Raises:
        ConfigurationError: an argument is out of its range.

    """

    auto_class: ClassVar[str] = "AutoModel"
    """The class of transformers that loads the model."""
    headed: ClassVar[bool] = False
    """The head is a pretrained one, and must have been loaded."""
    new_head: ClassVar[bool] = False
    """There is a head that starts at random, which can be trained alone."""

    def __init__(
        self,
        model: str,
        tuning: Literal["full", "layers", "bias", "lora", "head"] = "full",
        layers: int | Sequence[str] | None = None,
        lora_rank: int = 8,
        lora_alpha: int = 16,
        lora_targets: str | Sequence[str] = "all-linear",
        gradient_checkpointing: bool = False,
        attention: str | None = None,
        dropout: bool = False,
        save_to: str | None = "model",
        learning_rate: float = 5e-4,
        optimizer: Literal["sgd", "adamw", "adam_bc"] = "adamw",
        schedule: Literal["cosine", "linear", "constant"] = "linear",
        **training: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, optimizer=optimizer, schedule=schedule, **training)
        self.tuning = Tuning(tuning, layers, lora_rank, lora_alpha, lora_targets)
        self.tuning.check(self.new_head)
        self.model, self.save_to = model, save_to
        self.gradient_checkpointing, self.attention, self.dropout = gradient_checkpointing, attention, dropout
        self.net: nn.Module | None = None
        self.tokenizer: Any = None

    def configure_model(self) -> None:
        """Load the model, once, and freeze what is not trained.

        Raises:
            ConfigurationError: the model cannot be loaded, has no pretrained head where one is needed, has nothing to
                train as asked, or the data module's tokenizer does not fit it.

        """
        if self.net is not None:
            return
        import transformers

        net = load(getattr(transformers, self.auto_class), self.model, self.headed, self.attention)
        self.tokenizer = getattr(self._datamodule(), "tokenizer", None)
        check_vocabulary(net, self.tokenizer)
        if not self.dropout:
            without_dropout(net)
        if self.gradient_checkpointing:
            checkpointing(net)
        self.net = tuned(net, self.tuning).train()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model and its tokenizer so that transformers loads them without dplit; LoRA is merged in.

        The adapter alone is under `adapter/`, for peft.

        Raises:
            ConfigurationError: the folder exists, or there is no model yet.

        """
        written(folder, self._write)

    def on_fit_end(self) -> None:
        """Save where `save_to` says."""
        trainer = self._attached_trainer()
        if self.save_to is not None and trainer.is_global_zero and not trainer.fast_dev_run:
            folder = Path(trainer.log_dir or trainer.default_root_dir) / self.save_to
            self.save_pretrained(free(folder))

    def loaded(self) -> nn.Module:
        """Return the model inside.

        Raises:
            ConfigurationError: it has not been loaded.

        """
        if self.net is None:
            raise ConfigurationError("the model is not loaded yet; call configure_model(), or let it be fit")
        return self.net

    def _write(self, path: Path) -> None:
        write_model(self.loaded(), path)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(path)

    def _width(self) -> int:
        return int(inner(self.loaded()).config.hidden_size)


def check_labels(batch: Batch, classes: int) -> Tensor:
    """Return `y`.

    Raises:
        ConfigurationError: one is no class.

    """
    y = batch["y"]
    if len(y) and not (int(y.min()) >= 0 and int(y.max()) < classes):
        wrong = int(y.min()) if int(y.min()) < 0 else int(y.max())
        raise ConfigurationError(f"label {wrong} is none of the {classes} classes, 0 to {classes - 1}; mend the data")
    return torch.as_tensor(y)
