import numpy as np
import pytest
import torch
from PIL import Image

from dplit.data.images import files
from dplit.data.images.files import read_image
from dplit.errors import ConfigurationError
from tests.data.own import draw_images, images


@pytest.fixture
def data(tmp_path):
    made = images(tmp_path)
    made.setup()
    return made


def refusal(data):
    with pytest.raises(ConfigurationError) as refused:
        data.setup()
    assert "\n" not in str(refused.value)
    assert data.train is None
    return str(refused.value)


# Reading


def test_a_picture_has_the_declared_shape_whatever_the_file(tmp_path):
    for name in draw_images(tmp_path, 10)["file"]:
        for shape in ((3, 8, 10), (1, 5, 5)):
            assert read_image(tmp_path / name, shape).shape == shape


def test_channels_height_and_width_stand_in_that_order(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", (3, 4, 6)), pixels.transpose(2, 0, 1))


def test_a_picture_is_turned_as_its_exif_data_say(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    turned = read_image(tmp_path / "a.png", (1, 8, 8))[0]
    assert turned[:4].max() == 0
    assert turned[4:].min() == 255


def test_colours_are_scaled_by_declared_constants(data):
    batch = data.test.collate([data.test[0]])
    pixels = read_image(data.test.paths[0], data.image_shape)
    torch.testing.assert_close(batch["x"][0], torch.from_numpy(pixels / 127.5 - 1).float())


def test_images_are_read_only_when_asked_for(data, monkeypatch):
    read = []
    monkeypatch.setattr(files, "read_image", lambda path, shape: read.append(path) or np.zeros(shape, np.uint8))
    loader = data.train_dataloader()
    assert read == []
    next(iter(loader))
    assert sorted(read) == sorted(data.train.paths)


def test_workers_read_the_same(tmp_path, data):
    data.num_workers = 2
    batches = list(data.val_dataloader())
    data.num_workers = 0
    for one, other in zip(batches, data.val_dataloader(), strict=True):
        assert torch.equal(one["x"], other["x"])


# What the table says


def test_each_image_has_the_label_and_group_of_its_row(tmp_path):
    rows = draw_images(tmp_path)
    data = images(tmp_path, rows)
    data.setup()
    said = rows.set_index("file")
    for examples in (data.train, data.val, data.test):
        for path, y, group in zip(examples.paths, examples.y, examples.group_ids(), strict=True):
            assert data.labels[y] == said.loc[path.name, "label"]
            assert data.groups[group] == said.loc[path.name, "group"]


def test_the_splits_share_no_image(data):
    parts = [set(examples.paths) for examples in (data.train, data.val, data.test)]
    assert [len(part) for part in parts] == [29, 3, 8]
    assert len(set.union(*parts)) == 40


def test_a_table_to_test_on_leaves_the_other_whole(tmp_path):
    rows = draw_images(tmp_path)
    rows.head(10).to_csv(tmp_path / "test.csv", index=False)
    data = images(tmp_path, rows.tail(30), test_table=tmp_path / "test.csv")
    data.setup()
    assert [len(data.train), len(data.val), len(data.test)] == [27, 3, 10]
    assert [path.name for path in data.test.paths] == rows.head(10)["file"].tolist()


def test_columns_go_by_the_names_given(tmp_path):
    rows = draw_images(tmp_path).rename(columns={"file": "path", "label": "gender", "group": "skin"})
    data = images(tmp_path, rows, file="path", label="gender", group="skin")
    data.setup()
    assert len(data.train) == 29


# Refusals, all before training


def broken(folder, rows, name):
    path = folder / rows["file"][int(name[0])]
    if name.endswith("missing"):
        path.unlink()
    elif name.endswith("cut"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.write_bytes(b"not an image")


def law_what_cannot_be_read_is_named_before_training(folder, name):
    rows = draw_images(folder)
    broken(folder, rows, name)
    said = refusal(images(folder, rows))
    assert rows["file"][int(name[0])] in said
    assert "table=" in said


@pytest.mark.parametrize("name", ["0 missing", "1 missing", "2 cut", "3 cut", "4 text", "5 text"])
def test_what_cannot_be_read_is_named_before_training(tmp_path, name):
    law_what_cannot_be_read_is_named_before_training(tmp_path, name)


def test_mutant_only_existence_is_checked(tmp_path, monkeypatch):
    absent = lambda self: [f"{path}" for path in self.paths if not path.exists()]  # noqa: E731
    monkeypatch.setattr(files.Images, "unreadable", absent)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        law_what_cannot_be_read_is_named_before_training(tmp_path, "3 cut")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows.drop(columns="group"), "has no column 'group'; it has file, label"),
        (lambda rows: rows.assign(label="maybe"), "holds 'maybe' in row 1, outside the declared no, yes"),
        (lambda rows: rows.assign(group=["I"] * 39 + ["VI"]), "holds 'VI' in row 40, outside the declared I, II, III"),
        (lambda rows: rows.head(0), "holds no rows"),
        (lambda rows: rows.assign(file=""), "cannot be read"),
    ],
)
def test_a_table_that_says_what_was_not_declared_gets_one_line(tmp_path, change, says):
    assert says in refusal(images(tmp_path, change(draw_images(tmp_path))))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"labels": ["only"]}, "labels="),
        ({"groups": ["I", "I"]}, "groups="),
        ({"groups": []}, "groups="),
        ({"image_size": 0}, "image_size=0"),
        ({"channels": 4}, "channels=4"),
        ({"test_fraction": 1.5}, "test_fraction=1.5"),
    ],
)
def test_wrong_arguments_get_one_line(tmp_path, wrong, says):
    with pytest.raises(ConfigurationError, match=says) as refused:
        images(tmp_path, **wrong)
    assert "\n" not in str(refused.value)
