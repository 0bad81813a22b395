"""The privacy statement: what was promised, on which assumptions, and what would void it."""

from __future__ import annotations

import json
import math
import os
import platform
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, Decimal
from importlib import metadata
from pathlib import Path
from typing import Any

import dplit
from dplit import validation
from dplit.errors import PrivacyError
from dplit.privacy.accountants.base import Bound
from dplit.privacy.calibration import Target
from dplit.privacy.ledger import Ledger

UNIT = "one record (x, y, group)"
ADJACENCY = "add or remove one record"
NOT_STATED = "not stated separately: the mechanism gives no view of this group, so the overall figure holds"
ALWAYS_VOIDS = (
    "settings chosen by trying several on the private records, unless those runs are charged too",
    "publishing the noise or sampling seed, or a generator's state",
    "releasing exact figures computed from the private records beyond those listed here",
)
SEVERAL = "one person holding several records: the statement is about single records"
SPLITS = (
    "a person with records in more than one of the splits: the overall figure takes them to be of different persons"
)
CONSTANTS = "; rate and number of steps follow from the number of {}, which is taken to be public"
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
        rate: inclusion probability of a record, if one rate holds.
        expected_batch_size: the constant that sums are divided by.
        dataset_size: declared number of records, or of persons.
        released_without_charge: exact figures that left the private data uncharged.
        journal: where the ledger is written.
        target: what was to be kept, if a target was set.
        person: the key that says whose a record is, where persons and not records are drawn and clipped.
    """

    delta: float
    groups: Sequence[str] = ()
    sampling: str = "Poisson: each record independently, with the rate, anew at every step"
    policy: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    noise_multipliers: Mapping[str, float] = field(default_factory=dict)
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


def statement(ledger: Ledger, facts: Facts) -> dict[str, Any]:
    """Return the privacy statement in JSON types; every ε in it is the certified upper bound.

    Raises:
        PrivacyError: what was released has no finite ε.
    """
    total = ledger.epsilon(facts.delta)
    return {
        "run_id": ledger.run_id,
        "unit": UNIT if facts.person is None else f"one person: all records with the same {facts.person!r}",
        "adjacency": ADJACENCY if facts.person is None else ADJACENCY.replace("record", "person"),
        "epsilon": total.upper,
        "delta": facts.delta,
        "bracket": {"lower": total.lower, "estimate": total.estimate},
        "splits": {split: ledger.epsilon(facts.delta, split=split).upper for split in ledger.entries},
        "groups": {g: _stated(bound) for g, bound in ledger.by_group(facts.delta, facts.groups).items()},
        "target": None if facts.target is None else {"epsilon": facts.target.epsilon, "delta": facts.target.delta},
        "steps": ledger.steps,
        **_mechanism(facts),
        "events": _events(ledger),
        "accountant": ledger.accountant.description,
        "released_without_charge": list(facts.released_without_charge),
        "voided_by": [*ledger.notes, *ALWAYS_VOIDS, *_of_persons(ledger, facts)],
        "notes": list(ledger.notes),
        "warnings": _warnings(ledger, facts, total),
        "journal": None if facts.journal is None else os.fspath(facts.journal),
        "versions": versions(),
    }


def write_statement(directory: str | os.PathLike[str], ledger: Ledger, facts: Facts) -> dict[str, Any]:
    """Write `privacy.json` and `privacy.md` into `directory`, each whole or not at all; return the statement.

    Raises:
        PrivacyError: what was released has no finite ε, or the files cannot be written.
    """
    found, place = statement(ledger, facts), Path(directory)
    try:
        place.mkdir(parents=True, exist_ok=True)
        _replace(place / "privacy.json", json.dumps(found, indent=2, allow_nan=False, default=str) + "\n")
        _replace(place / "privacy.md", markdown(found))
    except OSError as error:
        raise PrivacyError(f"the privacy statement cannot be written to {place} ({error}); make room for it") from error
    return found


def versions() -> dict[str, str]:
    """Return the versions of what the statement rests on, without importing any of it."""
    own = {"python": platform.python_version(), "dplit": dplit.__version__}
    return {**own, **{name: _version(name) for name in PACKAGES}}


def markdown(found: Mapping[str, Any]) -> str:
    """Return a statement for a person to read."""
    sections = [_guarantee(found), _how(found), _free(found), _voids(found), _made_with(found)]
    return "# Privacy statement\n\n" + "\n\n".join(sections) + "\n"


def _stated(bound: Bound | None) -> float | str:
    return NOT_STATED if bound is None else bound.upper


def _of_persons(ledger: Ledger, facts: Facts) -> list[str]:
    if facts.person is None:
        return [SEVERAL]
    return [SPLITS] if len(ledger.entries) > 1 else []


def _sampling(facts: Facts) -> str:
    if facts.person is None:
        return facts.sampling + CONSTANTS.format("records")
    return facts.sampling.replace("each record", "each person, with all records,") + CONSTANTS.format("persons")


def _mechanism(facts: Facts) -> dict[str, Any]:
    return {
        "sampling": {"scheme": _sampling(facts), "rate": facts.rate},
        "policy": {"name": facts.policy, "parameters": dict(facts.parameters)},
        "noise_multipliers": {name: _finite(noise) for name, noise in facts.noise_multipliers.items()},
        "expected_batch_size": facts.expected_batch_size,
        "dataset_size": facts.dataset_size,
    }


def _finite(number: float) -> float | str:
    return number if math.isfinite(number) else str(number)


def _events(ledger: Ledger) -> list[dict[str, Any]]:
    return [
        {"split": split, "times": times, "event": event.to_dict()}
        for split, events in ledger.entries.items()
        for event, times in events.items()
    ]


def _warnings(ledger: Ledger, facts: Facts, total: Bound) -> list[str]:
    found = []
    if facts.dataset_size and facts.delta >= 1 / facts.dataset_size:
        found.append(
            f"delta={facts.delta:g} is not below 1/{facts.dataset_size}: releasing a few records outright would meet it"
        )
    if facts.target and total.upper > facts.target.epsilon and facts.target.delta >= facts.delta:
        found.append(f"epsilon={total.upper:.4g} is above the target of {facts.target.epsilon:g}")
    if not ledger.entries:
        found.append("nothing was recorded, so nothing private may have been released")
    return found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _replace(path: Path, text: str) -> None:
    """Put `text` at `path` at once: whoever looks sees the old file or the new one."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _guarantee(found: Mapping[str, Any]) -> str:
    lines = [
        f"**ε = {_up(found['epsilon'])} at δ = {found['delta']:g}**, for {found['adjacency']}; the unit is "
        f"{found['unit']}. The figure is a certified upper bound over {found['steps']} steps."
    ]
    lines += [f"> Warning: {warning}." for warning in found["warnings"]]
    if found["groups"]:
        rows = [f"| {group} | {_up(eps)} |" for group, eps in found["groups"].items()]
        lines.append("\n".join(["| group | ε |", "|---|---|", *rows]))
    return "\n\n".join(lines)


def _how(found: Mapping[str, Any]) -> str:
    noises = ", ".join(f"{name} {noise}" for name, noise in found["noise_multipliers"].items())
    facts = {
        "Sampling": found["sampling"]["scheme"],
        "Rate": found["sampling"]["rate"],
        "Noise multiplier": noises,
        "Clipping policy": _policy(found["policy"]),
        "Expected batch size": found["expected_batch_size"],
        "Records" if found["unit"] == UNIT else "Persons": found["dataset_size"],
        "Target": found["target"] and "ε = {epsilon:g} at δ = {delta:g}".format(**found["target"]),
        "Accountant": found["accountant"],
        "Splits": ", ".join(f"{split} ε = {_up(eps)}" for split, eps in found["splits"].items()),
        "Ledger": found["journal"],
    }
    return "## How\n\n" + _bullets([f"{name}: {fact}" for name, fact in facts.items() if fact not in (None, "")])


def _policy(policy: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in policy["parameters"].items())
    return f"{policy['name']}({settings})" if policy["name"] else ""


def _free(found: Mapping[str, Any]) -> str:
    return "## Released without charge\n\n" + _bullets(found["released_without_charge"] or ["nothing"])


def _voids(found: Mapping[str, Any]) -> str:
    noted = [f"**{note}** (this run)" for note in found["notes"]]
    return "## What would void this\n\n" + _bullets([*noted, *found["voided_by"][len(noted) :]])


def _made_with(found: Mapping[str, Any]) -> str:
    used = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"## Made with\n\nRun {found['run_id']}; {used}."


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _up(eps: float | str) -> str:
    return eps if isinstance(eps, str) else rounded_up(eps)


def rounded_up(eps: float, digits: int = 5) -> str:
    """Return `eps` in `digits` significant digits, never below it."""
    if eps == 0:
        return "0"
    unit = Decimal(1).scaleb(Decimal(eps).adjusted() + 1 - digits)
    return f"{Decimal(eps).quantize(unit, ROUND_CEILING).normalize():f}"
