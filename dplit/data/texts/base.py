"""What all text data sets share: texts are encoded once, one by one, and a batch is padded to its longest text.

Nothing is fitted: the token ids of a text are a function of that text, the tokenizer and constants, so encoding costs no
privacy.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from typing_extensions import override

from dplit.data.base import (
    ALL_SPLITS,
    SPLIT_SEED,
    TEST_FRACTION,
    Examples,
    GroupedData,
    Ids,
    Splits,
    check_choice,
    check_sizes,
)
from dplit.data.texts.counterfactual import Counterfactuals, Swaps
from dplit.data.texts.encoding import Encoder, Template, without_special_tokens
from dplit.data.texts.records import Records
from dplit.data.texts.terms import declared_terms
from dplit.data.texts.token_rows import Side, TokenRows
from dplit.errors import ConfigurationError
from dplit.hub import pretrained

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class OffensiveText(UserWarning):
    """The texts of this data set insult or demean people; silence the warning with `warnings.filterwarnings`."""


class TextData(GroupedData):
    """Texts in memory as token ids; a subclass declares its classes and groups and reads its records.

    Batches are `{"input_ids": (b, T), "attention_mask": (b, T), "y": (b,), "group": (b,)}`, all int64, where `T` is the
    length of the longest text of the batch. If the data say whose a record is, there is `"unit": (b,)` int64; with k
    `identity_terms` there is `"mentions": (b, k)` bool. For language modelling `y` is the group id.

    Attributes:
        classes: the names of the classes; id `k` means the `k`-th.
        tokenizer: the tokenizer of Hugging Face, after `setup`; None before.
        tokenizer_name, template, max_length: the arguments.

    Args:
        tokenizer: `minilm-l6`, `smollm2-135m`, a folder, or a name on the Hugging Face hub; it must be the model's.
        template: a text with `{text}`, and with `{mask}` where the model predicts a word (`Template`); None for the text
            alone.
        max_length: the most tokens of an example. A longer text loses its end, never the template. If the tokenizer's own
            limit is smaller, that limit holds.
        padding_side: `left` or `right`; None for the tokenizer's.
        pad_to_multiple_of: the length of a batch is rounded up to a multiple of this.
        eval_batch_size: texts in a validation or test batch; a batch holds texts of similar length.
        swaps: identity terms that are swapped in copies of the training texts, as in `Swaps`; None for no copies. A copy
            has the label, group and unit of its record, and is clipped and charged together with it.
        max_copies: the most copies of one text.
        identity_terms: words to look for in the texts as they are read, before template and truncation
            (`dplit.data.texts.terms.mentions`); FairnessMonitor reports the false positive rate among the texts that
            mention each.
        **loading: batch_size, validation_fraction and num_workers of `GroupedData`.

    Raises:
        ConfigurationError: an argument is out of its range; in `setup`, the tokenizer or the texts cannot be loaded.

    """

    classes: tuple[str, ...]
    offensive = False
    disjoint_splits = ALL_SPLITS[:2]

    def __init__(
        self,
        tokenizer: str,
        template: str | None = None,
        max_length: int = 128,
        padding_side: Side | None = None,
        pad_to_multiple_of: int = 1,
        eval_batch_size: int = 256,
        swaps: str | list[object] | dict[str, object] | None = None,
        max_copies: int = 3,
        identity_terms: list[str] | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(eval_batch_size=eval_batch_size, **loading)
        check_sizes(max_length=max_length, pad_to_multiple_of=pad_to_multiple_of)
        if padding_side is not None:
            check_choice("padding_side", padding_side, ("left", "right"), "side of a text")
        if template is not None:
            Template(template, "")
        self.swaps = None if swaps is None else Swaps(swaps, max_copies)
        self.tokenizer_name, self.template, self.max_length = tokenizer, template, max_length
        self.padding_side, self.pad_to_multiple_of = padding_side, pad_to_multiple_of
        self.identity_terms = declared_terms(identity_terms)
        self.tokenizer: PreTrainedTokenizerBase | None = None

    @abstractmethod
    def records(self) -> tuple[Records, Records | None]:
        """Return the records to train and validate on, and those to test on; None takes these from the first."""

    def training_texts_without(self, token: int | None) -> Tensor:
        """Return the numbers of the training texts that do not contain a token, `(k,)` int64; copies have the last numbers."""
        rows = self.train.rows if isinstance(self.train, Counterfactuals) else self.train
        assert isinstance(rows, TokenRows)
        return (~rows.contains(token)).nonzero().flatten()

    @override
    def read(self) -> Splits:
        if self.offensive:
            warnings.warn(f"the texts of {type(self).__name__} are offensive", OffensiveText, stacklevel=2)
        self.tokenizer = _load_tokenizer(self.tokenizer_name)
        length = min(self.max_length, int(self.tokenizer.model_max_length))
        encoder = Encoder(self.tokenizer, self.template or "{text}", length)
        rest, test = self.records()
        if test is None:
            rest, test = rest.split(TEST_FRACTION)
        train, val = rest.split(self.validation_fraction)
        return Splits(
            self._training_rows(encoder, train),
            self._evaluation_rows(encoder, val),
            self._evaluation_rows(encoder, test),
        )

    def prepared(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Return the texts as they are put into the template; a literal special token in a text is broken up."""
        return without_special_tokens(texts, tokenizer)

    def _training_rows(self, encoder: Encoder, records: Records) -> Examples:
        if self.swaps is None:
            return self._token_rows(encoder, records, self._encode(encoder, records))
        copies = [self.swaps(text) for text in records.text]
        records = records.with_copies(copies)
        rows = self._token_rows(encoder, records, self._encode(encoder, records))
        return Counterfactuals(rows, [len(texts) for texts in copies])

    def _evaluation_rows(self, encoder: Encoder, records: Records) -> TokenRows:
        """Return the records in an order in which each batch holds texts of similar length, so that little is padded."""
        ids = self._encode(encoder, records)
        order = batches_of_similar_length(np.array([len(row) for row in ids], dtype=np.int64), self.eval_batch_size)
        return self._token_rows(encoder, records.part(order), [ids[i] for i in order])

    def _encode(self, encoder: Encoder, records: Records) -> list[list[int]]:
        return encoder(self.prepared(records.text, encoder.tokenizer))

    def _token_rows(self, encoder: Encoder, records: Records, ids: Sequence[Sequence[int]]) -> TokenRows:
        side: Side = self.padding_side or encoder.tokenizer.padding_side  # type: ignore[assignment]
        return TokenRows(ids, records, encoder.padding_id, side, self.pad_to_multiple_of, self.identity_terms)


def batches_of_similar_length(lengths: Ids, size: int) -> Ids:
    """Return an order of the records in which each `size` in a row are of similar length; the remainder comes last.

    The batches are shuffled with a fixed seed, so that the first few of them are a fair sample of all.

    Args:
        lengths: `(n,)` tokens of each text.
        size: of a batch.

    """
    order = np.argsort(lengths, kind="stable")
    in_full_batches = len(order) // size * size
    batches = np.random.RandomState(SPLIT_SEED).permutation(order[:in_full_batches].reshape(-1, size))
    return np.concatenate([batches.ravel(), order[in_full_batches:]])


def _load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ConfigurationError(f"tokenizer={name} needs transformers; install dplit[text]") from error
    tokenizer: PreTrainedTokenizerBase = pretrained.load(AutoTokenizer, name)
    return tokenizer
