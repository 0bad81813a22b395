"""The privacy statement: what is promised, on which assumptions, and what would make the promise void."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, Decimal
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

import dplit
from dplit import validation
from dplit.errors import PrivacyError
from dplit.files import write_atomically
from dplit.privacy.accountants import Bound
from dplit.privacy.calibration import Target
from dplit.privacy.journal import is_run_id

if TYPE_CHECKING:
    from dplit.privacy.ledger import Ledger

UNIT = "one record (x, y, group)"
PERSON = "one person: all records with the same {!r}"
ADJACENCY = "add or remove one record"
NOT_STATED = "not stated separately: the mechanism says nothing of this group alone, so the overall ε holds"
ASSUMED = (
    "model, features, limits, groups, classes, batch size, number of steps and learning rate come from public knowledge, "
    "or their choice was charged",
    "the number of {unit}s is public",
    "a row of the data set is made of one record: what the data set or its collate function mixes is not all seen",
    "the code that runs is trusted: model, data set, callbacks, dplit, and what they depend on",
    "the machine is not attacked while it trains: time, memory and exact gradients stay on it",
    "the noise is as random as its generator, and floating point numbers are close enough to real ones",
)
ONE_PERSON_ONE_RECORD = "a person has one record: nothing is said of all records of one person together"
ONE_KEY_ONE_PERSON = "{key} tells all records of a person, and of nobody else"
ALWAYS_VOIDS = (
    "settings chosen by trying several on the private records, unless those runs are charged too",
    "publishing the seed of the noise or of the sampling, or the state of a generator",
    "releasing exact figures computed from the private records, other than those listed here",
    "a module or callback that decides by exact figures which it reads itself, as from trainer.callback_metrics: only a "
    "`monitor`, a scheduler and an optimizer's closure are seen",
    "what training_step prints, writes to a file, or sends by an object that is no logger of the trainer, and what other "
    "hooks hand to a logger past self.log",
    "a record that is in the data set more than once, or reaches another's sample there: Subset, ConcatDataset, "
    "TensorDataset and lists are looked through, copies and files are not",
    "a collate function that mixes samples in a case that replacing one of a few records by others did not show",
)
SEVERAL_RECORDS = "one person with several records: the statement protects single records"
SEVERAL_SPLITS = "{unit} with records in more than one split: {pairs} were {why} to share none, and are not added up"
PUBLIC_CONSTANTS = "; rate and number of steps follow from the number of {}, which is taken to be public"
OTHER_LEDGERS = (
    "going on, under another ledger, from weights that were trained here: dplit sees the same layers and parameters, and the "
    "same values within one process, but not weights that were averaged, cast, changed or read in another process"
)
STILL_TO_COME = (
    "what training_step, callbacks and loggers show while training runs, exact; it is listed when training ends"
)
FINAL, AHEAD = "final", "written ahead, while training runs"
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
        exact_figures: by split, such as "validation", names of the exact figures of its records that left uncharged; no ε
            is stated for such a split.
        assumptions: what was taken for granted in this run, beside what every statement assumes.
        python_reads: where Python decided by values of examples; a line each. None where nobody looked.
        steered_by: figures that decided on the weights beside the noisy gradients; a line each.
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
    exact_figures: Mapping[str, Sequence[str]] = field(default_factory=dict)
    assumptions: Sequence[str] = ()
    python_reads: Sequence[str] | None = None
    steered_by: Sequence[str] = ()

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


class Recorded(TypedDict):
    """How far the journal reached when the statement was written."""

    steps: int
    entries: int
    sum: str


class Figures(TypedDict):
    """The part of a statement that follows from the ledger; every ε but those in `bracket` is a certified upper bound."""

    run_id: str
    status: str
    """"final"; or "written ahead, while training runs": then the figures count steps that were still to come."""
    recorded: Recorded | None
    """What the journal held when this was written; None for a ledger without one."""
    epsilon: float
    delta: float
    bracket: Bracket
    splits: dict[str, float | str]
    counted_together: list[list[str]]
    """Splits that one record may be in, whose releases are added up; `epsilon` is the largest of these sets."""
    groups: dict[str, float | str]
    steps: int
    events: list[StatedEvent]
    accountant: str
    notes: list[str]


class Statement(Figures):
    """The content of `privacy.json`."""

    unit: str
    adjacency: str
    target: StatedTarget | None
    sampling: Sampling
    policy: Policy
    noise_multipliers: dict[str, float | str]
    noise_source: str
    expected_batch_size: float | None
    dataset_size: int | None
    assumptions: list[str]
    python_reads: list[str] | None
    released_without_charge: list[str]
    steered_by: list[str]
    voided_by: list[str]
    warnings: list[str]
    journal: str | None
    versions: dict[str, str]


def statement(ledger: Ledger, facts: Facts, recorded: Ledger | None = None) -> Statement:
    """Return the privacy statement in JSON types.

    Args:
        ledger: what is stated.
        facts: what it does not know.
        recorded: what the journal holds so far, where `ledger` counts what is still to come too; None where it does not.

    Raises:
        PrivacyError: what was released has no finite ε.
    """
    overall = ledger.epsilon(facts.delta)
    person, target = facts.person, facts.target
    uncharged = [*facts.released_without_charge, *([STILL_TO_COME] if recorded is not None else [])]
    figures = _figures(ledger, facts.delta, facts.groups, recorded)
    return {
        **figures,
        "splits": {split: _not_stated(split, facts) or stated for split, stated in figures["splits"].items()},
        "unit": UNIT if person is None else PERSON.format(person),
        "adjacency": ADJACENCY if person is None else ADJACENCY.replace("record", "person"),
        "target": None if target is None else {"epsilon": target.epsilon, "delta": target.delta},
        "sampling": {"scheme": _sampling_scheme(facts), "rate": facts.rate},
        "policy": {"name": facts.policy, "parameters": dict(facts.parameters)},
        "noise_multipliers": {
            name: noise if math.isfinite(noise) else str(noise) for name, noise in facts.noise_multipliers.items()
        },
        "noise_source": facts.noise_source,
        "expected_batch_size": facts.expected_batch_size,
        "dataset_size": facts.dataset_size,
        "released_without_charge": uncharged,
        "voided_by": [
            *ledger.notes,
            *ALWAYS_VOIDS,
            OTHER_LEDGERS,
            *([SEVERAL_RECORDS] if person is None else []),
            *_voided_by_splits(ledger),
        ],
        "assumptions": _assumptions(facts),
        "python_reads": None if facts.python_reads is None else list(facts.python_reads),
        "steered_by": list(facts.steered_by),
        "warnings": _warnings(ledger, facts, overall),
        "journal": None if facts.journal is None else os.fspath(facts.journal),
        "versions": versions(),
    }


def _figures(ledger: Ledger, delta: float, groups: Iterable[str], recorded: Ledger | None) -> Figures:
    """Return the part of a statement that follows from the ledger."""
    overall = ledger.epsilon(delta)
    return {
        "run_id": ledger.run_id,
        "status": FINAL if recorded is None else AHEAD,
        "recorded": _recorded(ledger if recorded is None else recorded),
        "epsilon": overall.upper,
        "delta": delta,
        "bracket": {"lower": overall.lower, "estimate": overall.estimate},
        "splits": {split: ledger.epsilon(delta, split=split).upper for split in ledger.entries},
        "counted_together": [list(names) for names in ledger.splits.together(ledger.entries)],
        "groups": {
            group: NOT_STATED if bound is None else bound.upper
            for group, bound in ledger.by_group(delta, groups).items()
        },
        "steps": ledger.steps,
        "events": [
            {"split": split, "times": times, "event": event.to_dict()}
            for split, events in ledger.entries.items()
            for event, times in events.items()
        ],
        "accountant": ledger.accountant.description,
        "notes": list(ledger.notes),
    }


# -- on disk -----------------------------------------------------------------------------------------------------------


def write_statement(
    directory: str | os.PathLike[str], ledger: Ledger, facts: Facts, recorded: Ledger | None = None
) -> Statement:
    """Write `privacy.json` and `privacy.md` into `directory`, each whole or not at all; return the statement.

    What lies there of another run is moved to `privacy-` and the first digits of its run id.

    Raises:
        PrivacyError: what was released has no finite ε, or the files cannot be written.
    """
    stated = statement(ledger, facts, recorded)
    _write(Path(directory), stated)
    return stated


def refresh_statement(directory: str | os.PathLike[str], ledger: Ledger, recorded: Ledger | None = None) -> None:
    """Bring the statement of a ledger's run in `directory`, if there is one, to say what the ledger holds now.

    What only the fit knew stays as it was written.

    Raises:
        PrivacyError: the statement cannot be read or written, or there is no finite ε.
    """
    place = statement_path(directory, ledger.run_id)
    if place is None:
        return
    old = read_statement(place)
    try:
        assert old is not None
        new: dict[str, Any] = {**old, **_figures(ledger, float(old["delta"]), list(old["groups"]), recorded)}
        unstated = {split: told for split, told in old["splits"].items() if isinstance(told, str)}
        new["splits"] = {**new["splits"], **unstated}
        lines = [*ledger.notes, *old["voided_by"], *_voided_by_splits(ledger)]
        new["voided_by"] = list(dict.fromkeys(lines))
        page = cast(Statement, new)
        markdown(page)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise PrivacyError(
            f"{place} cannot be brought up to date ({error!r}), and would say too little; move it"
        ) from error
    _write(Path(directory), page)


def statement_path(directory: str | os.PathLike[str], run_id: str) -> Path | None:
    """Return where the `privacy.json` of a run lies in a folder; None where it has none there."""
    names = [Path(directory) / "privacy.json", _aside(Path(directory), run_id, ".json")]
    return next((path for path in names if (read_statement(path) or {}).get("run_id") == run_id), None)


def read_statement(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return what a `privacy.json` holds; None for a file that is missing or no JSON mapping."""
    try:
        said = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def _write(place: Path, stated: Statement) -> None:
    """Write both files; another run's are moved aside, and at no moment is a run's statement missing or older than before."""
    own, run_id = place / "privacy.json", stated["run_id"]
    texts = {
        ".json": json.dumps(stated, indent=2, allow_nan=False, default=str) + "\n",
        ".md": markdown(stated),
    }
    there = str((read_statement(own) or {}).get("run_id", run_id))
    there = there if is_run_id(there) else run_id
    try:
        for suffix, text in texts.items():
            target = own.with_suffix(suffix) if there == run_id else _aside(place, run_id, suffix)
            write_atomically(target, text)
        if there != run_id:
            for suffix in texts:
                _exchange(place, there, run_id, suffix)
    except OSError as error:
        raise PrivacyError(f"the privacy statement cannot be written to {place} ({error}); make room for it") from error


def _exchange(place: Path, there: str, run_id: str, suffix: str) -> None:
    """Give the name `privacy` to the statement of `run_id`, and move aside the one of the run `there`."""
    with suppress(FileNotFoundError):
        os.replace(place / f"privacy{suffix}", _aside(place, there, suffix))
    os.replace(_aside(place, run_id, suffix), place / f"privacy{suffix}")


def _aside(place: Path, run_id: str, suffix: str) -> Path:
    return place / f"privacy-{run_id[:8]}{suffix}"


def _recorded(ledger: Ledger) -> Recorded | None:
    if ledger.mark is None:
        return None
    return {"steps": ledger.steps, "entries": ledger.mark.entries, "sum": ledger.mark.sum}


def versions() -> dict[str, str]:
    """Return the versions of what the statement rests on, without importing any of it."""
    own = {"python": platform.python_version(), "dplit": dplit.__version__}
    return {**own, **{name: _version(name) for name in PACKAGES}}


@cache
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


def _not_stated(split: str, facts: Facts) -> str:
    """Return why no ε is stated for a split, one of several loaders' included; "" where it is."""
    exact = facts.exact_figures.get(split.partition("/")[0], ())
    return f"not stated: exact figures of these records left uncharged, {', '.join(exact)}" if exact else ""


def _assumptions(facts: Facts) -> list[str]:
    unit = "record" if facts.person is None else "person"
    whose = ONE_PERSON_ONE_RECORD if facts.person is None else ONE_KEY_ONE_PERSON.format(key=repr(facts.person))
    return [whose, *(line.format(unit=unit) for line in ASSUMED), *facts.assumptions]


def _voided_by_splits(ledger: Ledger) -> list[str]:
    """Say which splits are counted as if no record were in two of them, though dplit cannot be certain."""
    unit = "one record" if ledger.unit is None else "a person"
    pairs = {
        "assumed": ledger.splits.assumed(list(ledger.entries)),
        "declared": ledger.splits.declared(list(ledger.entries)),
    }
    return [
        SEVERAL_SPLITS.format(unit=unit, pairs=", ".join(" and ".join(pair) for pair in listed), why=why)
        for why, listed in pairs.items()
        if listed
    ]


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
        f"## Assumed, and not checked\n\n{_bullets(stated['assumptions'])}",
        f"## Where Python decides by values of examples\n\n{_python_reads(stated['python_reads'])}",
        f"## Released without charge\n\n{_bullets(stated['released_without_charge'] or ['nothing'])}",
        f"## What steers training beside the noisy gradients\n\n{_bullets(stated['steered_by'] or ['nothing'])}",
        f"## What would void this\n\n{_bullets([*noted, *stated['voided_by'][len(noted) :]])}",
        f"## Made with\n\nRun {stated['run_id']}; {made_with}.",
    ]
    return "\n\n".join(sections) + "\n"


def _guarantee(stated: Statement) -> str:
    paragraphs = [
        f"**ε = {_shown(stated['epsilon'])} at δ = {stated['delta']:g}**, for {stated['adjacency']}; the unit is "
        f"{stated['unit']}. The figure is a certified upper bound over {stated['steps']} steps.",
        _reach(stated),
        "In words: to add or remove one unit changes the probability of any outcome of the training by a factor of at most "
        "e^ε, up to an additional probability of at most δ.",
        *(f"> Warning: {warning}." for warning in stated["warnings"]),
    ]
    if stated["groups"]:
        rows = [f"| {group} | {_shown(epsilon)} |" for group, epsilon in stated["groups"].items()]
        paragraphs.append("\n".join(["| group | ε |", "|---|---|", *rows]))
    return "\n\n".join(paragraphs)


def _reach(stated: Statement) -> str:
    """Say whether the figures are final, and where the exact record is."""
    if stated["status"] == FINAL:
        return "The figures are final: they count everything that was released when this was written, training having ended."
    recorded, journal = stated["recorded"], stated["journal"] or "ledger.jsonl"
    made = "" if recorded is None else f", of which {recorded['steps']} were recorded when this was written"
    return (
        f"**Written ahead, while training runs.** Planned: at most ε = {_shown(stated['epsilon'])} after {stated['steps']} "
        f"steps{made}. If training was killed, less was spent; the journal is the exact record: "
        f"`python -m dplit.account --journal {journal} --delta {stated['delta']:g}`."
    )


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
        "Added up, as one record may be in all of them": "; ".join(
            ", ".join(names) for names in stated["counted_together"] if len(names) > 1
        ),
        "Ledger": stated["journal"],
    }
    return _bullets([f"{name}: {fact}" for name, fact in lines.items() if fact not in (None, "")])


def _python_reads(places: Sequence[str] | None) -> str:
    return "Not looked for in this run." if places is None else _bullets(places or ["nowhere"])


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
