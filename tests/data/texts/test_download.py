"""Downloaded texts: the records are those of all files, in their order."""

from __future__ import annotations

import numpy as np
import pytest

from dplit.data.texts.download import DownloadedTexts
from dplit.data.texts.records import Records
from dplit.hub.download import Member, PinnedFiles
from tests.data.own import bert


class Lines(DownloadedTexts):
    """One text a line; the class is the file."""

    classes = groups = ("first", "second")
    num_classes, licence = 2, "free to use"
    files = PinnedFiles("Lines", "lines", tuple(Member(f"in/{name}.txt", "", 0) for name in ("b", "a")), ())

    def parse(self, contents):
        lines = [(line, k) for k, content in enumerate(contents) for line in content.decode().splitlines()]
        y = np.array([k for _, k in lines])
        return Records([line for line, _ in lines], y, y)


@pytest.fixture
def asked(monkeypatch):
    asked = []

    def read(self, name, root=None):
        asked.append((name, root))
        return "\n".join(f"{name[0]} {i}" for i in range(30)).encode()

    monkeypatch.setattr(PinnedFiles, "read", read)
    return asked


def test_files_are_read_in_the_order_of_their_members(tmp_path, asked):
    data = Lines(bert(tmp_path), root=tmp_path)
    data.setup()
    assert asked == [("b.txt", tmp_path), ("a.txt", tmp_path)]
    assert sum(map(len, (data.train, data.val, data.test))) == 60
    for examples in (data.train, data.val, data.test):
        for i in range(len(examples)):
            batch = examples.collate([i])
            said = data.tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True)
            assert said[0] == "ba"[int(batch["y"][0])]
