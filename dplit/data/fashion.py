"""Fashion-MNIST, with one class reduced to a small share of its images: what does privacy cost a rare class?

Zalando published it as a replacement for MNIST. Bagdasaryan et al. 2019 (arXiv:1905.12101) and Esipova et al. 2023
(arXiv:2206.07737) reduced one class of MNIST in this way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from dplit.data.base import ALL_SPLITS, GroupedData, Rows, Splits, check_choice, check_share, split
from dplit.errors import ConfigurationError
from dplit.hub.download import Debian, Member, PinnedFiles, WebFolder

CLASSES = (*("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),)
"""The meaning of the labels 0 to 9, in the publisher's words."""

SIZE = 28
TRAIN_ROWS, TEST_ROWS = 60_000, 10_000

RARE_SEED = 2019
"""Seed of the permutation that chooses which images of the rare class are kept; public, and independent of the images."""

MEAN, SCALE = 0.5, 0.5
"""Grey values in [0, 1] become (grey - MEAN) / SCALE, in [-1, 1]. These are round numbers, not statistics of the images."""

LICENCE = (
    "Fashion-MNIST, Copyright (c) 2017 Zalando SE, https://github.com/zalandoresearch/fashion-mnist, MIT licence; "
    "taken from the Debian package dataset-fashion-mnist, unchanged"
)

FOLDER = "usr/share/datasets/fashion-mnist"
FILES = PinnedFiles(
    title="Fashion-MNIST",
    name="fashion-mnist",
    members=tuple(
        Member(f"{FOLDER}/{name}.gz", sha256, size)
        for name, sha256, size in (
            ("train-images-idx3-ubyte", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888", 47_040_016),
            ("train-labels-idx1-ubyte", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9", 60_008),
            ("t10k-images-idx3-ubyte", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b", 7_840_016),
            ("t10k-labels-idx1-ubyte", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34", 10_008),
        )
    ),
    sources=(
        Debian("dataset-fashion-mnist", "0.0~git20200523.55506a9-1"),
        WebFolder("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"),
    ),
    installed=(Path("/") / FOLDER,),
)


class FashionMNIST(GroupedData):
    """60,000 training and 10,000 test images of clothes in ten classes; one class is reduced to a share of its images.

    Batches are `{"x": (b, 1, 28, 28) float32, "y": (b,) int64, "group": (b,) int64}`. Only the training images are reduced.
    Validation and test keep all images of every class, so that the accuracy of the rare class can be measured.

    In the experiment on MNIST the digit 8 keeps some 500 of its 6,000 images, which is 9 %, and is compared with the digit 2:
    without privacy 84.3 and 98.0 % of them are recognised, with DP-SGD 26.3 and 89.0 %. Here, too, 9 % of the rare class's
    training images are kept. The result depends on the class: Sandal looks like few others and keeps most of its accuracy
    under a tuned DP-SGD; Pullover looks like Coat and Shirt and loses more than half of its accuracy (`docs/results.md`).
    Shirt is not a good choice, because at 9 % only 23 % of it are recognised even without privacy. `docs/data.md` has these
    figures and the program that computed them.

    Args:
        rare: the class to reduce; None keeps all classes.
        share: share of the rare class's training images that is kept, in (0, 1); a fixed public seed chooses which.
        group: `class`, where every class is a group, or `rare`, with two groups: the rare class and the others.
        root: a folder that holds the four files; by default those of the Debian package dataset-fashion-mnist are used
            if it is installed, else they are downloaded once and kept in `DPLIT_CACHE`.
        **loading: batch_size, validation_fraction, eval_batch_size and num_workers, as in `Adult`.

    Raises:
        ConfigurationError: an argument is out of its range; in `setup`, the files cannot be read or downloaded.

    """

    num_classes = 10
    image_shape = (1, SIZE, SIZE)
    licence = LICENCE
    disjoint_splits = ALL_SPLITS

    def __init__(
        self,
        rare: str | None = "Sandal",
        share: float = 0.09,
        group: Literal["class", "rare"] = "class",
        root: str | Path | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        check_choice("group", group, ("class", "rare"), "group of FashionMNIST")
        if rare is not None:
            check_choice("rare", rare, CLASSES, "class of FashionMNIST")
        elif group == "rare":
            raise ConfigurationError("group='rare' needs a rare class to compare with the others; give rare=...")
        check_share(share=share)
        self.rare, self.share, self.group, self.root = rare, share, group, root
        self.groups = CLASSES if group == "class" else ("others", str(rare))

    @override
    def read(self) -> Splits:
        images, labels = self._array("train-images-idx3-ubyte"), self._array("train-labels-idx1-ubyte")
        held_out, kept = split(len(labels), self.validation_fraction)
        test = self._examples(self._array("t10k-images-idx3-ubyte"), self._array("t10k-labels-idx1-ubyte"))
        rare = None if self.rare is None else CLASSES.index(self.rare)
        kept = kept[is_kept(labels[kept], rare, self.share)]
        train, val = (self._examples(images[indices], labels[indices]) for indices in (kept, held_out))
        return Splits(train, val, test)

    def _array(self, name: str) -> NDArray[np.uint8]:
        return parse_idx(FILES.read(name, self.root))

    def _examples(self, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Rows:
        x = torch.from_numpy(images[:, None].astype(np.float32)).div_(255).sub_(MEAN).div_(SCALE)
        y = torch.from_numpy(labels.astype(np.int64))
        return Rows(x, y, y if self.group == "class" else (y == CLASSES.index(str(self.rare))).long())


def is_kept(labels: NDArray[np.uint8], rare: int | None, share: float) -> NDArray[np.bool_]:
    """Return which examples are kept, `(n,)`: `round(share · count)` of the class `rare`, and all others."""
    kept = np.ones(len(labels), dtype=bool)
    if rare is not None:
        rare_indices = np.flatnonzero(labels == rare)
        order = np.random.RandomState(RARE_SEED).permutation(len(rare_indices))
        kept[rare_indices[order[round(share * len(rare_indices)) :]]] = False
    return kept


def parse_idx(content: bytes) -> NDArray[np.uint8]:
    """Parse an array of bytes in the IDX format: two zeros, type 8, the number of dimensions, their sizes, the values.

    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 5, 7])).tolist()
    [5, 7]
    """
    dimensions = content[3]
    shape = np.frombuffer(content, dtype=">i4", count=dimensions, offset=4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)
