"""Copies of a text with its identity terms swapped, whose gradients are averaged with those of the text before the clip.

The number of copies of a text and what they say is a function of that text and of public terms, so one person's text has no
effect on another's. The copies are averaged before the clip, so their number does not change the sensitivity.

Source: counterfactual augmentation, Zhao et al. 2018, arXiv:1804.06876, and Hall Maudslay et al. 2019, arXiv:1909.00871;
copies inside the clip, De et al. 2022, arXiv:2204.13650.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from torch import Tensor
from torch.utils.data import Subset
from typing_extensions import override

from dplit.data.base import Batch, Examples
from dplit.data.units import Copies
from dplit.errors import ConfigurationError
from dplit.protocols import UnitSamples, single_samples

Replacement: TypeAlias = Mapping[str, str]
"""What each term becomes in one copy."""


def pairs(given: Mapping[str, str]) -> list[Replacement]:
    """Return one replacement that swaps each term with the one it is given, in both directions.

    If several terms are given the same one, that one becomes the first of them. A word that is given a term itself keeps that:
    of `{his: her, him: her, hers: his}`, `her` becomes `his`, and `his` becomes `her`.

    >>> pairs({"he": "she"})
    [{'she': 'he', 'he': 'she'}]
    """
    back: dict[str, str] = {}
    for term, other in given.items():
        back.setdefault(other, term)
    return [{**back, **given}]


def families(rows: Sequence[Sequence[str]], alike: Mapping[str, str] | None = None) -> list[Replacement]:
    """Return the replacements in which each term becomes the one 1, 2, ... places further in its family, cyclically.

    Args:
        rows: the families; a replacement that goes further than the length of a family leaves its terms unchanged.
        alike: terms that become what another term becomes, and that no term becomes.

    >>> families([["a", "b", "c"]])
    [{'a': 'b', 'b': 'c', 'c': 'a'}, {'a': 'c', 'b': 'a', 'c': 'b'}]
    """
    replacements: list[Replacement] = []
    for k in range(1, max(map(len, rows))):
        table = {term: row[(i + k) % len(row)] for row in rows if k < len(row) for i, term in enumerate(row)}
        replacements.append(table | {term: table[other] for term, other in (alike or {}).items() if other in table})
    return replacements


_GENDER = """
he/she his/her him/her hers/his himself/herself mr/mrs sir/madam
man/woman men/women boy/girl boys/girls male/female males/females gentleman/lady gentlemen/ladies guy/gal guys/gals
father/mother fathers/mothers dad/mom dads/moms daddy/mommy son/daughter sons/daughters brother/sister brothers/sisters
husband/wife husbands/wives uncle/aunt uncles/aunts nephew/niece nephews/nieces
grandfather/grandmother grandfathers/grandmothers grandpa/grandma grandson/granddaughter grandsons/granddaughters
stepfather/stepmother stepson/stepdaughter boyfriend/girlfriend boyfriends/girlfriends groom/bride grooms/brides
fiance/fiancee widower/widow widowers/widows king/queen kings/queens prince/princess princes/princesses
duke/duchess emperor/empress actor/actress actors/actresses waiter/waitress waiters/waitresses host/hostess hosts/hostesses
hero/heroine heroes/heroines heir/heiress landlord/landlady steward/stewardess policeman/policewoman policemen/policewomen
businessman/businesswoman businessmen/businesswomen chairman/chairwoman chairmen/chairwomen
congressman/congresswoman congressmen/congresswomen masculine/feminine masculinity/femininity manhood/womanhood
"""

BUILT_IN: Mapping[str, Sequence[Replacement]] = {
    "gender": pairs(dict(re.findall(r"(\w+)/(\w+)", _GENDER))),
    "religion": families(
        [
            ("christian", "jewish", "muslim", "hindu", "buddhist", "sikh"),
            ("christians", "jews", "muslims", "hindus", "buddhists", "sikhs"),
            ("christianity", "judaism", "islam", "hinduism", "buddhism", "sikhism"),
            ("church", "synagogue", "mosque"),
            ("churches", "synagogues", "mosques"),
            ("bible", "torah", "quran"),
        ],
        {"jew": "jewish", "islamic": "muslim", "koran": "quran"},
    ),
    "orientation": families(
        [
            ("gay", "straight", "bisexual"),
            ("gays", "straights", "bisexuals"),
            ("homosexual", "heterosexual"),
            ("homosexuals", "heterosexuals"),
            ("homosexuality", "heterosexuality"),
        ],
        {"lesbian": "gay", "lesbians": "gays", "queer": "gay", "lgbt": "gay", "lgbtq": "gay"},
    ),
    "race": families(
        [
            ("black", "white", "asian", "hispanic"),
            ("blacks", "whites", "asians", "hispanics"),
            ("african american", "european american", "asian american", "hispanic american"),
            ("african americans", "european americans", "asian americans", "hispanic americans"),
        ],
        {
            **{"african-american": "african american", "african-americans": "african americans"},
            **{"latino": "hispanic", "latina": "hispanic", "latinos": "hispanics", "latinas": "hispanics"},
        },
    ),
}
"""The lists of dplit, by name.

Most pairs of gender are in the list of Hall Maudslay et al. 2019; pronouns are added. `her` becomes `his`, and `him` and
`his` become `her`, because the case of a pronoun is not analysed. The other lists start from the identity terms of Dixon et
al. 2018 (AIES, https://doi.org/10.1145/3278721.3278729). A word with several senses, as in `black coffee`, is swapped in
every sense.
"""


class Swaps:
    """From a text to its copies; in each copy all terms of one list are swapped.

    Only whole words are swapped: a term with a letter, digit, underscore or combining mark beside it is left alone. The
    longest term wins. Terms are found in lower case, with a capital, with a capital for each word, in capitals, and as they
    are given; the replacement is written in the same way. A text without a term has no copy.

    Args:
        given: the name of one of `BUILT_IN`; or pairs `{he: she}`, which are swapped in both directions as `pairs` says; or a
            list of names, pairs, and families such as `[muslims, jews, christians]`. All families together are one list:
            the first copy has every term one place further, the second two places. Each name, and each set of pairs, is a
            list of its own.
        max_copies: the most copies of one text; those of the last list are left out first.

    Raises:
        ConfigurationError: an unknown name, a term that is empty, not a text, or given twice, or `max_copies` under 1.

    >>> Swaps({"he": "she"})("He said")
    ['She said']
    """

    def __init__(self, given: object, max_copies: int = 3) -> None:
        if max_copies < 1:
            raise ConfigurationError(f"max_copies={max_copies} would leave a text without its copies; give 1 or more")
        self.max_copies = max_copies
        self._lists = [_TermList(replacements) for replacements in _parse(given)]

    def __call__(self, text: str) -> list[str]:
        """Return the copies, each different from the text and from the others."""
        copies = dict.fromkeys(copy for terms in self._lists for copy in terms.copies(text))
        return [copy for copy in copies if copy != text][: self.max_copies]


class Counterfactuals(Copies[int], Examples[int | UnitSamples]):
    """Records, each with its copies; without a DP strategy, each copy is an example of a batch.

    Args:
        rows: the rows of the `n` records, followed by the rows of their copies in the order of the records. The sample of a
            row is its index.
        counts: the number of copies of each record, `n` numbers.

    """

    def __init__(self, rows: Examples[int], counts: Sequence[int]) -> None:
        self.rows = rows
        ends = (len(counts) + np.cumsum(counts, dtype=np.int64)).tolist()
        self.copy_rows = [range(end - count, end) for end, count in zip(ends, counts, strict=True)]
        super().__init__(Subset(rows, range(len(counts))), self.copy_rows.__getitem__)

    @override
    def group_ids(self) -> Tensor:
        return self.rows.group_ids()[: len(self)]

    @override
    def collate(self, samples: Sequence[int | UnitSamples]) -> Batch:
        """Return the batch of the rows of some samples, with or without copies."""
        return self.rows.collate(list(single_samples(samples)))


class _TermList:
    """One list of terms, compiled into a pattern."""

    def __init__(self, replacements: Sequence[Replacement]) -> None:
        self.tables = [_in_every_case(replacement) for replacement in replacements]
        forms = sorted({form for table in self.tables for form in table}, key=len, reverse=True)
        self.pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, forms))})(?!\w)")

    def copies(self, text: str) -> Iterator[str]:
        if self.pattern.search(text):
            for table in self.tables:
                yield self.pattern.sub(_replace_by(table), text)


def _replace_by(table: Replacement) -> Callable[[re.Match[str]], str]:
    def replace(match: re.Match[str]) -> str:
        text, start, end = match.string, match.start(), match.end()
        neighbours = text[max(start - 1, 0) : start] + text[end : end + 1]
        inside_a_word = any(unicodedata.category(character).startswith("M") for character in neighbours)
        return match[0] if inside_a_word else table.get(match[0], match[0])

    return replace


def _title(term: str) -> str:
    return re.sub(r"(?<!\S)\S|(?<=-)\w", lambda match: match[0].upper(), term.lower())


def _capital(term: str) -> str:
    return term[:1].upper() + term[1:].lower()


_CASES: tuple[Callable[[str], str], ...] = (str.lower, _title, _capital, str.upper, str)


def _in_every_case(replacement: Replacement) -> dict[str, str]:
    """Return the replacement in every case; if two forms are the same, the first counts."""
    table: dict[str, str] = {}
    for case in _CASES:
        for term, other in replacement.items():
            table.setdefault(case(term), case(other))
    return table


def _parse(given: object) -> list[Sequence[Replacement]]:
    """Return the lists of terms that a value of `swaps` names."""
    items = [given] if isinstance(given, str | Mapping) else given
    if not isinstance(items, list | tuple) or not all(isinstance(item, str | Mapping | list | tuple) for item in items):
        raise ConfigurationError(f"swaps={given!r} is not the name of a list, nor pairs, nor a list of such; see Swaps")
    if not all(items) or not items:
        raise ConfigurationError(f"swaps={given!r} names no terms, so nothing would be swapped; leave it out")
    named = [item for item in items if isinstance(item, str | Mapping)]
    rows = [item for item in items if not isinstance(item, str | Mapping)]
    lists = [_built_in(item) if isinstance(item, str) else pairs(_checked_pairs(item)) for item in named]
    return [*lists, families(_checked_families(rows))] if rows else lists


def _built_in(name: str) -> Sequence[Replacement]:
    if name not in BUILT_IN:
        raise ConfigurationError(
            f"swaps has no list {name!r}; choose one of {', '.join(BUILT_IN)}, or give pairs {{he: she}} or families [[a, b]]"
        )
    return BUILT_IN[name]


def _checked_pairs(given: Mapping[object, object]) -> dict[str, str]:
    checked = dict(zip(_distinct(given), map(_checked_term, given.values()), strict=True))
    for term, other in checked.items():
        if term.lower() == other.lower():
            raise ConfigurationError(f"swaps gives {term!r} itself, which swaps nothing; leave it out")
    return checked


def _checked_families(rows: Sequence[Sequence[object]]) -> list[list[str]]:
    for row in rows:
        if len(row) < 2:
            raise ConfigurationError(
                f"swaps has {row[0]!r} alone in its family, with nothing to become; give it another"
            )
    terms = iter(_distinct(term for row in rows for term in row))
    return [[next(terms) for _ in row] for row in rows]


def _distinct(given: Iterable[object]) -> list[str]:
    terms = [_checked_term(term) for term in given]
    seen: set[str] = set()
    for term in terms:
        if term.lower() in seen:
            raise ConfigurationError(
                f"swaps has {term!r} twice, so it would not be clear what it becomes; give it once"
            )
        seen.add(term.lower())
    return terms


def _checked_term(given: object) -> str:
    if not isinstance(given, str):
        raise ConfigurationError(f"swaps has {given!r}, a {type(given).__name__}, for a term; put it in quotes")
    if not given.strip():
        raise ConfigurationError("swaps has an empty term, which stands everywhere in a text; leave it out")
    return " ".join(given.split())
