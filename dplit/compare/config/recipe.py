"""A comparison: a base recipe, variants of it, and the privacy targets and seeds that they are run with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from dplit import validation
from dplit.cli.recipes import find
from dplit.cli.yaml import Config, read
from dplit.compare.config import checks
from dplit.compare.config.overrides import lookup, overridden
from dplit.compare.config.variant import (
    NOISE,
    NONPRIVATE,
    Point,
    Variant,
    check_differ,
    checked_overrides,
    parse_variant,
)
from dplit.errors import ConfigurationError

KEYS = ("base", "epsilon", "delta", "seeds", "grid", "choose_by", "search_seeds", "nonprivate", "variants", "smoke")

MANY_RUNS: Mapping[str, object] = {
    "trainer": {"enable_progress_bar": False, "enable_model_summary": False},
    "fairness": {"table": False, "picture": False},
    "checkpoint": {"save_last": False},
}
"""Progress bars, pictures and checkpoints that one of many runs does not need; base and variants may override it."""


@dataclass(frozen=True)
class Comparison:
    """A whole comparison, checked.

    Attributes:
        name: the name of the recipe's file without its ending.
        base: the base recipe, parsed.
        base_name: the name of the base, as in the recipe.
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
    base: Mapping[str, object]
    base_name: str
    epsilons: tuple[float, ...]
    delta: float
    seeds: tuple[int, ...]
    choose_by: str
    search_seeds: int
    variants: tuple[Variant, ...]
    reference: Variant | None
    smoke: Mapping[str, object]

    @property
    def all_variants(self) -> tuple[Variant, ...]:
        """The private variants, then the runs without privacy."""
        return (*self.variants, *([self.reference] if self.reference else []))

    @property
    def grid_keys(self) -> tuple[str, ...]:
        """Every dotted key that some grid varies, in order of first appearance."""
        keys = (key for variant in self.all_variants for point in variant.points for key, _ in point)
        return tuple(dict.fromkeys(keys))

    def epsilons_of(self, variant: Variant) -> tuple[float | None, ...]:
        """Return the targets that a variant is run with: a single None for the runs without privacy."""
        return self.epsilons if variant.private else (None,)

    def config(self, variant: Variant, epsilon: float | None, point: Point, seed: int) -> Config:
        """Return the whole recipe of one run, as `dplit fit` reads it.

        Raises:
            ConfigurationError: an override leads into something that is no mapping.
        """
        changed = overridden(overridden(MANY_RUNS, self.base), {**variant.overrides, **dict(point)})
        if variant.private:
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


def parse(recipe: object, path: Path) -> Comparison:
    """Check a parsed recipe; `path` names the comparison, and `base` may be a file in the same folder.

    Raises:
        ConfigurationError: as `load`.
    """
    given = _checked_keys(recipe)
    base_name = str(_required(given, "base"))
    base = _base(base_name, path.parent)
    seeds = _seeds(given.get("seeds", [0, 1, 2]), "seeds")
    grid = given.get("grid", {})
    comparison = Comparison(
        name=path.stem,
        base=base,
        base_name=base_name,
        epsilons=_epsilons(_required(given, "epsilon"), "epsilon"),
        delta=_delta(given, base),
        seeds=seeds,
        choose_by=checks.metric(given.get("choose_by", "overall_accuracy")),
        search_seeds=checks.search_seeds(given.get("search_seeds", 1), len(seeds)),
        variants=_variants(_required(given, "variants"), grid),
        reference=_reference(given.get("nonprivate", True), grid),
        smoke=checked_overrides(given.get("smoke", {"trainer.max_epochs": 1}), "smoke"),
    )
    _check_overrides(comparison)
    return comparison


def narrowed(
    comparison: Comparison, epsilons: Sequence[float] | None = None, seeds: Sequence[int] | None = None
) -> Comparison:
    """Return the comparison with other targets or seeds in place of the recipe's.

    Raises:
        ConfigurationError: they are out of range, or stand twice.
    """
    chosen = comparison.seeds if seeds is None else _seeds([*seeds], "--seeds")
    return replace(
        comparison,
        epsilons=comparison.epsilons if epsilons is None else _epsilons([*epsilons], "--epsilon"),
        seeds=chosen,
        search_seeds=min(comparison.search_seeds, len(chosen)),
    )


def smoked(comparison: Comparison) -> Comparison:
    """Return a trial of the comparison: one seed, one target, one grid point, and the overrides under `smoke`."""

    def small(variant: Variant) -> Variant:
        return replace(variant, points=variant.points[:1], overrides={**variant.overrides, **comparison.smoke})

    return replace(
        comparison,
        name=f"{comparison.name}-smoke",
        epsilons=comparison.epsilons[:1],
        seeds=comparison.seeds[:1],
        search_seeds=1,
        variants=tuple(small(variant) for variant in comparison.variants),
        reference=small(comparison.reference) if comparison.reference else None,
    )


def only(comparison: Comparison, names: Sequence[str]) -> Comparison:
    """Return the comparison with these variants alone, and the runs without privacy that they are compared with.

    Raises:
        ConfigurationError: a name that is no variant; names the nearest.
    """
    known = {variant.name: variant for variant in comparison.variants}
    for name in names:
        if name not in known:
            raise ConfigurationError(f"--only {name}: no such variant{checks.nearest(name, known)}")
    return replace(comparison, variants=tuple(variant for name, variant in known.items() if name in names))


def _checked_keys(recipe: object) -> Config:
    if not isinstance(recipe, Mapping):
        raise ConfigurationError("a comparison's recipe is a mapping with base, epsilon and variants")
    for key in recipe:
        if key not in KEYS:
            raise ConfigurationError(f"{key!r} is no key of a comparison{checks.nearest(str(key), KEYS)}")
    return dict(recipe)


def _required(given: Config, key: str) -> object:
    if given.get(key) is None:
        raise ConfigurationError(f"the recipe has no {key}; a comparison needs base, epsilon and variants")
    return given[key]


def _base(name: str, folder: Path) -> Config:
    beside = folder / name
    base = read(beside if beside.is_file() else find(name))
    if not isinstance(base, Mapping):
        raise ConfigurationError(f"base {name} is no recipe: it holds {type(base).__name__}, not a mapping")
    return dict(base)


def _epsilons(values: object, name: str) -> tuple[float, ...]:
    epsilons = [validation.positive_finite("epsilon", value) for value in checks.as_distinct_list(values, name)]
    checks.as_distinct_list(epsilons, name)
    return tuple(epsilons)


def _seeds(values: object, name: str) -> tuple[int, ...]:
    return tuple(checks.seed(value) for value in checks.as_distinct_list(values, name))


def _delta(given: Config, base: Config) -> float:
    delta = given.get("delta", lookup(base, f"{NOISE}.init_args.delta"))
    if delta is None:
        raise ConfigurationError("neither the recipe nor its base's Target says delta; add delta: 1.0e-5 or so")
    return validation.delta(delta)


def _variants(given: object, grid: object) -> tuple[Variant, ...]:
    if not isinstance(given, Mapping) or not given:
        raise ConfigurationError("variants must map each name to its overrides; there are none")
    variants = tuple(parse_variant(str(name), overrides, grid) for name, overrides in given.items())
    for first, second in combinations(variants, 2):
        check_differ(first, second)
    return variants


def _reference(given: object, grid: object) -> Variant | None:
    if given is False or given is None:
        return None
    return parse_variant(NONPRIVATE, {"trainer.strategy": "auto"} if given is True else given, grid, private=False)


def _check_overrides(comparison: Comparison) -> None:
    """Lay the overrides of every variant over the base once, so that a bad one is refused before anything runs."""
    for variant in comparison.all_variants:
        try:
            comparison.config(variant, comparison.epsilons[0], variant.points[0], comparison.seeds[0])
        except ConfigurationError as error:
            raise ConfigurationError(f"variant {variant.name}: {error}") from error


def _long_form(config: Config) -> Config:
    """Write `strategy: dp` out, so that there is a place for a target."""
    strategy = lookup(config, "trainer.strategy")
    if strategy == "dp":
        return overridden(config, {"trainer.strategy": {"class_path": "dplit.DPStrategy"}})
    if not isinstance(strategy, Mapping) or "class_path" not in strategy:
        raise ConfigurationError(
            f"trainer.strategy is {strategy!r}, which takes no privacy target; name a class_path such as dplit.DPStrategy"
        )
    return config
