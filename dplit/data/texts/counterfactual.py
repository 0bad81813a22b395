"""Copies of a text with its identity terms swapped, to be averaged with it inside one clip.

How many copies a text has, and what they say, is a function of that text and of terms that are public; so one person's text
decides nothing about another's, and as the copies are averaged before the clip, their number changes no sensitivity.

Source: counterfactual augmentation, Zhao et al. 2018, arXiv:1804.06876, and Hall Maudslay et al. 2019, arXiv:1909.00871;
copies inside the clip, De et al. 2022, arXiv:2204.13650.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Subset
from typing_extensions import override

from dplit.data.base import Batch, Examples
from dplit.data.units import Copies
from dplit.errors import ConfigurationError
from dplit.protocols import single_samples

Turn = Mapping[str, str]
"""What each term becomes in one copy."""


def pairs(given: Mapping[str, str]) -> list[Turn]:
    """Return one turn: each term becomes the one it is given, and that one becomes the first that names it.

    A word that is given one itself keeps that: of `{his: her, him: her, hers: his}`, `her` becomes `his`, and `his`
    becomes `her`.
    """
    back: dict[str, str] = {}
    for term, other in given.items():
        back.setdefault(other, term)
    return [{**back, **given}]


def families(rows: Sequence[Sequence[str]], alike: Mapping[str, str] | None = None) -> list[Turn]:
    """Return the turns in which each term becomes the one 1, 2, ... places on in its family, around the end.

    Args:
        rows: the families; the turns that a shorter one does not have leave its terms as they are.
        alike: terms that become what another one does, and that none becomes.

    """
    turns: list[Turn] = []
    for k in range(1, max(map(len, rows))):
        turn = {term: row[(i + k) % len(row)] for row in rows if k < len(row) for i, term in enumerate(row)}
        turns.append(turn | {term: turn[other] for term, other in (alike or {}).items() if other in turn})
    return turns


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

READY: Mapping[str, Sequence[Turn]] = {
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
"""Lists that come with dplit.

Most pairs of gender are in the list of Hall Maudslay et al. 2019, pronouns are added; `her` becomes `his`, `him` and `his`
become `her`, as nothing here tells the case of a pronoun. The other lists start from the identity terms of Dixon et al. 2018
(AIES, https://doi.org/10.1145/3278721.3278729). Words with another sense, as in `black coffee`, are swapped in every sense.
"""


class Swaps:
    """From a text to its copies, in each of which the terms of one list are swapped all at once.

    Whole words are swapped: what has no letter, digit, underscore or combining mark beside it. The longest term wins. Terms
    are found in lower case, with a capital, with a capital for each word, in capitals, and as they are given, and what
    comes in their place is written alike. A text without a term has no copy.

    Args:
        given: the name of one of `READY`; or pairs `{he: she}`, swapped both ways as `pairs` says; or a list of names, of
            pairs, and of families such as `[muslims, jews, christians]`. All families together are one list: the first
            copy has every term one place on, the second two places. Each name, and each set of pairs, is one by itself.
        most: copies of one text; further ones are left out, those of the last list first.

    Raises:
        ConfigurationError: an unknown name, a term that is empty, no text, or there twice, or `most` under 1.

    """

    def __init__(self, given: Any, most: int = 3) -> None:
        if most < 1:
            raise ConfigurationError(f"max_copies={most} would leave a text without its copies; give 1 or more")
        self.most = most
        self._lists = [_Terms(turns) for turns in _turns(given)]

    def __call__(self, text: str) -> list[str]:
        """Return the copies, each different from the text and from the others."""
        found = dict.fromkeys(copy for terms in self._lists for copy in terms.copies(text))
        return [copy for copy in found if copy != text][: self.most]


class Counterfactuals(Copies, Examples):
    """Records, each with its copies; in a batch of no DP strategy each copy is an example.

    Args:
        rows: those of the `n` records, then those of their copies in the order of the records. A row's sample is its index.
        counts: `n` numbers of copies.

    """

    def __init__(self, rows: Examples, counts: Sequence[int]) -> None:
        self.rows = rows
        ends = (len(counts) + np.cumsum(counts, dtype=np.int64)).tolist()
        self.places = [range(end - count, end) for end, count in zip(ends, counts, strict=True)]
        super().__init__(Subset(rows, range(len(counts))), self.places.__getitem__)

    @override
    def group_ids(self) -> Tensor:
        return self.rows.group_ids()[: len(self)]

    @override
    def collate(self, samples: Sequence[Any]) -> Batch:
        """Samples, alone or with their copies, to a batch of their rows."""
        return self.rows.collate(list(single_samples(samples)))


class _Terms:
    """One list of terms, ready to be found."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self.tables = [_cased(turn) for turn in turns]
        forms = sorted({form for table in self.tables for form in table}, key=len, reverse=True)
        self.pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, forms))})(?!\w)")

    def copies(self, text: str) -> Iterator[str]:
        if self.pattern.search(text):
            for table in self.tables:
                yield self.pattern.sub(lambda found, table=table: _swapped(found, table), text)  # type: ignore[misc]


def _swapped(found: re.Match[str], table: Mapping[str, str]) -> str:
    text, start, end = found.string, found.start(), found.end()
    beside = text[max(start - 1, 0) : start] + text[end : end + 1]
    inside = any(unicodedata.category(one).startswith("M") for one in beside)
    return found[0] if inside else table.get(found[0], found[0])


def _capitals(term: str) -> str:
    return re.sub(r"(?<!\S)\S|(?<=-)\w", lambda found: found[0].upper(), term.lower())


def _capital(term: str) -> str:
    return term[:1].upper() + term[1:].lower()


_CASES: tuple[Callable[[str], str], ...] = (str.lower, _capitals, _capital, str.upper, str)


def _cased(turn: Turn) -> dict[str, str]:
    """Return the turn in every case; where two read alike, the first counts."""
    table: dict[str, str] = {}
    for case in _CASES:
        for term, other in turn.items():
            table.setdefault(case(term), case(other))
    return table


def _turns(given: Any) -> list[Sequence[Turn]]:
    items = [given] if isinstance(given, str | Mapping) else given
    if not isinstance(items, list | tuple) or not all(isinstance(one, str | Mapping | list | tuple) for one in items):
        raise ConfigurationError(f"swaps={given!r} is neither a list's name nor pairs nor a list of such; see Swaps")
    if not all(items) or not items:
        raise ConfigurationError(f"swaps={given!r} names no terms, so nothing would be swapped; leave it out")
    found = [_ready(one) if isinstance(one, str) else pairs(_pairs(one)) for one in items if not _is_family(one)]
    rows = [one for one in items if _is_family(one)]
    return [*found, families(_families(rows))] if rows else found


def _is_family(item: Any) -> bool:
    return isinstance(item, list | tuple)


def _ready(name: str) -> Sequence[Turn]:
    if name not in READY:
        raise ConfigurationError(
            f"swaps has no list {name!r}; choose one of {', '.join(READY)}, or give pairs {{he: she}} or families [[a, b]]"
        )
    return READY[name]


def _pairs(given: Mapping[Any, Any]) -> dict[str, str]:
    found = dict(zip(_once(given), map(_term, given.values()), strict=True))
    for term, other in found.items():
        if term.lower() == other.lower():
            raise ConfigurationError(f"swaps has {term!r} stand for itself, which swaps nothing; leave it out")
    return found


def _families(rows: Sequence[Sequence[Any]]) -> list[list[str]]:
    for row in rows:
        if len(row) < 2:
            raise ConfigurationError(
                f"swaps has {row[0]!r} alone in its family, with nothing to become; give it another"
            )
    every = iter(_once([term for row in rows for term in row]))
    return [[next(every) for _ in row] for row in rows]


def _once(given: Iterator[Any] | Sequence[Any] | Mapping[Any, Any]) -> list[str]:
    found, seen = [_term(one) for one in given], set[str]()
    for term in found:
        if term.lower() in seen:
            raise ConfigurationError(
                f"swaps has {term!r} twice, so it would not be clear what it becomes; give it once"
            )
        seen.add(term.lower())
    return found


def _term(given: Any) -> str:
    if not isinstance(given, str):
        raise ConfigurationError(f"swaps has {given!r}, a {type(given).__name__}, for a term; put it in quotes")
    if not given.strip():
        raise ConfigurationError("swaps has an empty term, which stands everywhere in a text; leave it out")
    return " ".join(given.split())
