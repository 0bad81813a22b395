"""Copies of a record, and plain loaders of them."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

import dplit
from dplit.clipping import Flat
from dplit.data.images.files import ImageFolder
from dplit.data.units import Copies, flattened
from dplit.models.cnn import CNN
from dplit.protocols import UnitSamples
from tests.data.own import draw_images
from tests.lightning import trainer


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def mirrored(sample):
    image, label, group = sample
    return [(image.flip(-1), label, group)]


class Mirrored(ImageFolder):
    """As in docs/data.md."""

    def train_dataloader(self):
        copies, collate = Copies(self.train, mirrored), flattened(self.train.collate)
        return DataLoader(copies, self.batch_size, shuffle=True, collate_fn=collate, num_workers=self.num_workers)


@pytest.mark.parametrize("strategy", [dplit.DPStrategy(Flat(), 1.0, 8, noise_seed=1), "auto"], ids=["private", "auto"])
def test_images_come_with_their_mirror_images(tmp_path, strategy):
    draw_images(tmp_path).to_csv(tmp_path / "images.csv", index=False)
    declared = {"labels": ["no", "yes"], "groups": ["I", "II", "III"], "image_size": 8, "batch_size": 8}
    made = Mirrored(str(tmp_path), str(tmp_path / "images.csv"), **declared)
    made.setup()
    batch = next(iter(made.train_dataloader()))
    assert torch.equal(batch["x"][0::2], batch["x"][1::2].flip(-1))
    assert torch.equal(batch["y"][0::2], batch["y"][1::2])
    run = trainer(strategy, max_steps=2, max_epochs=2, limit_val_batches=0, default_root_dir=tmp_path)
    run.fit(CNN(num_classes=2, image_shape=made.image_shape), datamodule=made)
    assert run.global_step == 2


# Copies


def law_a_record_comes_with_its_copies(copies):
    for index in range(4):
        unit = copies[index]
        assert isinstance(unit, UnitSamples)
        assert list(unit) == [index, index + 100, index + 200]
    assert copies.__getitems__([3, 0]) == [copies[3], copies[0]]


def test_a_record_comes_with_its_copies():
    law_a_record_comes_with_its_copies(Copies(range(4), lambda n: [n + 100, n + 200]))


def test_mutant_the_record_itself_is_lost():
    class Lost(Copies):
        def __getitems__(self, indices):
            return [UnitSamples(unit[1:]) for unit in super().__getitems__(indices)]

    with pytest.raises(AssertionError):
        law_a_record_comes_with_its_copies(Lost(range(4), lambda n: [n + 100, n + 200]))


def test_copies_of_copies_are_of_every_sample():
    twice = Copies(Copies(range(2), lambda n: [n + 10]), lambda n: [-n])
    assert list(twice[1]) == [1, 11, -1, -11]
    assert len(twice) == 2


def test_a_plain_loader_gets_every_copy_as_an_example():
    copies = Copies(range(3), lambda n: [n + 10] * n)
    assert flattened(list)(copies.__getitems__([0, 2])) == [0, 2, 12, 12]
    assert flattened(list)([]) == []
