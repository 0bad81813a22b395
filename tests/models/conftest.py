"""Text models load from folders here, as `dplit.pretrained` does, where it is."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


@pytest.fixture
def from_folders(monkeypatch):
    if find_spec("dplit.pretrained") is None:
        load = lambda auto, name, **given: auto.from_pretrained(name, **given)  # noqa: E731
        monkeypatch.setattr("dplit.models.hugging._load", load)
