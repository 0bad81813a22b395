"""What all fine-tuned language models share: loading, the choice of trained parameters, and saving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from dplit.errors import ConfigurationError
from dplit.files import new_folder, next_free_path
from dplit.models.base import BaseModel, Batch
from dplit.models.huggingface import check_vocabulary, disable_dropout, enable_checkpointing, load, without_adapter
from dplit.models.saving import write_model
from dplit.models.trainable import Tuning, apply_tuning
from dplit.protocols import HasTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dplit.models.huggingface import Net


class FineTuned(BaseModel):
    """A pretrained model from transformers, trained on texts; a subclass adds the head and the losses.

    A batch is a mapping with `input_ids` and `attention_mask`, `(b, T)` int64, and `y`, `(b,)` int64. Rows may be padded
    on either side; the losses do not depend on it. The data module's tokenizer, if it has one, is checked against the
    model and saved with it.

    For an exponential average of the weights, add Lightning's `EMAWeightAveraging(decay=0.99, use_buffers=False)` to the
    trainer's callbacks. It sees noised weights only; validation and saving then use the average. Keep `use_buffers=False`,
    because averaging would round the integers that models keep in buffers.

    Args:
        model: `minilm-l6` or another short name of `dplit.hub.pretrained`, any Hugging Face name, or a folder.
        tuning: which parameters are trained. `full`: all. `layers`: those that `layers` names. `bias`: every bias and no
            other weight (BitFit, Ben Zaken et al. 2022). `lora`: low-rank additions to linear layers (Hu et al. 2022, by
            peft). `head`: a new head only. New heads are always trained; pretrained heads only with `full`, or if `layers`
            names them. Frozen parameters cost no time for clipping and noise.
        layers: for `tuning="layers"`: how many of the last blocks, or a list of prefixes of parameter names.
        lora_rank: r of LoRA.
        lora_alpha: α of LoRA; additions are scaled by α/r.
        lora_targets: names of the layers that LoRA adapts, `all-linear`, or one regular expression for whole names, such as
            `.*layers.2[0-9].*q_proj`.
        gradient_checkpointing: compute activations a second time in the backward pass, to save memory.
        attention: `attn_implementation` of transformers: `eager`, `sdpa` or another; None leaves the choice to
            transformers. On a CPU that computes products in less than float32, `eager` is the fastest for short texts.
        dropout: keep the dropout of the model. By default it is off, and noise is the only regulariser.
        save_to: folder to save to when fit ends, inside the run directory if relative; if it exists, a number is added to
            its name. None saves nothing.
        learning_rate: see `BaseModel`.
        optimizer: see `BaseModel`.
        schedule: see `BaseModel`.
        **training: momentum, weight_decay, warmup, floor and log_train_loss of `BaseModel`.

    Raises:
        ConfigurationError: an argument is out of its range.

    """

    auto_class: str = "AutoModel"
    """The name of the class of transformers that loads the model."""
    headed: ClassVar[bool] = False
    """Whether the head is a pretrained one, which the model must have."""
    new_head: ClassVar[bool] = False
    """Whether there is a head that starts at random, which can be trained alone."""

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
        self.net: Net | None = None
        self.tokenizer: PreTrainedTokenizerBase | None = None

    def configure_model(self) -> None:
        """Load the model, once, and freeze the parameters that are not trained.

        Raises:
            ConfigurationError: the model cannot be loaded, lacks a pretrained head that is needed, has nothing to train
                with this `tuning`, or the data module's tokenizer does not fit it.

        """
        if self.net is not None:
            return
        import transformers

        net = load(getattr(transformers, self.auto_class), self.model, self.headed, self.attention)
        data = self._datamodule()
        self.tokenizer = data.tokenizer if isinstance(data, HasTokenizer) else None
        check_vocabulary(net, self.tokenizer)
        if not self.dropout:
            disable_dropout(net)
        if self.gradient_checkpointing:
            enable_checkpointing(net)
        self.net = apply_tuning(net, self.tuning).train()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model and its tokenizer to a new folder that transformers can load without dplit.

        LoRA additions are merged into the weights; the adapter alone is under `adapter/`, for peft.

        Raises:
            ConfigurationError: the folder exists, or there is no model yet.

        """
        if Path(folder).exists():
            raise ConfigurationError(f"{folder} exists and would be overwritten; give a new folder")
        with new_folder(folder) as unfinished:
            self._write(unfinished)

    def on_fit_end(self) -> None:
        """Save to the folder `save_to`."""
        trainer = self.trainer
        if self.save_to is not None and trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            folder = Path(trainer.log_dir or trainer.default_root_dir) / self.save_to
            self.save_pretrained(next_free_path(folder))

    def loaded(self) -> Net:
        """Return the model of transformers or peft.

        Raises:
            ConfigurationError: it is not loaded yet.

        """
        if self.net is None:
            raise ConfigurationError("the model is not loaded yet; call configure_model(), or let it be fit")
        return self.net

    def _write(self, path: Path) -> None:
        write_model(self.loaded(), path)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(path)

    def _hidden_size(self) -> int:
        return int(without_adapter(self.loaded()).config.hidden_size)


def check_labels(batch: Batch, classes: int) -> Tensor:
    """Return the labels `y` of a batch, `(b,)`.

    Raises:
        ConfigurationError: a label is not in `[0, classes)`.

    """
    y = batch["y"]
    if len(y) and not (int(y.min()) >= 0 and int(y.max()) < classes):
        wrong = int(y.min()) if int(y.min()) < 0 else int(y.max())
        raise ConfigurationError(
            f"label {wrong} is not one of the {classes} classes, 0 to {classes - 1}; correct the data"
        )
    return torch.as_tensor(y)
