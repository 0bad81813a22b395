"""What a comparison is: a base recipe, variants of it, and the privacy targets and seeds to run them with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dplit import validation
from dplit.cli.recipes import find
from dplit.cli.yaml import read
from dplit.compare.config import checks
from dplit.compare.config.overrides import lookup, overridden
from dplit.compare.config.variant import NOISE, NONPRIVATE, Point, Variant, check_differ, checked, variant
from dplit.errors import ConfigurationError

KEYS = ("base", "epsilon", "delta", "seeds", "grid", "choose_by", "search_seeds", "nonprivate", "variants", "smoke")

QUIET: Mapping[str, Any] = {
    "trainer": {"enable_progress_bar": False, "enable_model_summary": False},
    "fairness": {"table": False, "picture": False},
    "checkpoint": {"save_last": False},
}
"""What one of many runs can do without; base and variants may say otherwise."""


@dataclass(frozen=True)
class Comparison:
    """A whole comparison, checked.

    Attributes:
        name: the recipe file's stem.
        base: the base recipe, parsed.
        base_name: what the recipe calls it.
        epsilons: targets, in the recipe's order.
        delta: of every target.
        seeds: of weights and data order; the noise is never seeded.
        choose_by: the validation figure that chooses among grid points.
        search_seeds: how many of the seeds every grid point is run with.
        variants: the private ones, in the recipe's order.
        reference: the paired runs without privacy, or None.
        smoke: dotted keys that a smoke run changes.
    """

    name: str
    base: Mapping[str, Any]
    base_name: str
    epsilons: tuple[float, ...]
    delta: float
    seeds: tuple[int, ...]
    choose_by: str
    search_seeds: int
    variants: tuple[Variant, ...]
    reference: Variant | None
    smoke: Mapping[str, Any]

    @property
    def all_variants(self) -> tuple[Variant, ...]:
        """The private variants, then the runs without privacy."""
        return (*self.variants, *([self.reference] if self.reference else []))

    @property
    def grid_keys(self) -> tuple[str, ...]:
        """Every dotted key that some grid varies, in the order they come up."""
        found = (key for one in self.all_variants for point in one.points for key, _ in point)
        return tuple(dict.fromkeys(found))

    def epsilons_of(self, one: Variant) -> tuple[float | None, ...]:
        """The targets a variant is run with: None alone for runs without privacy."""
        return self.epsilons if one.private else (None,)

    def config(self, one: Variant, epsilon: float | None, point: Point, seed: int) -> dict[str, Any]:
        """Return the whole recipe of one run, as `dplit.fit` reads it.

        Raises:
            ConfigurationError: an override leads into something that is no mapping.
        """
        changed = overridden(overridden(QUIET, self.base), {**one.overrides, **dict(point)})
        if one.private:
            target = {"class_path": "dplit.Target", "init_args": {"epsilon": epsilon, "delta": self.delta}}
            changed = overridden(_long_form(changed), {NOISE: target})
        return overridden(changed, {"seed_everything": seed})


def load(recipe: str) -> Comparison:
    """Read and check a comparison's recipe.

    Args:
        recipe: a file, or the name of a comparison that ships with dplit.

    Raises:
        ConfigurationError: one line on what is wrong, with the nearest name where there is one.
    """
    path = find(recipe, kind="compare")
    return parse(read(path), path)


def parse(given: Any, path: Path) -> Comparison:
    """Check a parsed recipe; `path` names it, and a base beside it is found.

    Raises:
        ConfigurationError: as `load`.
    """
    _check_keys(given)
    base_name = str(_needed(given, "base"))
    base = _base(base_name, path.parent)
    seeds = tuple(checks.seed(seed) for seed in checks.distinct(given.get("seeds", [0, 1, 2]), "seeds"))
    grid = given.get("grid", {})
    comparison = Comparison(
        name=path.stem,
        base=base,
        base_name=base_name,
        epsilons=_epsilons(_needed(given, "epsilon"), "epsilon"),
        delta=_delta(given, base),
        seeds=seeds,
        choose_by=checks.metric(given.get("choose_by", "overall_accuracy")),
        search_seeds=checks.search_seeds(given.get("search_seeds", 1), seeds),
        variants=_variants(_needed(given, "variants"), grid),
        reference=_reference(given.get("nonprivate", True), grid),
        smoke=checked(given.get("smoke", {"trainer.max_epochs": 1}), "smoke"),
    )
    _check_merging(comparison)
    return comparison


def narrowed(
    comparison: Comparison, epsilons: Sequence[float] | None = None, seeds: Sequence[int] | None = None
) -> Comparison:
    """Return the comparison with other targets or seeds in place of the recipe's.

    Raises:
        ConfigurationError: they are out of range, or stand twice.
    """
    chosen = comparison.seeds if seeds is None else tuple(checks.seed(s) for s in checks.distinct([*seeds], "--seeds"))
    return replace(
        comparison,
        epsilons=comparison.epsilons if epsilons is None else _epsilons([*epsilons], "--epsilon"),
        seeds=chosen,
        search_seeds=min(comparison.search_seeds, len(chosen)),
    )


def smoked(comparison: Comparison) -> Comparison:
    """Return the comparison with one seed, one target, one grid point and what `smoke` changes."""

    def small(one: Variant) -> Variant:
        return replace(one, points=one.points[:1], overrides={**one.overrides, **comparison.smoke})

    return replace(
        comparison,
        name=f"{comparison.name}-smoke",
        epsilons=comparison.epsilons[:1],
        seeds=comparison.seeds[:1],
        search_seeds=1,
        variants=tuple(small(one) for one in comparison.variants),
        reference=small(comparison.reference) if comparison.reference else None,
    )


def only(comparison: Comparison, names: Sequence[str]) -> Comparison:
    """Return the comparison with these variants alone, and the runs without privacy that they are held against.

    Raises:
        ConfigurationError: a name that is no variant; names the nearest.
    """
    known = {one.name: one for one in comparison.variants}
    for name in names:
        if name not in known:
            raise ConfigurationError(f"--only {name}: no such variant{checks.nearest(name, known)}")
    return replace(comparison, variants=tuple(one for one in comparison.variants if one.name in names))


def _check_keys(given: Any) -> None:
    if not isinstance(given, Mapping):
        raise ConfigurationError("a comparison's recipe is a mapping with base, epsilon and variants")
    for key in given:
        if key not in KEYS:
            raise ConfigurationError(f"{key!r} is no key of a comparison{checks.nearest(str(key), KEYS)}")


def _needed(given: Mapping[str, Any], key: str) -> Any:
    if given.get(key) is None:
        raise ConfigurationError(f"the recipe has no {key}; a comparison needs base, epsilon and variants")
    return given[key]


def _base(name: str, folder: Path) -> dict[str, Any]:
    beside = folder / name
    found = read(beside if beside.is_file() else find(name))
    if not isinstance(found, Mapping):
        raise ConfigurationError(f"base {name} is no recipe: it holds {type(found).__name__}, not a mapping")
    return dict(found)


def _epsilons(values: Any, name: str) -> tuple[float, ...]:
    return tuple(checks.distinct([checks.epsilon(value) for value in checks.distinct(values, name)], name))


def _delta(given: Mapping[str, Any], base: Mapping[str, Any]) -> float:
    delta = given.get("delta", lookup(base, f"{NOISE}.init_args.delta"))
    if delta is None:
        raise ConfigurationError("neither the recipe nor its base's Target says delta; add delta: 1.0e-5 or so")
    return validation.delta(delta)


def _variants(given: Any, grid: Any) -> tuple[Variant, ...]:
    if not isinstance(given, Mapping) or not given:
        raise ConfigurationError("variants must map each name to its overrides; there are none")
    variants = tuple(variant(str(name), overrides, grid) for name, overrides in given.items())
    for k, one in enumerate(variants):
        for other in variants[:k]:
            check_differ(one, other)
    return variants


def _reference(given: Any, grid: Any) -> Variant | None:
    if given is False or given is None:
        return None
    return variant(NONPRIVATE, {"trainer.strategy": "auto"} if given is True else given, grid, private=False)


def _check_merging(comparison: Comparison) -> None:
    for one in comparison.all_variants:
        try:
            comparison.config(one, comparison.epsilons[0], one.points[0], comparison.seeds[0])
        except ConfigurationError as error:
            raise ConfigurationError(f"variant {one.name}: {error}") from error


def _long_form(config: dict[str, Any]) -> dict[str, Any]:
    """Write `strategy: dp` out, so that a target has a place."""
    strategy = lookup(config, "trainer.strategy")
    if strategy == "dp":
        return overridden(config, {"trainer.strategy": {"class_path": "dplit.DPStrategy"}})
    if not isinstance(strategy, Mapping) or "class_path" not in strategy:
        raise ConfigurationError(
            f"trainer.strategy is {strategy!r}, which takes no privacy target; name a class_path such as dplit.DPStrategy"
        )
    return config
