"""A recipe means one thing, or is refused in one line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dplit.cli.recipes import find, shipped
from dplit.compare.__main__ import main
from dplit.compare.config.overrides import lookup, merged, overridden
from dplit.compare.config.recipe import load, narrowed, only, parse, smoked
from dplit.errors import ConfigurationError
from tests.compare.fabricated import RECIPE, comparison

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"epsilons": [1]}, "'epsilons' is no key of a comparison; did you mean epsilon?"),
    "no base": ({"base": None}, "the recipe has no base"),
    "unknown base": ({"base": "adult_flet"}, "did you mean adult_flat?"),
    "base is a comparison": ({"base": "compare_adult"}, "compare_adult is a recipe for dplit.compare"),
    "no epsilon": ({"epsilon": None}, "the recipe has no epsilon"),
    "empty epsilon": ({"epsilon": []}, "epsilon is an empty list"),
    "epsilon 0": ({"epsilon": [1, 0]}, "epsilon=0 is no privacy target"),
    "epsilon inf": ({"epsilon": [float("inf")]}, "epsilon=inf is no privacy target"),
    "epsilon nan": ({"epsilon": [float("nan")]}, "epsilon=nan is no privacy target"),
    "epsilon a word": ({"epsilon": ["three"]}, "epsilon='three' is no privacy target"),
    "epsilon true": ({"epsilon": [True]}, "epsilon=True is no privacy target"),
    "epsilon twice": ({"epsilon": [1, 1.0]}, "names a value twice"),
    "delta": ({"delta": 2}, "delta=2 must lie between 0 and 1"),
    "no seeds": ({"seeds": []}, "seeds is an empty list"),
    "seeds twice": ({"seeds": [1, 1]}, "seeds=[1, 1] names a value twice"),
    "seed a fraction": ({"seeds": [0.5]}, "seeds has 0.5"),
    "search seeds": ({"search_seeds": 4}, "search_seeds=4 must be a whole number from 1 to the 3 seeds"),
    "choose by": ({"choose_by": "overall_acuracy"}, "did you mean overall_accuracy?"),
    "grid empty": (
        {"grid": {"model.init_args.learning_rate": []}},
        "grid model.init_args.learning_rate is an empty list",
    ),
    "grid no mapping": ({"grid": [0.1]}, "grid must map dotted keys to lists"),
    "grid unknown": ({"grid": {"modle.init_args.x": [1]}}, "did you mean model?"),
    "grid of mappings": ({"grid": {"model.init_args": [{"a": 1}]}}, "must be plain numbers or words"),
    "grid collides": ({"grid": {"model.init_args.x": ["a/b", "a b"]}}, "would share a folder"),
    "no variants": ({"variants": {}}, "there are none"),
    "variant no mapping": ({"variants": {"A": 3}}, "variant A: 3 is no mapping"),
    "variant unknown key": ({"variants": {"A": {"trianer.max_epochs": 1}}}, "did you mean trainer?"),
    "variant sets noise": (
        {"variants": {"A": {"trainer.strategy.init_args.noise": 1.0}}},
        "variant A: trainer.strategy.init_args.noise is set for all runs alike, by epsilon and delta",
    ),
    "variant sets seed": ({"variants": {"A": {"seed_everything": 1}}}, "by seeds; leave it out"),
    "variant sets folder": ({"variants": {"A": {"trainer.default_root_dir": "x"}}}, "by --out; leave it out"),
    "variant name": ({"variants": {"../A": {}}}, "names a folder too"),
    "variant name dots": ({"variants": {"A..": {}}}, "names a folder too"),
    "variant name kept": ({"variants": {"Not private": {}}}, "names a folder too"),
    "variants alike": ({"variants": {"A": {}, "B": {}}}, "variants A and B are the same"),
    "variants share a folder": ({"variants": {"A b": {}, "a-b": {"trainer.max_epochs": 1}}}, "would share a folder"),
    "variant into a number": (
        {"variants": {"A": {"trainer.max_epochs.deep": 1}}},
        "variant A: trainer.max_epochs.deep leads into trainer.max_epochs, which is 30",
    ),
    "variant without strategy": ({"variants": {"A": {"trainer.strategy": "auto"}}}, "takes no privacy target"),
    "smoke unknown": ({"smoke": {"max_epochs": 1}}, "smoke: 'max_epochs' is no key of a recipe"),
    "nonprivate": ({"nonprivate": 3}, "variant not private: 3 is no mapping"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused_in_one_line(name: str) -> None:
    changes, told = REFUSED[name]
    with pytest.raises(ConfigurationError) as refused:
        comparison(**changes)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("base: adult_flat\nepsilon: [1]\nvariants:\n  A: {}\n  A: {trainer.max_epochs: 1}\n", "'A' stands twice"),
        ("base: [\n", "is no YAML"),
        ("- base\n", "a comparison's recipe is a mapping"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    from dplit.cli.yaml import read

    with pytest.raises(ConfigurationError, match=told):
        parse(read(path), path)


def test_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(RECIPE) + "delta: 1e-6\n")
    assert load(str(tmp_path / "mine.yaml")).delta == 1e-6


def test_each_command_names_the_other_for_its_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    from dplit.cli.fit import main as fit

    assert fit(["compare_adult"]) == 2
    assert "compare_adult is a recipe for dplit.compare" in capsys.readouterr().err
    assert main(["adult_flat"]) == 2
    assert "adult_flat is a recipe for dplit.fit" in capsys.readouterr().err
    assert not set(shipped("fit")) & set(shipped("compare"))
    with pytest.raises(ConfigurationError, match="did you mean compare_adult"):
        find("compare_adlut", kind="compare")


@pytest.mark.parametrize("recipe", shipped("compare"))
def test_shipped_comparisons_are_short_and_whole(recipe: str) -> None:
    found = load(recipe)
    assert len(shipped("compare")[recipe].read_text().splitlines()) < 80
    for variant in found.all_variants:
        assert found.config(variant, 1.0, variant.points[0], 0)["seed_everything"] == 0


# ---- laying over ------------------------------------------------------------------------------------------------

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


def test_every_run_gets_its_target_and_seed() -> None:
    made = comparison()
    config = made.config(made.variants[1], 3.0, made.variants[1].points[1], 7)
    assert lookup(config, "trainer.strategy.init_args.noise.init_args") == {"epsilon": 3.0, "delta": 1e-5}
    assert lookup(config, "trainer.strategy.init_args.policy.class_path") == "dplit.clipping.GroupQuantile"
    assert lookup(config, "model.init_args.learning_rate") == 0.5
    assert config["seed_everything"] == 7
    assert made.reference is not None
    assert made.config(made.reference, None, made.reference.points[0], 7)["trainer"]["strategy"] == "auto"


def test_a_variant_may_have_a_grid_of_its_own() -> None:
    made = comparison(variants={"A": {}, "B": {"grid": {"model.init_args.learning_rate": [1.0, 2.0, 4.0]}}})
    assert [len(one.points) for one in made.all_variants] == [2, 3, 2]


def test_narrowing_and_smoke() -> None:
    made = comparison()
    assert narrowed(made, [8.0], [5, 6]).epsilons == (8.0,)
    with pytest.raises(ConfigurationError, match="epsilon=-1"):
        narrowed(made, [-1.0])
    small = smoked(made)
    assert [len(one.points) for one in small.all_variants] == [1, 1, 1]
    assert (small.epsilons, small.seeds) == ((1.0,), (0,))
    assert all(one.overrides["trainer.max_epochs"] == 1 for one in small.all_variants)
    assert [one.name for one in only(made, ["Group"]).all_variants] == ["Group", "not private"]
    with pytest.raises(ConfigurationError, match="--only Grup: no such variant; did you mean Group"):
        only(made, ["Grup"])
