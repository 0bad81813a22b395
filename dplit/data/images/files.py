"""Your own images, in a folder, with a table that gives the class and the group of each."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from typing_extensions import override

from dplit.data.base import ALL_SPLITS, TEST_FRACTION, Batch, Examples, GroupedData, Ids, Splits, check_share, split
from dplit.data.columns import Value, as_text, declare, declared_ids, read_columns
from dplit.errors import ConfigurationError

MEAN, SCALE = 0.5, 0.5
"""Colours in [0, 1] become (colour - MEAN) / SCALE, in [-1, 1]. These are round numbers, not statistics of the images."""

MODES: dict[int, Literal["L", "RGB"]] = {1: "L", 3: "RGB"}
"""From the number of channels to the mode of Pillow."""

Sample: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""`(channels, height, width)` uint8, and the class and the group of the image."""


class Images(Examples[Sample]):
    """Images that are read from their files when they are needed.

    Args:
        paths: the `n` files.
        y: `(n,)` int64 classes.
        group: `(n,)` int64 group ids.
        image_shape: `(channels, height, width)` that every image is resized to.

    """

    def __init__(self, paths: Sequence[Path], y: Tensor, group: Tensor, image_shape: tuple[int, int, int]) -> None:
        self.paths, self.y, self.group, self.image_shape = list(paths), y, group, image_shape

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        return torch.from_numpy(read_image(self.paths[index], self.image_shape)), self.y[index], self.group[index]

    @override
    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Return `{"x": (b, channels, height, width) float32, "y": (b,), "group": (b,)}`."""
        if not samples:
            no_ids = torch.zeros(0, dtype=torch.int64)
            return {"x": torch.zeros(0, *self.image_shape), "y": no_ids, "group": no_ids}
        x, y, group = (torch.stack(column) for column in zip(*samples, strict=True))
        return {"x": x.float().div_(255).sub_(MEAN).div_(SCALE), "y": y, "group": group}

    @override
    def group_ids(self) -> Tensor:
        return self.group

    def unreadable(self) -> list[str]:
        """Read every image once; return the path of each that cannot be read, with the reason."""
        with ThreadPoolExecutor() as threads:
            return [problem for problem in threads.map(self._problem, self.paths) if problem]

    def part(self, indices: Ids) -> Images:
        """Return the images with these indices."""
        picked = torch.from_numpy(indices)
        return Images([self.paths[i] for i in indices], self.y[picked], self.group[picked], self.image_shape)

    def _problem(self, path: Path) -> str:
        try:
            read_image(path, self.image_shape)
        except FileNotFoundError:
            return f"{path}, which is not there"
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return f"{path}, which cannot be read ({' '.join(str(error).split())})"
        return ""


class ImageFolder(GroupedData):
    """A folder of images, and a table with one row for each: file name, class and group.

    Batches are `{"x": (b, channels, height, width) float32, "y": (b,) int64, "group": (b,) int64}`. Images are read when they
    are needed, in `num_workers` processes, rotated as their EXIF data say, and resized. Every image is read once before
    training, because an error during training would reveal that the image was drawn.

    Args:
        folder: the folder with the images.
        table: CSV or Parquet file with one row per image.
        labels: the declared classes; id `k` means the `k`-th.
        groups: the declared groups; id `k` means the `k`-th.
        file: the column with the path inside `folder`.
        label: the column with the class.
        group: the column with the group.
        image_size: height and width that every image is resized to; one number for a square.
        channels: 3 for colour, 1 for grey.
        test_table: the rows to test on; None takes `test_fraction` of `table`, chosen by row number alone.
        test_fraction: share of the rows that is kept for testing if there is no `test_table`, in (0, 1).
        **loading: batch_size, validation_fraction, eval_batch_size and num_workers, as in `Adult`.

    Raises:
        ConfigurationError: an argument is out of its range; in `setup`, a table cannot be read, is empty, lacks a
            column or holds a class or group that was not declared, or an image is missing or cannot be read.

    """

    licence = "the images belong to their owner"

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
        self.disjoint_splits = ALL_SPLITS if test_table is None else ALL_SPLITS[:2]
        self.image_shape = _shape(channels, image_size)

    @override
    def read(self) -> Splits:
        images = self._images(self.table, "table")
        if self.test_table is None:
            for_test, rest = split(len(images), self.test_fraction)
            test = images.part(for_test)
        else:
            rest, test = np.arange(len(images)), self._images(self.test_table, "test_table")
        held_out, kept = split(len(rest), self.validation_fraction)
        return Splits(images.part(rest[kept]), images.part(rest[held_out]), test)

    def _images(self, table: str | Path, argument: str) -> Images:
        rows = read_columns(table, [self.file, self.label, self.group], argument)
        y = torch.from_numpy(declared_ids(rows, self.label, self.labels, argument))
        group = torch.from_numpy(declared_ids(rows, self.group, self.groups, argument))
        paths = [self.folder / path for path in as_text(rows[self.file])]
        images = Images(paths, y, group, self.image_shape)
        unreadable = images.unreadable()
        if unreadable:
            raise ConfigurationError(
                f"{argument}={table} names {unreadable[0]}; correct this row and {len(unreadable) - 1} more"
            )
        return images


def read_image(path: Path, image_shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Read one image, `(channels, height, width)`; its proportions are not kept."""
    channels, height, width = image_shape
    with Image.open(path) as opened:
        opened.draft(MODES[channels], (width, height))  # decodes a JPEG no larger than needed
        upright = ImageOps.exif_transpose(opened).convert(MODES[channels])
        pixels = np.asarray(upright.resize((width, height), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(pixels.reshape(height, width, channels).transpose(2, 0, 1))


def _shape(channels: int, image_size: int | tuple[int, int]) -> tuple[int, int, int]:
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(height, width) < 1:
        raise ConfigurationError(f"image_size={image_size} leaves nothing of an image; give at least 1")
    if channels not in MODES:
        raise ConfigurationError(f"channels={channels} is neither grey nor colour; give 1 or 3")
    return channels, height, width
