"""Which identity terms a text mentions: a function of that text and the declared terms alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from dplit.errors import ConfigurationError
from dplit.groups import declared

Terms: TypeAlias = Sequence[str]


def declared_terms(terms: Terms | None) -> tuple[str, ...]:
    """Return the declared terms as a tuple, which is empty for None.

    Raises:
        ConfigurationError: a term is empty, or two terms differ only in case and white space.

    """
    if isinstance(terms, str):
        raise ConfigurationError(f"identity_terms={terms!r} is one word; give a list of terms, as [gay, muslim]")
    declared([" ".join(str(term).split()).casefold() for term in terms or ()], "identity_terms")
    return tuple(str(term) for term in terms or ())


def mentions(texts: Sequence[str], terms: Terms) -> Tensor:
    """Return which of k terms each of n texts mentions, `(n, k)` bool: as whole words, in upper or lower case.

    The words of a term may be separated by any white space. A word consists of letters, digits and underscores, so neither
    "Caucasian" nor "Asians" mentions "Asian"; plurals must be declared too.

    >>> mentions(["An ASIAN film", "Asians"], ["asian"]).tolist()
    [[True], [False]]
    """
    patterns = [_whole_words(term) for term in terms]
    found = [[pattern.search(text) is not None for pattern in patterns] for text in texts]
    return torch.tensor(found, dtype=torch.bool).reshape(len(texts), len(terms))


def _whole_words(term: str) -> re.Pattern[str]:
    words = r"\s+".join(re.escape(word) for word in term.split())
    return re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)
