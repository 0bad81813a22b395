"""Texts of one's own with terms to swap, in the words of the tiny models' tokenizers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tests.data.own import texts
from tests.models.tiny import folder

SWAPS = [["good", "bad", "fine"], ["film", "story"]]
SAID = ["the good film", "it was", "a Bad story and a good film", "", "fine", "[MASK] good <mask>", "bad " * 40]


def rows(n=40):
    """Person k says the texts k, k + 8, ...; all of one are in one group."""
    user = np.arange(n) % 8
    return pd.DataFrame(
        {
            "text": [SAID[i % len(SAID)] for i in range(n)],
            "label": np.where(np.arange(n) % 3, "no", "yes"),
            "group": np.array(["I", "II", "III"])[user % 3],
            "user": user,
        }
    )


def data(tmp_path, **options):
    declared = {"tokenizer": folder("bert"), "swaps": SWAPS, "max_length": 12, "batch_size": 8}
    made = texts(tmp_path, rows(), **{**declared, **options})
    made.setup()
    return made
