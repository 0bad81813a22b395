"""The privacy statement: what is promised, on which assumptions, and what would make the promise void."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, Decimal
from importlib import metadata
from pathlib import Path
from typing import TypedDict

import dplit
from dplit import validation
from dplit.errors import PrivacyError
from dplit.files import write_atomically
from dplit.privacy.accountants import Bound
from dplit.privacy.calibration import Target
from dplit.privacy.ledger import Ledger

UNIT = "one record (x, y, group)"
ADJACENCY = "add or remove one record"
NOT_STATED = "not stated separately: the mechanism says nothing of this group alone, so the overall ε holds"
ALWAYS_VOIDS = (
    "settings chosen by trying several on the private records, unless those runs are charged too",
    "publishing the seed of the noise or of the sampling, or the state of a generator",
    "releasing exact figures computed from the private records, other than those listed here",
    "a record that is in the data set more than once, or reaches another's sample there: Subset, ConcatDataset, "
    "TensorDataset and lists are looked through, copies and files are not",
    "a collate function that mixes samples in a case that replacing one of a few records by others did not show",
)
SEVERAL_RECORDS = "one person with several records: the statement protects single records"
SEVERAL_SPLITS = "a person with records in more than one split: the overall ε assumes that no two splits share a person"
PUBLIC_CONSTANTS = "; rate and number of steps follow from the number of {}, which is taken to be public"
PACKAGES = ("torch", "lightning", "prv-accountant", "numpy", "scipy")


@dataclass(frozen=True)
class Facts:
    """What the ledger cannot know about a run; everything in it is public.

    Attributes:
        delta: the δ of the statement, in (0, 1).
        groups: the declared groups.
        sampling: how batches were drawn.
        policy: name of the clipping policy.
        parameters: its settings, in JSON types.
        noise_multipliers: by what they noise, such as {"gradient": 1.0, "counts": 10.0}.
        noise_source: where the noise is from, as `NoiseSource.description` says.
        rate: inclusion probability of a record, if one rate holds.
        expected_batch_size: the constant that sums are divided by.
        dataset_size: declared number of records, or of persons.
        released_without_charge: exact figures that left the private data uncharged.
        journal: where the ledger is written.
        target: what was to be kept, if a target was set.
        person: the key that says whose a record is, where persons and not records are drawn and clipped.

    Raises:
        ConfigurationError: `delta` outside (0, 1).
    """

    delta: float
    groups: Sequence[str] = ()
    sampling: str = "Poisson: each record independently, with the rate, anew at every step"
    policy: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)
    noise_multipliers: Mapping[str, float] = field(default_factory=dict)
    noise_source: str = ""
    rate: float | None = None
    expected_batch_size: float | None = None
    dataset_size: int | None = None
    released_without_charge: Sequence[str] = ()
    journal: str | os.PathLike[str] | None = None
    target: Target | None = None
    person: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "delta", validation.delta(self.delta))

    def releasing(self, figures: Iterable[str]) -> Facts:
        """Return the same facts with `figures` as all that was released without charge."""
        return replace(self, released_without_charge=tuple(figures))


class Bracket(TypedDict):
    """The lower bound and the computed value of the overall ε."""

    lower: float
    estimate: float


class StatedTarget(TypedDict):
    """The (ε, δ) that was not to be passed."""

    epsilon: float
    delta: float


class Sampling(TypedDict):
    """How records were drawn, and with which probability, if all have the same."""

    scheme: str
    rate: float | None


class Policy(TypedDict):
    """The clipping policy and its settings."""

    name: str
    parameters: dict[str, object]


class StatedEvent(TypedDict):
    """One kind of release, and how often it was made from the records of a split."""

    split: str
    times: int
    event: dict[str, object]


class Statement(TypedDict):
    """The content of `privacy.json`; every ε but those in `bracket` is a certified upper bound."""

    run_id: str
    unit: str
    adjacency: str
    epsilon: float
    delta: float
    bracket: Bracket
    splits: dict[str, float]
    groups: dict[str, float | str]
    target: StatedTarget | None
    steps: int
    sampling: Sampling
    policy: Policy
    noise_multipliers: dict[str, float | str]
    noise_source: str
    expected_batch_size: float | None
    dataset_size: int | None
    events: list[StatedEvent]
    accountant: str
    released_without_charge: list[str]
    voided_by: list[str]
    notes: list[str]
    warnings: list[str]
    journal: str | None
    versions: dict[str, str]


def statement(ledger: Ledger, facts: Facts) -> Statement:
    """Return the privacy statement in JSON types.

    Raises:
        PrivacyError: what was released has no finite ε.
    """
    overall = ledger.epsilon(facts.delta)
    person, target = facts.person, facts.target
    return {
        "run_id": ledger.run_id,
        "unit": UNIT if person is None else f"one person: all records with the same {person!r}",
        "adjacency": ADJACENCY if person is None else ADJACENCY.replace("record", "person"),
        "epsilon": overall.upper,
        "delta": facts.delta,
        "bracket": {"lower": overall.lower, "estimate": overall.estimate},
        "splits": {split: ledger.epsilon(facts.delta, split=split).upper for split in ledger.entries},
        "groups": {
            group: NOT_STATED if bound is None else bound.upper
            for group, bound in ledger.by_group(facts.delta, facts.groups).items()
        },
        "target": None if target is None else {"epsilon": target.epsilon, "delta": target.delta},
        "steps": ledger.steps,
        "sampling": {"scheme": _sampling_scheme(facts), "rate": facts.rate},
        "policy": {"name": facts.policy, "parameters": dict(facts.parameters)},
        "noise_multipliers": {
            name: noise if math.isfinite(noise) else str(noise) for name, noise in facts.noise_multipliers.items()
        },
        "noise_source": facts.noise_source,
        "expected_batch_size": facts.expected_batch_size,
        "dataset_size": facts.dataset_size,
        "events": [
            {"split": split, "times": times, "event": event.to_dict()}
            for split, events in ledger.entries.items()
            for event, times in events.items()
        ],
        "accountant": ledger.accountant.description,
        "released_without_charge": list(facts.released_without_charge),
        "voided_by": [*ledger.notes, *ALWAYS_VOIDS, *_voided_by_persons(ledger, facts)],
        "notes": list(ledger.notes),
        "warnings": _warnings(ledger, facts, overall),
        "journal": None if facts.journal is None else os.fspath(facts.journal),
        "versions": versions(),
    }


def write_statement(directory: str | os.PathLike[str], ledger: Ledger, facts: Facts) -> Statement:
    """Write `privacy.json` and `privacy.md` into `directory`, each whole or not at all; return the statement.

    Raises:
        PrivacyError: what was released has no finite ε, or the files cannot be written.
    """
    stated, place = statement(ledger, facts), Path(directory)
    try:
        write_atomically(place / "privacy.json", json.dumps(stated, indent=2, allow_nan=False, default=str) + "\n")
        write_atomically(place / "privacy.md", markdown(stated))
    except OSError as error:
        raise PrivacyError(f"the privacy statement cannot be written to {place} ({error}); make room for it") from error
    return stated


def versions() -> dict[str, str]:
    """Return the versions of what the statement rests on, without importing any of it."""
    own = {"python": platform.python_version(), "dplit": dplit.__version__}
    return {**own, **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _sampling_scheme(facts: Facts) -> str:
    if facts.person is None:
        return facts.sampling + PUBLIC_CONSTANTS.format("records")
    persons = facts.sampling.replace("each record", "each person, with all records,")
    return persons + PUBLIC_CONSTANTS.format("persons")


def _voided_by_persons(ledger: Ledger, facts: Facts) -> list[str]:
    if facts.person is None:
        return [SEVERAL_RECORDS]
    return [SEVERAL_SPLITS] if len(ledger.entries) > 1 else []


def _warnings(ledger: Ledger, facts: Facts, overall: Bound) -> list[str]:
    warnings = []
    if facts.dataset_size and facts.delta >= 1 / facts.dataset_size:
        warnings.append(
            f"delta={facts.delta:g} is not below 1/{facts.dataset_size}: releasing a few records outright would meet it"
        )
    if facts.target and overall.upper > facts.target.epsilon and facts.target.delta >= facts.delta:
        warnings.append(f"epsilon={overall.upper:.4g} is above the target of {facts.target.epsilon:g}")
    if not ledger.entries:
        warnings.append("nothing was recorded, so nothing private may have been released")
    return warnings


# -- for a person to read ----------------------------------------------------------------------------------------------


def markdown(stated: Statement) -> str:
    """Return a statement as a page for a person to read."""
    noted = [f"**{note}** (this run)" for note in stated["notes"]]
    made_with = ", ".join(f"{name} {version}" for name, version in stated["versions"].items())
    sections = [
        "# Privacy statement",
        _guarantee(stated),
        f"## How\n\n{_mechanism(stated)}",
        f"## Released without charge\n\n{_bullets(stated['released_without_charge'] or ['nothing'])}",
        f"## What would void this\n\n{_bullets([*noted, *stated['voided_by'][len(noted) :]])}",
        f"## Made with\n\nRun {stated['run_id']}; {made_with}.",
    ]
    return "\n\n".join(sections) + "\n"


def _guarantee(stated: Statement) -> str:
    paragraphs = [
        f"**ε = {_shown(stated['epsilon'])} at δ = {stated['delta']:g}**, for {stated['adjacency']}; the unit is "
        f"{stated['unit']}. The figure is a certified upper bound over {stated['steps']} steps.",
        "In words: to add or remove one unit changes the probability of any outcome of the training by a factor of at most "
        "e^ε, up to an additional probability of at most δ.",
        *(f"> Warning: {warning}." for warning in stated["warnings"]),
    ]
    if stated["groups"]:
        rows = [f"| {group} | {_shown(epsilon)} |" for group, epsilon in stated["groups"].items()]
        paragraphs.append("\n".join(["| group | ε |", "|---|---|", *rows]))
    return "\n\n".join(paragraphs)


def _mechanism(stated: Statement) -> str:
    target, policy = stated["target"], stated["policy"]
    settings = ", ".join(f"{name}={value}" for name, value in policy["parameters"].items())
    lines = {
        "Sampling": stated["sampling"]["scheme"],
        "Rate": stated["sampling"]["rate"],
        "Noise multiplier": ", ".join(f"{name} {noise}" for name, noise in stated["noise_multipliers"].items()),
        "Noise": stated["noise_source"],
        "Clipping policy": f"{policy['name']}({settings})" if policy["name"] else "",
        "Expected batch size": stated["expected_batch_size"],
        "Records" if stated["unit"] == UNIT else "Persons": stated["dataset_size"],
        "Target": None if target is None else f"ε = {target['epsilon']:g} at δ = {target['delta']:g}",
        "Accountant": stated["accountant"],
        "Splits": ", ".join(f"{split} ε = {_shown(epsilon)}" for split, epsilon in stated["splits"].items()),
        "Ledger": stated["journal"],
    }
    return _bullets([f"{name}: {fact}" for name, fact in lines.items() if fact not in (None, "")])


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _shown(epsilon: float | str) -> str:
    return epsilon if isinstance(epsilon, str) else rounded_up(epsilon)


def rounded_up(eps: float, digits: int = 5) -> str:
    """Return `eps` in `digits` significant digits, never below it.

    >>> rounded_up(1.832701)
    '1.8328'
    """
    if eps == 0:
        return "0"
    unit = Decimal(1).scaleb(Decimal(eps).adjusted() + 1 - digits)
    return f"{Decimal(eps).quantize(unit, ROUND_CEILING).normalize():f}"
