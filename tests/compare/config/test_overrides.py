"""Laying overrides over a recipe is deep, changes neither side, and respects classes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dplit.compare.config.overrides import lookup, merged, nested, overridden
from dplit.errors import ConfigurationError

LEAVES = st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)


TREES = st.recursive(
    st.dictionaries(st.sampled_from("abc"), LEAVES, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner | LEAVES, max_size=3),
    max_leaves=8,
)


def law_merging_is_deep(base: dict[str, Any], over: dict[str, Any]) -> None:
    """What is laid over is there, what it does not name stays, and neither side is changed."""
    kept, laid = copy.deepcopy(base), copy.deepcopy(over)
    result = merged(base, over)
    assert (base, over) == (kept, laid)
    assert merged(base, {}) == base
    assert merged(result, over) == result
    for key in {*base, *over}:
        if key not in over:
            assert result[key] == base[key]
        elif isinstance(over[key], dict) and isinstance(base.get(key), dict):
            law_merging_is_deep(base[key], over[key])
            assert result[key] == merged(base[key], over[key])
        else:
            assert result[key] == over[key]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES, TREES)
@example({"a": {"b": 1}}, {"a": {"c": 2}})
def test_merging_is_deep(base: dict[str, Any], over: dict[str, Any]) -> None:
    law_merging_is_deep(base, over)


def test_shallow_merging_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "merged", lambda base, over: {**base, **over})
    with pytest.raises(AssertionError):
        law_merging_is_deep({"a": {"b": 1}}, {"a": {"c": 2}})


def test_another_class_brings_its_own_arguments() -> None:
    base = {"policy": {"class_path": "A", "init_args": {"bound": 4.0, "gamma": 1.0}}}
    same = overridden(base, {"policy": {"class_path": "A", "init_args": {"bound": 1.0}}})
    assert same["policy"]["init_args"] == {"bound": 1.0, "gamma": 1.0}
    other = overridden(base, {"policy": {"class_path": "B", "init_args": {"quantile": 0.5}}})
    assert other["policy"]["init_args"] == {"quantile": 0.5}
    assert overridden(base, {"policy.init_args.bound": 2.0})["policy"]["init_args"] == {"bound": 2.0, "gamma": 1.0}


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), LEAVES)
def test_a_dotted_key_leads_to_what_was_put_there(parts: list[str], value: object) -> None:
    key = ".".join(parts)
    assert lookup(nested(key, value), key) == value
    assert lookup(overridden({}, {key: value}), key) == value
    assert lookup(nested(key, value), f"{key}.d") is None


def test_a_key_into_a_plain_value_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"a\.b\.c leads into a\.b, which is 3"):
        overridden({"a": {"b": 3}}, {"a.b.c": 1})
    assert overridden({"a": {"b": None}}, {"a.b.c": 1}) == {"a": {"b": {"c": 1}}}
