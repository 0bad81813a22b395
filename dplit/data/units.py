"""Copies of a record: augmentations and swapped texts that are clipped and charged together with their record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from torch.utils.data import Dataset

from dplit.protocols import UnitSamples, WrappedDataset, fetch_samples, single_samples

Sample = TypeVar("Sample")
Batch = TypeVar("Batch")


class Copies(WrappedDataset, Generic[Sample]):
    """Each record with copies of it, such as augmentations or a text with its identity terms swapped.

    The gradients of a record and its copies are averaged before the clip, and they are charged once. Clipped separately,
    the copies would count as several records. A DP strategy needs only this wrapper; a plain loader also needs
    `collate_fn=flattened(collate)`.

    Args:
        dataset: a map-style data set.
        copies: from a sample to its copies, without the sample itself. It must depend on nothing but the sample.

    Source: De et al. 2022, arXiv:2204.13650, section 3.2.

    >>> Copies(["ab", "c"], lambda text: [text.upper()])[0]
    ['ab', 'AB']
    """

    def __init__(
        self, dataset: Dataset[Sample] | Sequence[Sample], copies: Callable[[Sample], Iterable[Sample]]
    ) -> None:
        self.dataset, self.copies = dataset, copies

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> UnitSamples:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[UnitSamples]:
        """Return several records, each with its copies."""
        records = (list(single_samples([sample])) for sample in fetch_samples(self.dataset, indices))
        return [UnitSamples([*samples, *(copy for s in samples for copy in self.copies(s))]) for samples in records]


def flattened(collate: Callable[[list[Sample]], Batch]) -> Callable[[Sequence[Sample]], Batch]:
    """Return a collate function for `Copies` outside a DP strategy, where each copy is an example of its own.

    >>> flattened(list)([UnitSamples(["ab", "AB"]), "c"])
    ['ab', 'AB', 'c']
    """
    return lambda samples: collate(list(single_samples(samples)))
