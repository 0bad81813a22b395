"""RedditBias: which comments are kept. The slow test downloads them."""

from __future__ import annotations

import pandas as pd
import pytest

from dplit.data import redditbias
from dplit.data.redditbias import RedditBias, comments
from dplit.errors import ConfigurationError
from tests.data.own import bert
from tests.data.real import counts, fetched


def test_reddit_labels_other_than_0_and_1_are_dropped():
    rows = pd.DataFrame(
        {
            "comment": list("abcdefg"),
            "phrase": "x",
            "bias_sent": ["1", "0.0", "2", "", "question", "1 - context needed", "1.0"],
        }
    )
    found = comments(rows.to_csv(index=False).encode())
    assert found.to_dict("list") == {"comment": ["a", "b", "g"], "label": [1, 0, 1]}


def test_reddit_reads_what_is_not_utf8():
    found = comments("comment,bias_sent\nthat’s,1\n".encode("mac_roman"))
    assert found["comment"].tolist() == ["that’s"]


def test_reddit_keeps_the_first_of_the_same_comments(monkeypatch):
    monkeypatch.setattr(redditbias, "ROWS", 2)
    files = [b"comment,bias_sent\na,1\na,0\n", b"comment,bias_sent\na,0\nb,0\n"]
    found = RedditBias().parse(files)
    assert (found.text, found.y.tolist(), found.group.tolist()) == (["a", "b"], [1, 0], [0, 1])
    monkeypatch.setattr(redditbias, "ROWS", 3)
    with pytest.raises(ConfigurationError, match="has 2 comments, not 3"):
        RedditBias().parse(files)


@pytest.mark.slow
def test_redditbias_holds_the_rows_it_says(tmp_path):
    data = fetched(RedditBias, bert(tmp_path))
    assert sum(n for n, _ in counts(data).values()) == redditbias.ROWS == 11_464
    expected = {"women": 2_975, "LGBTQ people": 1_983, "Black people": 2_620, "Jews": 2_087, "Muslims": 1_799}
    assert {name: n for name, (n, _) in counts(data).items()} == expected
    assert sum(biased for _, biased in counts(data).values()) == 6_569
