"""Which identity terms a text mentions: a function of that text and the declared terms alone."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from dplit.errors import ConfigurationError
from dplit.groups import declared

Terms = Sequence[str]


def declared_terms(terms: Sequence[str] | None) -> tuple[str, ...]:
    """Return the declared terms as a tuple; None declares none.

    Raises:
        ConfigurationError: a term is empty, or stands twice but for case and spaces.

    """
    if isinstance(terms, str):
        raise ConfigurationError(f"identity_terms={terms!r} is one word; give a list of terms, as [gay, muslim]")
    declared([" ".join(str(term).split()).casefold() for term in terms or ()], "identity_terms")
    return tuple(str(term) for term in terms or ())


def mentions(texts: Sequence[str], terms: Sequence[str]) -> Tensor:
    """Return which of k terms each of n texts mentions, `(n, k)` bool: as whole words, in whatever case.

    A term of several words may be broken across any white space. Letters, digits and underscores make up words, so
    "Asian" is not mentioned by "Caucasian", nor by "Asians": declare what counts, plurals too.
    """
    patterns = [_whole(term) for term in terms]
    found = [[pattern.search(text) is not None for pattern in patterns] for text in texts]
    return torch.tensor(found, dtype=torch.bool).reshape(len(texts), len(terms))


def _whole(term: str) -> re.Pattern[str]:
    words = r"\s+".join(re.escape(word) for word in term.split())
    return re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)
