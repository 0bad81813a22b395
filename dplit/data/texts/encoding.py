"""Texts inside a template, as token ids."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from dplit.errors import ConfigurationError

CHUNK, PATIENCE = 8192, 10.0
"""Texts that are encoded at one time, and the seconds after which a line says how far it is."""


class Template:
    """A text around each text, which may ask for a word: `"{text} It was {mask}."`.

    `{mask}` becomes the tokenizer's mask token. A tokenizer that has none, a causal model's, gets the prompt cut right
    before it, so that the word comes next.

    Args:
        template: holds `{text}` once, and `{mask}` at most once.
        mask_token: the tokenizer's, or None.

    Raises:
        ConfigurationError: `{text}` or `{mask}` are not where they can be used.

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
        """Return the whole, and where the text begins and ends in it, in characters."""
        return self.before + text + self.after, len(self.before), len(self.before) + len(text)


class Encoder:
    """Texts to token ids, one by one; what is too long loses the end of the text, never the template or the mask token.

    Args:
        tokenizer: a fast one, of Hugging Face.
        template: as in `Template`.
        max_length: the most tokens, with template and special tokens.

    Raises:
        ConfigurationError: the tokenizer is a slow one, or the template alone is too long.

    """

    def __init__(self, tokenizer: Any, template: str, max_length: int) -> None:
        if not getattr(tokenizer, "is_fast", False):
            kind = type(tokenizer).__name__
            raise ConfigurationError(f"{kind} does not say where in a text a token stands; give a fast tokenizer")
        self.tokenizer, self.max_length = tokenizer, max_length
        self.template = Template(template, tokenizer.mask_token)
        alone = max(len(ids) for ids in self._ids([""], 10**9))
        if max_length < alone + 1:
            raise ConfigurationError(
                f"max_length={max_length} leaves no room for a text beside the {alone} tokens of the template; give more"
            )

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of every text; never none: an empty one has an end-of-text token."""
        begun = said = time.monotonic()
        found: list[list[int]] = []
        for start in range(0, len(texts), CHUNK):
            found += self._ids(texts[start : start + CHUNK], self.max_length)
            if time.monotonic() - said > PATIENCE:
                said = time.monotonic()
                print(f"dplit: {len(found)} of {len(texts)} texts encoded, {said - begun:.0f} s", file=sys.stderr)
        return found

    def _ids(self, texts: Sequence[str], most: int) -> list[list[int]]:
        placed = [self.template.around(text) for text in texts]
        encoded = self.tokenizer(
            [whole for whole, _, _ in placed],
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        rows = zip(encoded["input_ids"], encoded["offset_mapping"], placed, strict=True)
        return [self._cut(ids, spans, begin, end, most) or [self.filler] for ids, spans, (_, begin, end) in rows]

    def _cut(self, ids: list[int], spans: Sequence[tuple[int, int]], begin: int, end: int, most: int) -> list[int]:
        excess = len(ids) - most
        if excess <= 0:
            return ids
        mask = self.tokenizer.mask_token_id
        of_text = [i for i, (a, b) in enumerate(spans) if a < end and b > begin and ids[i] != mask]
        if self.tokenizer.truncation_side != "left":
            of_text.reverse()
        shared = [
            i for i in of_text if not begin <= spans[i][0] < spans[i][1] <= end
        ]  # with the template: they go last
        dropped = set([i for i in of_text if i not in shared][:excess])
        dropped |= set(shared[: excess - len(dropped)])
        return [token for i, token in enumerate(ids) if i not in dropped][:most]

    @property
    def filler(self) -> int:
        """The id that stands for an empty text and pads: of the padding token, else of the end of a text, else 0."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0


def plain(texts: Sequence[str], tokenizer: Any) -> list[str]:
    """Break up what a text says literally that the tokenizer would take for one of its special tokens.

    Without it a person who writes `[MASK]` would move the place where the model answers.
    """
    special = [token for token in tokenizer.all_special_tokens if len(token) > 1]
    return [_broken(text, special) for text in texts]


def _broken(text: str, special: Sequence[str]) -> str:
    for token in special:
        if token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text
