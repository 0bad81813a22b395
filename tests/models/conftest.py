"""Text models load from folders here; the names that `dplit.pretrained` knows are its own tests' concern."""

from __future__ import annotations

import pytest


@pytest.fixture
def from_folders(monkeypatch):
    monkeypatch.setattr("dplit.models.hugging._load", lambda auto, name, **given: auto.from_pretrained(name, **given))
