"""Words that stand for classes: the one token that each is, in the place where the model predicts it."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from dplit.errors import ConfigurationError

BEFORE = "It was"
"""A text that the words could go on from; what a word's tokens are depends on the space before it."""


def token_ids(tokenizer: Any, words: Sequence[str], space: bool = True) -> list[int]:
    """Return the token of each word.

    Args:
        tokenizer: of the model.
        words: one for each class.
        space: a space stands before the word, as after "It was".

    Raises:
        ConfigurationError: a word is not one token in that place, or two are the same.

    """
    ids = [_single(tokenizer, word, space) for word in words]
    for word, found in zip(words, ids, strict=True):
        if ids.count(found) > 1:
            same = [other for other, one in zip(words, ids, strict=True) if one == found]
            raise ConfigurationError(f"words={same} are one token, {word!r}, so their classes cannot be told apart")
    return ids


def _single(tokenizer: Any, word: str, space: bool) -> int:
    ids = pieces(tokenizer, word, space)
    if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
        return ids[0]
    near = get_close_matches(word.strip(), _candidates(tokenizer, space), n=4, cutoff=0.4)
    parts = tokenizer.convert_ids_to_tokens(ids)
    raise ConfigurationError(
        f"word {word!r} is {len(ids)} tokens of this model ({' '.join(parts)}), not one it knows; "
        f"near ones: {', '.join(near) or 'none'}"
    )


def pieces(tokenizer: Any, word: str, space: bool) -> list[int]:
    """Return the tokens that a word is where it goes on from a text."""
    before = BEFORE if space else "("
    start = _encoded(tokenizer, before)
    whole = _encoded(tokenizer, before + (" " if space else "") + word.strip())
    return whole[len(start) :] if whole[: len(start)] == start else _encoded(tokenizer, word)


def _encoded(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _candidates(tokenizer: Any, space: bool) -> list[str]:
    """Return the words that are one token in that place."""
    begins = {name[0] for name in tokenizer.get_vocab() if name[:1] in "Ġ▁"}
    names = [str(name) for name in tokenizer.get_vocab() if name]
    if begins:
        names = [name[1:] if space else name for name in names if (name[0] in begins) == space]
    return [name for name in names if name.isalpha()]
