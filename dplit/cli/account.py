"""`python -m dplit.account`: what a run costs, which noise a target needs, which batch size suits it, what was spent."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from dplit import validation
from dplit.errors import ConfigurationError, DplitError
from dplit.privacy import Bound, Gaussian, Sampled, Target, accountants, calibrate, epsilon, read
from dplit.privacy.planning import CLOSE, EPOCHS, LEARNING_RATE, LEAST_STEPS, Advice, Plan, advise
from dplit.privacy.statement import ADJACENCY, rounded_up

PATIENCE = 5.0
"""Seconds between lines that say how far the advice is."""

EXAMPLES = """examples:
  python -m dplit.account --rate 0.01 --noise-multiplier 1.0 --steps 1000 --delta 1e-5
      the epsilon of 1000 steps that include each record with probability 0.01
  python -m dplit.account --rate 0.01 --epsilon 3 --steps 1000 --delta 1e-5 --query-noise 10
      the gradient's noise multiplier that keeps epsilon 3, with a noisy count on every draw
  python -m dplit.account --records 67349 --epsilon 3 --delta 1e-6
      batch sizes for 3, 10 and 30 epochs, the noise each needs, and which to start with; some ten seconds
  python -m dplit.account --records 67349 --epsilon 3 --delta 1e-6 --epochs 3 --batch-size 512 --batch-size 1024
      the same for two batch sizes and 3 epochs
  python -m dplit.account --journal runs/adult/ledger.jsonl --delta 1e-5
      what a run has spent

The batch that fits in memory is another number, and changes no result: DPStrategy(physical_batch_size="auto",
memory_limit=GIB), or physical_batch_size: auto in a recipe, finds it for the model when training begins.
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}; see --help")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    line = _Parser(
        prog="python -m dplit.account",
        description="Account for differentially private training, for add or remove one record.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    line.add_argument("--delta", type=float, required=True, help="in (0, 1); well below 1 / number of records")
    line.add_argument("--epsilon", type=float, help="the target; give this instead of the noise to get the noise")
    line.add_argument(
        "--query-noise", type=float, action="append", default=[], help="noise multiplier of a joint query; repeatable"
    )
    line.add_argument(
        "--accountant", help=f"how the cost is computed: {', '.join(accountants.names())}; prv by default"
    )
    line.add_argument("--json", action="store_true", help="print JSON")
    _add_plan(line.add_argument_group("one plan: its epsilon, or the noise for an epsilon"))
    _add_advice(line.add_argument_group("advice: plans for a number of records and an epsilon"))
    spent = line.add_argument_group("a run")
    spent.add_argument("--journal", help="a finished run's ledger.jsonl")
    spent.add_argument("--group", action="append", default=[], help="with --journal: also this group; repeatable")
    return line


def _add_plan(line: Any) -> None:
    line.add_argument("--rate", type=float, help="probability that a record is in a batch: batch size / records")
    line.add_argument("--steps", type=int, help="number of steps")
    line.add_argument("--noise-multiplier", type=float, help="the gradient's noise: standard deviation / sensitivity")


def _add_advice(line: Any) -> None:
    line.add_argument("--records", type=int, help="records, or persons, to train on")
    line.add_argument(
        "--epochs", type=int, action="append", default=[], help=f"passes over the data; repeatable; {_words(EPOCHS)}"
    )
    line.add_argument(
        "--batch-size", type=int, action="append", default=[], help="repeatable; powers of two by default"
    )
    line.add_argument(
        "--least-steps", type=int, help=f"advise no batch that leaves fewer steps, if one can ({LEAST_STEPS})"
    )


def _words(numbers: Sequence[int]) -> str:
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]} by default"


class _Mode(NamedTuple):
    """One of the things the command does."""

    sign: str
    """The option that asks for it."""
    takes: tuple[str, ...]
    answer: Callable[[argparse.Namespace], dict[str, Any]]
    told: Callable[[dict[str, Any]], str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after one line on stderr."""
    try:
        options = parser().parse_args(arguments)
        mode = _mode(options)
        answer = mode.answer(options)
    except DplitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(answer) if options.json else mode.told(answer))
    return 0


def _mode(options: argparse.Namespace) -> _Mode:
    signs = [mode for mode in (_SPENT, _ADVICE) if getattr(options, mode.sign) is not None]
    mode = signs[0] if signs else _PLANNED
    every = {name for one in (_SPENT, _ADVICE, _PLANNED) for name in one.takes}
    for name in sorted(every - set(mode.takes)):
        if getattr(options, name) not in (None, []):
            beside = (
                f"beside --{mode.sign}" if signs else "without --journal" if name == "group" else "without --records"
            )
            raise ConfigurationError(f"{_option(name)} has no meaning {beside}; leave it out")
    return mode


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


# -- one plan ------------------------------------------------------------------------------------------------------


def _planned(options: argparse.Namespace) -> dict[str, Any]:
    _require(options, "rate", "steps", instead=", or --records or --journal")
    if (options.noise_multiplier is None) == (options.epsilon is None):
        raise ConfigurationError("give one of --noise-multiplier and --epsilon, to get the other; see --help")
    given = {"noise_multiplier": options.noise_multiplier}
    solved = _calibrated(options) if options.noise_multiplier is None else given
    releases = [Gaussian(noise) for noise in (solved["noise_multiplier"], *options.query_noise)]
    draw = Sampled(options.rate, releases)
    bound = epsilon([(draw, validation.count("steps", options.steps))], options.delta, options.accountant)
    return {**solved, "joint_noise_multiplier": draw.noise_multiplier, **_bracket(bound, options.delta)}


def _calibrated(options: argparse.Namespace) -> dict[str, Any]:
    target = Target(options.epsilon, options.delta)
    noise = calibrate(
        target,
        rate=options.rate,
        steps=options.steps,
        queries=options.query_noise,
        accountant=options.accountant,
    )
    return {"noise_multiplier": noise, "target": target.epsilon}


def _require(options: argparse.Namespace, *names: str, instead: str = "") -> None:
    missing = [_option(name) for name in names if getattr(options, name) is None]
    if missing:
        raise ConfigurationError(f"{' and '.join(missing)} is missing; give it{instead}; see --help")


def _bracket(bound: Bound, delta: float) -> dict[str, Any]:
    return {"epsilon": bound.upper, "lower": bound.lower, "estimate": bound.estimate, "delta": delta}


# -- a run ---------------------------------------------------------------------------------------------------------


def _spent(options: argparse.Namespace) -> dict[str, Any]:
    ledger = read(options.journal, options.accountant)
    groups = ledger.by_group(options.delta, options.group)
    return {
        "steps": ledger.steps,
        **_bracket(ledger.epsilon(options.delta), options.delta),
        "groups": {group: bound and bound.upper for group, bound in groups.items()},
        "notes": list(ledger.notes),
    }


def _told(answer: dict[str, Any]) -> str:
    lines = []
    if "target" in answer:
        lines.append(f"noise multiplier {answer['noise_multiplier']:g} keeps epsilon {answer['target']:g}")
    if "steps" in answer:
        lines.append(f"{answer['steps']} steps recorded")
    lines.append(f"epsilon {rounded_up(answer['epsilon'])} at delta {answer['delta']:g}, to {ADJACENCY}")
    lines.append(f"  certified from {answer['lower']:.5g}, estimate {answer['estimate']:.5g}")
    for group, eps in answer.get("groups", {}).items():
        lines.append(f"  {group}: {'not stated separately' if eps is None else f'epsilon {rounded_up(eps)}'}")
    return "\n".join([*lines, *(f"note: {note}" for note in answer.get("notes", []))])


# -- advice --------------------------------------------------------------------------------------------------------


def _advised(options: argparse.Namespace) -> dict[str, Any]:
    _require(options, "epsilon")
    found = advise(
        options.records,
        Target(options.epsilon, options.delta),
        epochs=options.epochs or EPOCHS,
        batch_sizes=options.batch_size or None,
        queries=options.query_noise,
        least_steps=LEAST_STEPS if options.least_steps is None else options.least_steps,
        accountant=options.accountant,
        progress=_Progress(),
    )
    given = {"records": options.records, "target": options.epsilon, "delta": options.delta}
    return {**given, **_as_data(found), "learning_rate": list(LEARNING_RATE)}


def _as_data(found: Advice) -> dict[str, Any]:
    plans = [{**_figures(plan), "best": plan in found.best} for plan in found.plans]
    return {"plans": plans, "advised": _figures(found.advised), "reason": found.reason}


def _figures(plan: Plan) -> dict[str, Any]:
    return {**plan._asdict(), "effective_noise": plan.effective_noise}


class _Progress:
    """One line on stderr for every `PATIENCE` seconds."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        if time.monotonic() - self._said > PATIENCE:
            self._said = time.monotonic()
            print(f"dplit: {done} of {of} plans calibrated", file=sys.stderr)


COLUMNS = (
    f"{'epochs':>7} {'batch':>9} {'rate':>8} {'steps':>8} {'noise σ':>9} {'σ/batch':>9}  over the least in these steps"
)


def _told_advice(answer: dict[str, Any]) -> str:
    """A table of plans, then one line that says what to start with."""
    records, target, delta, one = answer["records"], answer["target"], answer["delta"], answer["advised"]
    epochs = [plan["epochs"] for plan in answer["plans"]]
    rows = [_row(plan, first=i == 0 or epochs[i - 1] != plan["epochs"]) for i, plan in enumerate(answer["plans"])]
    return "\n".join(
        [
            f"{records} records, epsilon {target:g} at delta {delta:g}, to {ADJACENCY}",
            COLUMNS,
            *rows,
            f"* for its epochs: the smallest batch within {CLOSE:.0%} of the least, if that leaves steps enough",
            "",
            f"start with: batch size {one['batch_size']}, {one['epochs']} epochs = {one['steps']} steps, "
            f"noise multiplier {one['noise_multiplier']:g}, effective noise {one['effective_noise']:.3g} of the bound",
            f"  {answer['reason']}",
            *(f"  {line}" for line in answer["learning_rate"]),
        ]
    )


def _row(plan: dict[str, Any], first: bool) -> str:
    epochs = plan["epochs"] if first else ""
    figures = (
        f"{plan['rate']:>8.4g} {plan['steps']:>8} {plan['noise_multiplier']:>9.5g} {plan['effective_noise']:>9.3g}"
    )
    return f"{epochs:>7} {plan['batch_size']:>9} {figures}  +{plan['excess']:.0%}{' *' if plan['best'] else ''}"


_PLANNED = _Mode("rate", ("rate", "steps", "noise_multiplier", "epsilon", "query_noise"), _planned, _told)
_SPENT = _Mode("journal", ("journal", "group"), _spent, _told)
_ADVICE = _Mode(
    "records", ("records", "epsilon", "query_noise", "epochs", "batch_size", "least_steps"), _advised, _told_advice
)
