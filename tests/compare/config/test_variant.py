"""Grids, points and the folders that are named after them."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dplit.compare.config.variant import SET_BY_COMPARISON, checked_overrides, grid_points, label
from dplit.errors import ConfigurationError
from tests.compare.fabricated import comparison


def test_a_variant_may_have_a_grid_of_its_own() -> None:
    made = comparison(variants={"A": {}, "B": {"grid": {"model.init_args.learning_rate": [1.0, 2.0, 4.0]}}})
    assert [len(variant.points) for variant in made.all_variants] == [2, 3, 2]


VALUES = st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True)
KEYS = st.sampled_from(["model.init_args.learning_rate", "model.init_args.momentum", "trainer.max_epochs"])


@given(st.dictionaries(KEYS, VALUES))
def test_the_points_are_the_whole_grid_each_with_a_folder_of_its_own(grid: dict[str, list[int]]) -> None:
    points = grid_points(grid, "variant A")
    assert {frozenset(point) for point in points} == {
        frozenset(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    }
    assert len({label(point) for point in points}) == len(points) == math.prod(map(len, grid.values()))


@pytest.mark.parametrize("separator", ["/", "\\", "..", " ", "\0", ":"])
def test_a_label_names_one_folder(separator: str) -> None:
    folder = label((("model.init_args.name", f"a{separator}b"),))
    assert not set(folder) & set("/\\: \0")
    assert folder not in (".", "..")


def test_keys_that_end_alike_are_told_apart() -> None:
    assert label((("model.rate", 1), ("data.rate", 2))) == "model.rate-1,data.rate-2"


@pytest.mark.parametrize("key", SET_BY_COMPARISON)
def test_what_the_comparison_sets_cannot_be_overridden_nor_searched(key: str) -> None:
    for place in (key, f"{key}.deeper"):
        with pytest.raises(ConfigurationError, match="is set for all runs alike, by"):
            checked_overrides({place: 1}, "variant A")
        with pytest.raises(ConfigurationError, match=r"grid: .* is set for all runs alike, by"):
            grid_points({place: [1]}, "variant A")
