"""`python -m dplit.account`: what a run would cost, which noise a target needs, what a finished run spent."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from dplit.errors import ConfigurationError, DplitError
from dplit.privacy import Bound, Gaussian, Sampled, Target, calibrate, check, epsilon, read
from dplit.privacy.report import ADJACENCY, rounded_up

EXAMPLES = """examples:
  python -m dplit.account --rate 0.01 --noise-multiplier 1.0 --steps 1000 --delta 1e-5
      the epsilon of 1000 steps that include each record with probability 0.01
  python -m dplit.account --rate 0.01 --epsilon 3 --steps 1000 --delta 1e-5 --query-noise 10
      the gradient's noise multiplier that keeps epsilon 3, with a noisy count on every draw
  python -m dplit.account --journal runs/adult/ledger.jsonl --delta 1e-5
      what a run has spent
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
    line.add_argument("--rate", type=float, help="probability that a record is in a batch: batch size / records")
    line.add_argument("--steps", type=int, help="number of steps")
    line.add_argument("--noise-multiplier", type=float, help="the gradient's noise: standard deviation / sensitivity")
    line.add_argument("--epsilon", type=float, help="give this instead of the noise to get the noise multiplier")
    line.add_argument(
        "--query-noise", type=float, action="append", default=[], help="noise multiplier of a joint query; repeatable"
    )
    line.add_argument("--journal", help="a finished run's ledger.jsonl")
    line.add_argument("--group", action="append", default=[], help="with --journal: also this group; repeatable")
    line.add_argument("--json", action="store_true", help="print JSON")
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after one line on stderr."""
    try:
        options = parser().parse_args(arguments)
        answer = _answer(options)
    except DplitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(answer) if options.json else _told(answer))
    return 0


def _answer(options: argparse.Namespace) -> dict[str, Any]:
    if options.journal is not None:
        return _spent(options)
    _require(options, "rate", "steps")
    if (options.noise_multiplier is None) == (options.epsilon is None):
        raise ConfigurationError("give one of --noise-multiplier and --epsilon, to get the other; see --help")
    given = {"noise_multiplier": options.noise_multiplier}
    solved = _calibrated(options) if options.noise_multiplier is None else given
    releases = [Gaussian(noise) for noise in (solved["noise_multiplier"], *options.query_noise)]
    draw = Sampled(options.rate, releases)
    bound = epsilon([(draw, check.count("steps", options.steps))], options.delta)
    return {**solved, "joint_noise_multiplier": draw.noise_multiplier, **_bracket(bound, options.delta)}


def _calibrated(options: argparse.Namespace) -> dict[str, Any]:
    target = Target(options.epsilon, options.delta)
    noise = calibrate(target, rate=options.rate, steps=options.steps, queries=options.query_noise)
    return {"noise_multiplier": noise, "target": target.epsilon}


def _spent(options: argparse.Namespace) -> dict[str, Any]:
    for name in ("rate", "steps", "noise_multiplier", "epsilon", "query_noise"):
        if getattr(options, name) not in (None, []):
            raise ConfigurationError(f"--{name.replace('_', '-')} has no meaning beside --journal; leave it out")
    ledger = read(options.journal)
    groups = ledger.by_group(options.delta, options.group)
    return {
        "steps": ledger.steps,
        **_bracket(ledger.epsilon(options.delta), options.delta),
        "groups": {group: bound and bound.upper for group, bound in groups.items()},
        "notes": list(ledger.notes),
    }


def _require(options: argparse.Namespace, *names: str) -> None:
    missing = [f"--{name}" for name in names if getattr(options, name) is None]
    if missing:
        raise ConfigurationError(f"{' and '.join(missing)} is missing; give it, or --journal; see --help")


def _bracket(bound: Bound, delta: float) -> dict[str, Any]:
    return {"epsilon": bound.upper, "lower": bound.lower, "estimate": bound.estimate, "delta": delta}


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


if __name__ == "__main__":
    sys.exit(main())
