"""Copies of a record: augmentations and swapped texts that are clipped and charged as the one record they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dplit.protocols import UnitSamples, WrappedDataset, fetch_samples, single_samples


class Copies(WrappedDataset):
    """Each record with copies of it, such as augmentations or a text with its identity terms swapped.

    A record and its copies are averaged inside one clip and charged once; clipped one by one they would count as several
    records. Under a DP strategy the wrapper is all that is needed. A plain loader needs `collate_fn=flattened(collate)`.

    Args:
        dataset: map-style.
        copies: from a sample to its copies, the sample itself not among them. It sees nothing but the sample.

    Source: De et al. 2022, arXiv:2204.13650, section 3.2.
    """

    def __init__(self, dataset: Any, copies: Callable[[Any], Iterable[Any]]) -> None:
        self.dataset, self.copies = dataset, copies

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> UnitSamples:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[UnitSamples]:
        """Return several records, each with its copies."""
        found = (list(single_samples([sample])) for sample in fetch_samples(self.dataset, indices))
        return [UnitSamples([*rows, *(copy for row in rows for copy in self.copies(row))]) for rows in found]


def flattened(collate: Callable[[list[Any]], Any]) -> Callable[[Sequence[Any]], Any]:
    """Return a collate function for samples that belong together, outside a DP strategy: each copy is an example."""
    return lambda samples: collate(list(single_samples(samples)))
