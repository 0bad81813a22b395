"""What the tests of texts share."""

from __future__ import annotations

import pytest

from dplit.errors import ConfigurationError


def refusal(call, *arguments, **options):
    with pytest.raises(ConfigurationError) as refused:
        call(*arguments, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def batch_of(data):
    data.setup()
    return data.train.collate(range(len(data.train)))
