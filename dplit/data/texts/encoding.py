"""Texts inside a template, as token ids."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dplit.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 8192
"""Texts that are encoded at a time."""
SECONDS_BETWEEN_MESSAGES = 10.0
"""How often a long encoding reports its progress on stderr."""


class Template:
    """A text around each text, which may ask for a word: `"{text} It was {mask}."`.

    `{mask}` becomes the mask token of the tokenizer. If the tokenizer has none, as that of a causal model, the template ends
    right before `{mask}`, so that the model predicts the word next.

    Args:
        template: contains `{text}` once, and `{mask}` at most once.
        mask_token: the tokenizer's, or None.

    Raises:
        ConfigurationError: `{text}` is missing or repeated, or the two are in an order that the model cannot use.

    >>> Template("{text} It was {mask}.", "[MASK]").around("Good film.")[0]
    'Good film. It was [MASK].'
    >>> Template("{text} It was {mask}.").around("Good film.")[0]
    'Good film. It was'
    """

    def __init__(self, template: str, mask_token: str | None = None) -> None:
        if template.count("{text}") != 1 or template.count("{mask}") > 1:
            raise ConfigurationError(f"template={template!r} must hold {{text}} once, and {{mask}} at most once")
        if mask_token is None and "{mask}" in template:
            template = template[: template.index("{mask}")].rstrip()
            if "{text}" not in template:
                raise ConfigurationError(
                    "the template has {mask} before {text}, and the tokenizer has no mask token: a causal model sees only "
                    "what stands before the word; put {text} first"
                )
        self.before, self.after = template.replace("{mask}", mask_token or "").split("{text}")

    def around(self, text: str) -> tuple[str, int, int]:
        """Return the whole text, and where `text` begins and ends in it, in characters."""
        return self.before + text + self.after, len(self.before), len(self.before) + len(text)


class Encoder:
    """Texts to token ids, one by one. A text that is too long loses its end; the template and the mask token are kept.

    Args:
        tokenizer: a fast tokenizer of Hugging Face.
        template: as in `Template`.
        max_length: the most tokens, including the template and special tokens.

    Raises:
        ConfigurationError: the tokenizer is not a fast one, or the template alone is too long.

    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str, max_length: int) -> None:
        if not getattr(tokenizer, "is_fast", False):
            name = type(tokenizer).__name__
            raise ConfigurationError(f"{name} does not say where in a text a token stands; give a fast tokenizer")
        self.tokenizer, self.max_length = tokenizer, max_length
        self.template = Template(template, tokenizer.mask_token)
        empty = max(len(ids) for ids in self._ids([""], 10**9))
        if max_length < empty + 1:
            raise ConfigurationError(
                f"max_length={max_length} leaves no room for a text beside the {empty} tokens of the template; give more"
            )

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of every text, at least one each: an empty text may become an end-of-text token."""
        start = last_message = time.monotonic()
        rows: list[list[int]] = []
        for first in range(0, len(texts), CHUNK):
            rows += self._ids(texts[first : first + CHUNK], self.max_length)
            if time.monotonic() - last_message > SECONDS_BETWEEN_MESSAGES:
                last_message = time.monotonic()
                print(
                    f"dplit: {len(rows)} of {len(texts)} texts encoded, {last_message - start:.0f} s", file=sys.stderr
                )
        return rows

    @property
    def padding_id(self) -> int:
        """The id for padding and for an empty text: the padding token, else the end of a text, else 0."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    def _ids(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        placed = [self.template.around(text) for text in texts]
        encoded = self.tokenizer(
            [whole for whole, _, _ in placed],
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        rows = zip(encoded["input_ids"], encoded["offset_mapping"], placed, strict=True)
        return [
            self._truncated(ids, spans, begin, end, max_length) or [self.padding_id]
            for ids, spans, (_, begin, end) in rows
        ]

    def _truncated(
        self, ids: list[int], spans: Sequence[tuple[int, int]], begin: int, end: int, max_length: int
    ) -> list[int]:
        """Drop tokens of the text, which is at characters `begin` to `end`, until `max_length` are left.

        Args:
            ids: the tokens of the whole.
            spans: the characters of each token.
            begin: of the text.
            end: of the text.
            max_length: tokens to keep.

        """
        excess = len(ids) - max_length
        if excess <= 0:
            return ids
        mask = self.tokenizer.mask_token_id
        of_text = [i for i, (a, b) in enumerate(spans) if a < end and b > begin and ids[i] != mask]
        if self.tokenizer.truncation_side != "left":
            of_text.reverse()
        partly_template = [i for i in of_text if not begin <= spans[i][0] < spans[i][1] <= end]  # dropped last
        dropped = set([i for i in of_text if i not in partly_template][:excess])
        dropped |= set(partly_template[: excess - len(dropped)])
        return [token for i, token in enumerate(ids) if i not in dropped][:max_length]


def without_special_tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Break up what a text says literally and the tokenizer would read as one of its special tokens.

    Otherwise a person who writes `[MASK]` would move the place where the model predicts.
    """
    special = [token for token in tokenizer.all_special_tokens if len(token) > 1]
    return [_broken_up(text, special) for text in texts]


def _broken_up(text: str, special: Sequence[str]) -> str:
    for token in special:
        if token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text
