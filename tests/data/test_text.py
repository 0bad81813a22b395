"""The warning of offensive texts has a public name by which it can be silenced."""

from __future__ import annotations

import warnings

import pytest

from dplit.data import text as public
from dplit.data.bold import Bold
from dplit.data.redditbias import RedditBias
from dplit.data.texts.base import OffensiveText
from dplit.errors import ConfigurationError
from tests.data.own import bert


@pytest.mark.parametrize("cls", [RedditBias, Bold])
def test_offensive_texts_are_announced_and_can_be_silenced(cls, tmp_path):
    with pytest.warns(OffensiveText, match=cls.__name__), pytest.raises(ConfigurationError):
        cls(tokenizer=bert(tmp_path), root=tmp_path).setup()


def test_the_public_name_is_the_warning_that_is_given(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", public.OffensiveText)
        with pytest.raises(ConfigurationError, match="does not give"):
            Bold(tokenizer=bert(tmp_path), root=tmp_path).setup()
