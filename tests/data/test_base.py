"""What all data modules share: a split that looks at no row, samples that are indices, and loaders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dplit.data import base
from dplit.data.base import GroupedData, Rows, Splits, check_choice, check_share, check_sizes, split
from dplit.errors import ConfigurationError


def law_a_split_is_a_partition_of_the_asked_size(rows, fraction):
    held_out, kept = base.split(rows, fraction)
    assert sorted([*held_out, *kept]) == list(range(rows))
    assert len(held_out) == min(max(round(rows * fraction), 1), rows - 1)
    assert all((np.diff(part) > 0).all() for part in (held_out, kept))
    assert all(map(np.array_equal, base.split(rows, fraction), (held_out, kept)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(2, 500), st.floats(1e-3, 0.999))
def test_a_split_is_a_partition_of_the_asked_size(rows, fraction):
    law_a_split_is_a_partition_of_the_asked_size(rows, fraction)


def test_a_split_never_changes_between_versions():
    assert [part.tolist() for part in split(10, 0.3)] == [[0, 7, 8], [1, 2, 3, 4, 5, 6, 9]]


def test_mutant_another_draw_each_time(monkeypatch):
    draw = np.random.default_rng(0)

    def anew(rows, fraction):
        order = draw.permutation(rows)
        cut = min(max(round(rows * fraction), 1), rows - 1)
        return np.sort(order[:cut]), np.sort(order[cut:])

    monkeypatch.setattr(base, "split", anew)
    with pytest.raises(AssertionError):
        law_a_split_is_a_partition_of_the_asked_size(100, 0.5)


def rows_of(n, start=0):
    ids = torch.arange(start, start + n)
    return Rows(ids[:, None].float(), ids % 2, ids % 3)


class Counted(GroupedData):
    """Counts how often it is read."""

    num_classes, groups, num_features, licence = 2, ("a", "b", "c"), 1, "free to use"

    def __init__(self, sizes=(20, 6, 5), **options):
        super().__init__(**options)
        self.sizes, self.reads = sizes, 0

    def read(self):
        self.reads += 1
        return Splits(*(rows_of(n, 100 * k) for k, n in enumerate(self.sizes)))


def test_a_data_module_is_read_once():
    data = Counted()
    data.setup("fit")
    data.setup("test")
    assert data.reads == 1


def test_training_is_shuffled_and_evaluation_is_in_order():
    data = Counted(batch_size=8, eval_batch_size=4)
    data.setup()
    torch.manual_seed(0)
    train = torch.cat([batch["x"][:, 0] for batch in data.train_dataloader()])
    assert sorted(train.tolist()) == list(range(20)) != train.tolist()
    for loader, start, n in ((data.val_dataloader(), 100, 6), (data.test_dataloader(), 200, 5)):
        batches = [batch["x"][:, 0].tolist() for batch in loader]
        assert [number for batch in batches for number in batch] == list(range(start, start + n))
        assert max(map(len, batches)) == 4


@pytest.mark.parametrize(("sizes", "name"), [((0, 1, 1), "train"), ((1, 0, 1), "val"), ((1, 1, 0), "test")])
def test_an_empty_split_is_refused(sizes, name):
    with pytest.raises(ConfigurationError, match=f"no example left for its {name} split"):
        Counted(sizes).setup()


def test_the_sample_of_a_row_is_its_index():
    rows = rows_of(5)
    assert rows[-1] == 4
    assert rows.__getitems__([3, 3, 0]) == [3, 3, 0]
    with pytest.raises(IndexError):
        rows[5]
    batch = rows.collate([3, 3, 0])
    assert {key: value.tolist() for key, value in batch.items()} == {
        "x": [[3.0], [3.0], [0.0]],
        "y": [1, 1, 0],
        "group": [0, 0, 0],
    }


@pytest.mark.parametrize(
    ("check", "says"),
    [
        (lambda: check_sizes(batch_size=1, eval_batch_size=0), "eval_batch_size=0"),
        (lambda: check_share(share=1.0), "share=1.0"),
        (lambda: check_share(share=float("nan")), "share=nan"),
        (
            lambda: check_choice("group", "age", ("sex", "race"), "group of Toy"),
            "is not a group of Toy; choose one of sex, race",
        ),
    ],
)
def test_wrong_values_get_one_line(check, says):
    with pytest.raises(ConfigurationError, match=says) as refusal:
        check()
    assert "\n" not in str(refusal.value)
