"""Words that stand for classes: the single token that each word is, at the place where the model predicts it."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from dplit.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTEXT = "It was"
"""A text that the words can follow; the tokens of a word depend on the space before it."""


def token_ids(tokenizer: PreTrainedTokenizerBase, words: Sequence[str], space: bool = True) -> list[int]:
    """Return the token id of each word.

    Args:
        tokenizer: the model's.
        words: one for each class.
        space: whether a space stands before the word, as after "It was".

    Raises:
        ConfigurationError: a word is not a single token at that place, or two words are the same token.

    """
    ids = [_single_token(tokenizer, word, space) for word in words]
    for word, token in zip(words, ids, strict=True):
        if ids.count(token) > 1:
            same = [other for other, other_token in zip(words, ids, strict=True) if other_token == token]
            raise ConfigurationError(f"words={same} are one token, {word!r}, so their classes cannot be told apart")
    return ids


def word_tokens(tokenizer: PreTrainedTokenizerBase, word: str, space: bool) -> list[int]:
    """Return the token ids that a word becomes when it follows a text."""
    context = CONTEXT if space else "("
    context_ids = _encode(tokenizer, context)
    ids = _encode(tokenizer, context + (" " if space else "") + word.strip())
    return ids[len(context_ids) :] if ids[: len(context_ids)] == context_ids else _encode(tokenizer, word)


def _single_token(tokenizer: PreTrainedTokenizerBase, word: str, space: bool) -> int:
    ids = word_tokens(tokenizer, word, space)
    if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
        return ids[0]
    near = get_close_matches(word.strip(), _single_token_words(tokenizer, space), n=4, cutoff=0.4)
    parts = " ".join(tokenizer.convert_ids_to_tokens(ids))
    raise ConfigurationError(
        f"word {word!r} is {len(ids)} tokens of this model ({parts}), not one that it knows; "
        f"near ones: {', '.join(near) or 'none'}"
    )


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _single_token_words(tokenizer: PreTrainedTokenizerBase, space: bool) -> list[str]:
    """Return the words that are a single token at that place."""
    names = [str(name) for name in tokenizer.get_vocab() if name]
    space_marks = {name[0] for name in names if name[0] in "Ġ▁"}
    if space_marks:
        names = [name[1:] if space else name for name in names if (name[0] in space_marks) == space]
    return [name for name in names if name.isalpha()]
