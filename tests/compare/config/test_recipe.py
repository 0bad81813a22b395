"""A recipe means one thing, or is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dplit.cli.recipes import shipped
from dplit.compare.config.overrides import lookup
from dplit.compare.config.recipe import load, narrowed, only, parse, smoked
from dplit.errors import ConfigurationError
from tests.compare.fabricated import RECIPE, comparison

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"epsilons": [1]}, "'epsilons' is no key of a comparison; did you mean epsilon?"),
    "no base": ({"base": None}, "the recipe has no base"),
    "unknown base": ({"base": "adult_flet"}, "did you mean adult_flat?"),
    "base is a comparison": ({"base": "compare_adult"}, "compare_adult is a recipe for dplit compare"),
    "no epsilon": ({"epsilon": None}, "the recipe has no epsilon"),
    "empty epsilon": ({"epsilon": []}, "epsilon is an empty list"),
    "epsilon 0": ({"epsilon": [1, 0]}, "epsilon=0 must be a finite number above 0"),
    "epsilon inf": ({"epsilon": [float("inf")]}, "epsilon=inf must be a finite number above 0"),
    "epsilon nan": ({"epsilon": [float("nan")]}, "epsilon=nan must be a number"),
    "epsilon beyond floats": ({"epsilon": [10**400]}, "must be a number"),
    "epsilon a word": ({"epsilon": ["three"]}, "epsilon='three' must be a number"),
    "epsilon true": ({"epsilon": [True]}, "epsilon=True must be a number"),
    "epsilon twice": ({"epsilon": [1, 1.0]}, "names a value twice"),
    "delta": ({"delta": 2}, "delta=2 must be between 0 and 1"),
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
    changes, message = REFUSED[name]
    with pytest.raises(ConfigurationError) as refused:
        comparison(**changes)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "base: adult_flat\nepsilon: [1]\nvariants:\n  A: {}\n  A: {trainer.max_epochs: 1}\n",
            "the key 'A' stands twice in one mapping",
        ),
        ("base: [\n", "is not YAML"),
        ("- base\n", "a comparison's recipe is a mapping"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    from dplit.cli.yaml import read

    with pytest.raises(ConfigurationError, match=message):
        parse(read(path), path)


def test_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(RECIPE) + "delta: 1e-6\n")
    assert load(str(tmp_path / "mine.yaml")).delta == 1e-6


@pytest.mark.parametrize("recipe", shipped("compare"))
def test_shipped_comparisons_are_short_and_whole(recipe: str) -> None:
    measured = load(recipe)
    assert len(shipped("compare")[recipe].read_text().splitlines()) < 80
    for variant in measured.all_variants:
        assert measured.config(variant, 1.0, variant.points[0], 0)["seed_everything"] == 0


def test_every_run_gets_its_target_and_seed() -> None:
    made = comparison()
    config = made.config(made.variants[1], 3.0, made.variants[1].points[1], 7)
    assert lookup(config, "trainer.strategy.init_args.noise.init_args") == {"epsilon": 3.0, "delta": 1e-5}
    assert lookup(config, "trainer.strategy.init_args.policy.class_path") == "dplit.clipping.GroupQuantile"
    assert lookup(config, "model.init_args.learning_rate") == 0.5
    assert config["seed_everything"] == 7
    assert made.reference is not None
    assert made.config(made.reference, None, made.reference.points[0], 7)["trainer"]["strategy"] == "auto"


def test_narrowing_and_smoke() -> None:
    made = comparison()
    assert narrowed(made, [8.0], [5, 6]).epsilons == (8.0,)
    with pytest.raises(ConfigurationError, match="epsilon=-1"):
        narrowed(made, [-1.0])
    small = smoked(made)
    assert [len(variant.points) for variant in small.all_variants] == [1, 1, 1]
    assert (small.epsilons, small.seeds) == ((1.0,), (0,))
    assert all(variant.overrides["trainer.max_epochs"] == 1 for variant in small.all_variants)
    assert [variant.name for variant in only(made, ["Group"]).all_variants] == ["Group", "not private"]
    with pytest.raises(ConfigurationError, match="--only Grup: no such variant; did you mean Group"):
        only(made, ["Grup"])
