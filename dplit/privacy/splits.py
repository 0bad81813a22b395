"""Which splits may hold the same record: what was released from them is added up, unless they are known to be disjoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

TRAIN = "train"
Pair = frozenset[str]


class Splits:
    """What is known of pairs of splits, and what follows where nothing is.

    A pair that was seen to share records shares them, whatever was declared. A pair that was declared disjoint, or is
    known to be, is so. Of all other pairs, the training records are assumed to be in no other split, which the privacy
    statement says; and any other two may hold the same records.

    Attributes:
        disjoint: pairs declared or known to share no record; the pair of "*" stands for all.
        overlapping: pairs seen to share records.
    """

    ALL = "*"

    def __init__(self, disjoint: Iterable[Pair] = (), overlapping: Iterable[Pair] = ()) -> None:
        self.disjoint, self.overlapping = set(disjoint), set(overlapping)

    def copied(self) -> Splits:
        """Return another one that says the same."""
        return Splits(self.disjoint, self.overlapping)

    def may_share(self, one: str, other: str) -> bool:
        """Whether a record may be in both."""
        pair = frozenset((one, other))
        if len(pair) == 1 or pair in self.overlapping:
            return True
        return not (self.is_declared(one, other) or TRAIN in pair)

    def is_declared(self, one: str, other: str) -> bool:
        """Whether the two were declared disjoint, or are known to be."""
        pair = frozenset((one, other))
        return pair not in self.overlapping and (pair in self.disjoint or frozenset((self.ALL,)) in self.disjoint)

    def together(self, names: Iterable[str]) -> list[tuple[str, ...]]:
        """Return the sets of splits that one record may be in, each as large as can be, every one in sorted order.

        >>> Splits().together(["train", "validation", "test"])
        [('test', 'validation'), ('train',)]
        """
        return sorted(tuple(sorted(clique)) for clique in self._cliques(set(), set(names), set()))

    def _cliques(self, chosen: set[str], left: set[str], done: set[str]) -> Iterator[set[str]]:
        """Yield the maximal cliques of the graph of pairs that may share records (Bron and Kerbosch 1973)."""
        if not left and not done:
            yield chosen
        for name in sorted(left):
            near = {other for other in left | done if other != name and self.may_share(name, other)}
            yield from self._cliques(chosen | {name}, left & near, done & near)
            left, done = left - {name}, done | {name}

    def assumed(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """Return the pairs of `names` that are neither known nor declared disjoint, but counted as if they were."""
        pairs = combinations(sorted(names), 2)
        return [pair for pair in pairs if not self.may_share(*pair) and not self.is_declared(*pair)]

    def declared(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """Return the pairs of `names` that were declared disjoint, or are known to be."""
        return [pair for pair in combinations(sorted(names), 2) if self.is_declared(*pair)]


def pairs_of(names: Iterable[str]) -> set[Pair]:
    """Return all pairs of names; of one name, the pair with itself."""
    listed = sorted(set(names))
    return {frozenset(pair) for pair in combinations(listed, 2)} or {frozenset(listed)}
