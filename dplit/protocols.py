"""What one part of dplit may ask of another, of a data set or of a strategy, without importing it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch.utils.data import Dataset


class UnitSamples(list[Any]):
    """Samples that are drawn and clipped as one: their gradients are averaged before the clip.

    Attributes:
        who: whose records they are, where the data say.
    """

    who: Any = None


class WrappedDataset(Dataset[Any]):
    """A data set made of another's samples."""

    dataset: Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)


def fetch_samples(dataset: Any, indices: Sequence[int]) -> list[Any]:
    """Return the samples at these indices, all at once where the data set can."""
    if not len(indices):
        return []
    fetch = getattr(dataset, "__getitems__", None)
    return list(fetch(list(indices))) if callable(fetch) else [dataset[i] for i in indices]


def single_samples(samples: Iterable[Any]) -> Iterator[Any]:
    """Yield single samples, those that belong together one after the other."""
    for sample in samples:
        yield from sample if isinstance(sample, UnitSamples) else (sample,)
