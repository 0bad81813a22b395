import gzip

import numpy as np
import pytest
import torch

from dplit.data import fashion
from dplit.data.fashion import CLASSES, FashionMNIST, is_kept, parse_idx
from dplit.errors import ConfigurationError
from dplit.hub.download import PinnedFiles


def written(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def made(n, seed):
    """`n` images that all differ, and their classes: what the publisher's files hold, but fewer."""
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (n, 28, 28), dtype=np.uint8), (np.arange(n) % 10).astype(np.uint8)


FILES = dict(
    zip(
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        map(written, (*made(2_000, 0), *made(200, 1))),
        strict=True,
    )
)


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(PinnedFiles, "read", lambda self, name, root=None: FILES[name])


def of(**arguments):
    data = FashionMNIST(**arguments)
    data.setup()
    return data


def test_an_idx_file_is_read_in_its_own_shape():
    images, labels = made(7, 0)
    assert np.array_equal(parse_idx(written(images)), images)
    assert np.array_equal(parse_idx(written(labels)), labels)


def test_grey_values_are_scaled_by_declared_constants():
    data, (images, labels) = of(rare=None), made(200, 1)
    torch.testing.assert_close(data.test.x[:, 0], torch.from_numpy(images / 127.5 - 1).float())
    assert data.test.y.tolist() == labels.tolist()


def law_only_the_rare_class_is_cut_and_only_in_training(share):
    whole, cut = of(rare=None), of(rare="Coat", share=share)
    rare = CLASSES.index("Coat")
    counts, all_of = cut.train.y.bincount(minlength=10), whole.train.y.bincount(minlength=10)
    assert counts[rare] == round(share * int(all_of[rare]))
    assert [int(n) for k, n in enumerate(counts) if k != rare] == [int(n) for k, n in enumerate(all_of) if k != rare]
    for name in ("val", "test"):
        assert torch.equal(getattr(cut, name).x, getattr(whole, name).x)
    kept = {image.numpy().tobytes() for image in cut.train.x}
    assert kept < {image.numpy().tobytes() for image in whole.train.x}
    assert not kept & {image.numpy().tobytes() for image in cut.val.x}
    assert torch.equal(cut.train.x, of(rare="Coat", share=share).train.x)


@pytest.mark.parametrize("share", [0.09, 0.5])
def test_only_the_rare_class_is_cut_and_only_in_training(share):
    law_only_the_rare_class_is_cut_and_only_in_training(share)


def test_mutant_every_class_is_cut(monkeypatch):
    monkeypatch.setattr(fashion, "is_kept", lambda labels, rare, share: np.arange(len(labels)) % 10 < 10 * share)
    with pytest.raises(AssertionError):
        law_only_the_rare_class_is_cut_and_only_in_training(0.5)


def test_mutant_another_cut_each_time(monkeypatch):
    monkeypatch.setattr(fashion, "RARE_SEED", None)
    with pytest.raises(AssertionError):
        law_only_the_rare_class_is_cut_and_only_in_training(0.5)


def test_which_images_stay_does_not_hang_on_the_images():
    labels = made(2_000, 0)[1]
    assert np.array_equal(is_kept(labels, 3, 0.09), is_kept(labels.copy(), 3, 0.09))
    assert np.flatnonzero(is_kept(labels, 3, 0.02) & (labels == 3)).tolist() == [103, 773, 1583, 1733]
    assert is_kept(labels, None, 0.09).all()


def test_groups_are_the_classes_or_the_rare_one_and_the_others():
    by_class, by_rare = of(rare="Bag"), of(rare="Bag", group="rare")
    assert by_class.groups == CLASSES
    assert torch.equal(by_class.train.group_ids(), by_class.train.y)
    assert by_rare.groups == ("others", "Bag")
    assert torch.equal(by_rare.val.group_ids() == 1, by_rare.val.y == CLASSES.index("Bag"))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"rare": "Sock"}, "rare='Sock' is not a class of FashionMNIST; choose one of T-shirt/top"),
        ({"share": 0.0}, "share=0.0"),
        ({"share": 1.0}, "share=1.0"),
        ({"group": "sex"}, "choose one of class, rare"),
        ({"group": "rare", "rare": None}, "give rare="),
    ],
)
def test_wrong_arguments_get_one_line(wrong, says):
    with pytest.raises(ConfigurationError, match=says) as refusal:
        FashionMNIST(**wrong)
    assert "\n" not in str(refusal.value)


def test_a_root_with_other_images_is_refused(monkeypatch, tmp_path):
    monkeypatch.undo()
    for name, content in FILES.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ConfigurationError, match="SHA-256"):
        of(root=tmp_path)


# The real images


@pytest.mark.slow
def test_nine_in_a_hundred_sandals_are_kept(monkeypatch):
    monkeypatch.undo()
    data = of()
    counts = data.train.y.bincount(minlength=10)
    whole = 60_000 // 10 - data.val.y.bincount(minlength=10)
    rare = data.groups.index("Sandal")
    assert counts[rare] == round(0.09 * int(whole[rare]))
    assert all(counts[k] == whole[k] for k in range(10) if k != rare)
    assert data.test.y.bincount(minlength=10).tolist() == [1000] * 10
    assert data.train.x.min() == -1
    assert data.train.x.max() == 1
