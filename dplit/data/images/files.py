"""Any folder of images with a table that says what each one shows, and whom."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from typing_extensions import override

from dplit.data.base import Batch, Examples, GroupedData, Splits, check_share, split
from dplit.data.columns import Value, codes, declare, read_columns, words
from dplit.data.tables.base import TEST_FRACTION
from dplit.errors import ConfigurationError

MEAN, SCALE = 0.5, 0.5
"""Colours in [0, 1] become (colour - MEAN) / SCALE, in [-1, 1]: round numbers, no image set's mean and deviation."""

MODES: dict[int, Literal["L", "RGB"]] = {1: "L", 3: "RGB"}


class Images(Examples):
    """Images that are read when they are asked for.

    Args:
        paths: one a file.
        y: `(n,)` int64 classes.
        group: `(n,)` int64 group ids.
        image_shape: `(channels, height, width)` that every image is brought to.

    """

    def __init__(self, paths: Sequence[Path], y: Tensor, group: Tensor, image_shape: tuple[int, int, int]) -> None:
        self.paths, self.y, self.group, self.image_shape = list(paths), y, group, image_shape

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        return torch.from_numpy(picture(self.paths[index], self.image_shape)), self.y[index], self.group[index]

    @override
    def collate(self, samples: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Batch:
        if not samples:
            none = torch.zeros(0, dtype=torch.int64)
            return {"x": torch.zeros(0, *self.image_shape), "y": none, "group": none}
        x, y, group = (torch.stack(part) for part in zip(*samples, strict=True))
        return {"x": x.float().div_(255).sub_(MEAN).div_(SCALE), "y": y, "group": group}

    @override
    def group_ids(self) -> Tensor:
        return self.group

    def faults(self) -> list[str]:
        """Read every image once, and say of each that cannot be read which one it is and why."""
        with ThreadPoolExecutor() as threads:
            return [fault for fault in threads.map(self._fault, self.paths) if fault]

    def _fault(self, path: Path) -> str:
        try:
            picture(path, self.image_shape)
        except FileNotFoundError:
            return f"{path}, which is not there"
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return f"{path}, which cannot be read ({' '.join(str(error).split())})"
        return ""


class ImageFolder(GroupedData):
    """A folder of images and a CSV file with a row for each: file name, class and group.

    Batches are `{"x": (b, channels, height, width) float32, "y": (b,) int64, "group": (b,) int64}`. Images are read
    when they are needed, in `num_workers` processes, turned as their EXIF data say and brought to one size. Before
    training every image is read once, so that none can fail later and show by it that it was drawn.

    Args:
        folder: where the images are.
        table: CSV or Parquet file with a row an image.
        labels: the declared classes; id `k` means the `k`-th.
        groups: the declared groups; id `k` means the `k`-th.
        file: the column with the path inside `folder`.
        label: the column with the class.
        group: the column with the group.
        image_size: height and width that every image is brought to; one number for a square.
        channels: 3 for colours, 1 for grey.
        test_table: the rows to test on; None takes `test_fraction` of `table`, chosen by row number alone.
        test_fraction: share of the rows that is kept to test on where there is no `test_table`, in (0, 1).
        **loading: batch_size, validation_fraction, eval_batch_size and num_workers, as in `Adult`.

    Raises:
        ConfigurationError: an argument is out of its range; in `setup`, a table cannot be read, is empty, lacks a
            column or holds a class or group that was not declared, or an image is missing or cannot be read.

    """

    licence = "the images are their owner's"

    def __init__(
        self,
        folder: str | Path,
        table: str | Path,
        labels: list[Value],
        groups: list[Value],
        file: str = "file",
        label: str = "label",
        group: str = "group",
        image_size: int | tuple[int, int] = 64,
        channels: Literal[1, 3] = 3,
        test_table: str | Path | None = None,
        test_fraction: float = TEST_FRACTION,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        check_share(test_fraction=test_fraction)
        self.folder, self.table, self.test_table = Path(folder), table, test_table
        self.file, self.label, self.group, self.test_fraction = file, label, group, test_fraction
        self.labels, self.groups = declare(labels, "labels", least=2), declare(groups, "groups")
        self.num_classes = len(self.labels)
        self.image_shape = _shape(channels, image_size)

    @override
    def read(self) -> Splits:
        rows = self._images(self.table, "table")
        if self.test_table is None:
            tested, left = split(len(rows), self.test_fraction)
            test = part(rows, tested)
        else:
            left, test = np.arange(len(rows)), self._images(self.test_table, "test_table")
        held_out, kept = split(len(left), self.validation_fraction)
        return Splits(part(rows, left[kept]), part(rows, left[held_out]), test)

    def _images(self, table: str | Path, name: str) -> Images:
        rows = read_columns(table, [self.file, self.label, self.group], name)
        y, group = codes(rows, self.label, self.labels, name), codes(rows, self.group, self.groups, name)
        paths = [self.folder / path for path in words(rows[self.file])]
        images = Images(paths, torch.from_numpy(y), torch.from_numpy(group), self.image_shape)
        faults = images.faults()
        if faults:
            raise ConfigurationError(f"{name}={table} names {faults[0]}; mend it and {len(faults) - 1} more")
        return images


def picture(path: Path, image_shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Read one image, `(channels, height, width)`, squeezed or stretched to that size."""
    channels, height, width = image_shape
    with Image.open(path) as opened:
        opened.draft(MODES[channels], (width, height))  # a JPEG is decoded no larger than needed
        upright = ImageOps.exif_transpose(opened).convert(MODES[channels])
        pixels = np.asarray(upright.resize((width, height), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(pixels.reshape(height, width, channels).transpose(2, 0, 1))


def part(images: Images, chosen: NDArray[np.int64]) -> Images:
    """Return the chosen images."""
    picked = torch.from_numpy(chosen)
    return Images([images.paths[i] for i in chosen], images.y[picked], images.group[picked], images.image_shape)


def _shape(channels: int, image_size: int | tuple[int, int]) -> tuple[int, int, int]:
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(height, width) < 1:
        raise ConfigurationError(f"image_size={image_size} leaves nothing of an image; give at least 1")
    if channels not in MODES:
        raise ConfigurationError(f"channels={channels} is neither grey nor colours; give 1 or 3")
    return channels, height, width
