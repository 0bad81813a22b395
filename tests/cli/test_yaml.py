"""Recipes are read strictly, and mean what they mean to jsonargparse, which reads those of `dplit fit`."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonargparse._loaders_dumpers import yaml_load

from dplit.cli import yaml
from dplit.cli.recipes import shipped
from dplit.errors import ConfigurationError

BILLION = "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 12))
REFUSED: dict[str, tuple[bytes, str]] = {
    "a key that stands twice": (b"a: 1\nb: 2\na: 3\n", "line 3: the key 'a' stands twice in one mapping"),
    "twice in flow style": (b"a: {b: 1, b: 2}\n", "line 1: the key 'b' stands twice"),
    "twice with equal values": (b"trainer:\n  c: 1\n  c: 1\n", "line 3: the key 'c' stands twice"),
    "twice as another spelling": (b"1: a\n0x1: b\n", "line 2: the key 1 stands twice"),
    "not UTF-8": (b"a: \xff\xfe\n", "byte 3 is not UTF-8"),
    "no YAML": (b"a: 1\nb: [\n", "is not YAML: line 3"),
    "two documents": (b"a: 1\n---\nb: 2\n", "is not YAML: line 2"),
    "a control character": (b"a: \x01\n", "is not YAML"),
    "an object of Python": (b"a: !!python/object:os.system {}\n", "is not YAML: line 1"),
    "a mapping as key": (b"? {a: 1}\n: 2\n", "is not YAML: line 1"),
    "deep": (b"[" * 60 + b"]" * 60, "line 1: more than 50 levels"),
    "deeper than Python goes": (b"[" * 5000 + b"]" * 5000, "more than 50 levels"),
    "growing": (BILLION.encode(), "aliases make more than 100000 values"),
    "endless": (b"a: &a\n  b: *a\n", "a value that holds itself"),
}


def law_refused_in_one_line(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as refused:
        yaml.read(path)
    assert message in str(refused.value)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_one_line(tmp_path: Path, name: str) -> None:
    law_refused_in_one_line(tmp_path / "recipe.yaml", *REFUSED[name])


def test_a_reader_that_lets_the_last_key_win_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml._Constructor, "check_mapping_key", lambda *arguments: True)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        law_refused_in_one_line(tmp_path / "recipe.yaml", *REFUSED["a key that stands twice"])


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.yaml cannot be read: No such file"):
        yaml.read(tmp_path / "none.yaml")


def test_a_merge_may_be_overridden(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n")
    assert yaml.read(tmp_path / "recipe.yaml") == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}}


SCALARS = ["yes", "No", "on", "OFF", "y", "n", "true", "1e-5", "1.0e-5", "-.5", "1_000", "010", "0x1f", "0b11", "1:30"]
SCALARS += [".inf", "-.inf", "~", "null", "", "2020-01-01", "1.", "+1", "1e5", "'1e5'", "a b", "08", "1e", "."]


@pytest.mark.parametrize("scalar", SCALARS)
def test_scalars_mean_what_they_mean_to_jsonargparse(tmp_path: Path, scalar: str) -> None:
    text = f"a: {scalar}\nb: [1]\n"
    (tmp_path / "recipe.yaml").write_text(text)
    assert repr(yaml.read(tmp_path / "recipe.yaml")) == repr(yaml_load(text))


def test_every_shipped_recipe_means_what_it_means_to_jsonargparse() -> None:
    paths = [*shipped("fit").values(), *shipped("compare").values()]
    assert len(paths) > 15
    for path in paths:
        assert yaml.read(path) == yaml_load(path.read_text())


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8) | st.sampled_from(SCALARS)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.dictionaries(TEXTS, VALUES, max_size=4))
@example({"a": "no", "b": "1e-5", "c": 1e-5, "d": math.inf, "e": "=", "f": [], "g": {}})
def test_what_is_written_is_read_back_by_both_readers(tmp_path: Path, config: yaml.Config) -> None:
    text = yaml.write({"keys": config})
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8", newline="")
    assert yaml.read(tmp_path / "recipe.yaml") == {"keys": config}
    assert yaml_load(text) == {"keys": config}


def test_keys_keep_their_order() -> None:
    assert yaml.write({"b": 1, "a": 2}) == "b: 1\na: 2\n"
