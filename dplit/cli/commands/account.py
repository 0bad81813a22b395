"""What a run costs, which noise a target needs, which batch size suits it, and what was spent.

dplit account --rate 0.01 --noise-multiplier 1.0 --steps 1000 --delta 1e-5
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dplit import validation
from dplit.cli.exit_status import OK, OneLineParser, command
from dplit.cli.yaml import Config
from dplit.errors import ConfigurationError
from dplit.privacy import Bound, Gaussian, Sampled, Target, accountants, calibrate, epsilon, read
from dplit.privacy.completeness import check_whole
from dplit.privacy.planning import CLOSE, EPOCHS, LEARNING_RATE, LEAST_STEPS, Advice, Plan, advise
from dplit.privacy.statement import ADJACENCY, PERSON, UNIT, rounded_up

PATIENCE = 5.0
"""Seconds between two lines that say how many plans are calibrated."""

EXAMPLES = """examples:
  dplit account --rate 0.01 --noise-multiplier 1.0 --steps 1000 --delta 1e-5
      the epsilon of 1000 steps that include each record with probability 0.01
  dplit account --rate 0.01 --epsilon 3 --steps 1000 --delta 1e-5 --query-noise 10
      the gradient's noise multiplier that keeps epsilon 3, with a noisy count on every draw
  dplit account --records 67349 --epsilon 3 --delta 1e-6
      batch sizes for 3, 10 and 30 epochs, the noise each needs, and which to start with; some ten seconds
  dplit account --records 67349 --epsilon 3 --delta 1e-6 --epochs 3 --batch-size 512 --batch-size 1024
      the same for two batch sizes and 3 epochs
  dplit account --journal runs/adult/ledger.jsonl --delta 1e-5
      what a run has spent

The batch that fits in memory is another number, and changes no result: DPStrategy(physical_batch_size="auto",
memory_limit=GIB), or physical_batch_size: auto in a recipe, finds it for the model when training begins.
"""


def parser() -> OneLineParser:
    """Return the parser of the command line."""
    line = OneLineParser(
        "dplit account", "Account for differentially private training, for add or remove one record.", EXAMPLES
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
    spent.add_argument("--journal", help="a run's ledger.jsonl, finished or not")
    spent.add_argument("--group", action="append", default=[], help="with --journal: also this group; repeatable")
    return line


def _add_plan(line: argparse._ArgumentGroup) -> None:
    line.add_argument("--rate", type=float, help="probability that a record is in a batch: batch size / records")
    line.add_argument("--steps", type=int, help="number of steps")
    line.add_argument("--noise-multiplier", type=float, help="the gradient's noise: standard deviation / sensitivity")


def _add_advice(line: argparse._ArgumentGroup) -> None:
    line.add_argument("--records", type=int, help="records, or persons, to train on")
    line.add_argument(
        "--epochs",
        type=int,
        action="append",
        default=[],
        help=f"passes over the data; repeatable; {_by_default(EPOCHS)}",
    )
    line.add_argument(
        "--batch-size", type=int, action="append", default=[], help="repeatable; powers of two by default"
    )
    line.add_argument(
        "--least-steps", type=int, help=f"advise no batch that leaves fewer steps, if one can ({LEAST_STEPS})"
    )


def _by_default(numbers: Sequence[int]) -> str:
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]} by default"


class Answer(NamedTuple):
    """What a mode finds out."""

    data: Config
    """For `--json`."""
    text: str
    """For people."""


class Mode(NamedTuple):
    """One of the three things the command does."""

    asked_by: str
    """The option that asks for it."""
    options: tuple[str, ...]
    """What it takes besides --delta and --json."""
    answer: Callable[[argparse.Namespace], Answer]


@command
def main(arguments: list[str]) -> int:
    """Run the command line; return 0, or 2 after one line on standard error."""
    options = parser().parse_args(arguments)
    answer = _mode(options).answer(options)
    print(json.dumps(answer.data) if options.json else answer.text)
    return OK


def _mode(options: argparse.Namespace) -> Mode:
    """Return what the options ask for.

    Raises:
        ConfigurationError: an option that another mode takes.
    """
    asked = [mode for mode in (SPENT, ADVICE) if getattr(options, mode.asked_by) is not None]
    mode = asked[0] if asked else PLAN
    known = {name for other in (SPENT, ADVICE, PLAN) for name in other.options}
    for name in sorted(known - set(mode.options)):
        if getattr(options, name) not in (None, []):
            without = "without --journal" if name == "group" else "without --records"
            where = f"beside --{mode.asked_by}" if asked else without
            raise ConfigurationError(f"{_option(name)} has no meaning {where}; leave it out")
    return mode


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _require(options: argparse.Namespace, *names: str, instead: str = "") -> None:
    missing = [_option(name) for name in names if getattr(options, name) is None]
    if missing:
        raise ConfigurationError(f"{' and '.join(missing)} is missing; give it{instead}; see --help")


def _bound_data(bound: Bound, delta: float) -> Config:
    return {"epsilon": bound.upper, "lower": bound.lower, "estimate": bound.estimate, "delta": delta}


def _bound_text(bound: Bound, delta: float, adjacency: str = ADJACENCY) -> str:
    return (
        f"epsilon {rounded_up(bound.upper)} at delta {delta:g}, to {adjacency}\n"
        f"  certified from {bound.lower:.5g}, estimate {bound.estimate:.5g}"
    )


# -- one plan ------------------------------------------------------------------------------------------------------


def _plan(options: argparse.Namespace) -> Answer:
    _require(options, "rate", "steps", instead=", or --records or --journal")
    if (options.noise_multiplier is None) == (options.epsilon is None):
        raise ConfigurationError("give one of --noise-multiplier and --epsilon, to get the other; see --help")
    noise, target, text = options.noise_multiplier, {}, ""
    if noise is None:
        wanted = Target(options.epsilon, options.delta)
        noise = calibrate(
            wanted,
            rate=options.rate,
            steps=options.steps,
            queries=options.query_noise,
            accountant=options.accountant,
        )
        target = {"target": wanted.epsilon}
        text = f"noise multiplier {noise:g} keeps epsilon {wanted.epsilon:g}\n"
    draw = Sampled(options.rate, [Gaussian(multiplier) for multiplier in (noise, *options.query_noise)])
    bound = epsilon([(draw, validation.count("steps", options.steps))], options.delta, options.accountant)
    joint = {"noise_multiplier": noise, **target, "joint_noise_multiplier": draw.noise_multiplier}
    return Answer({**joint, **_bound_data(bound, options.delta)}, text + _bound_text(bound, options.delta))


# -- a run ---------------------------------------------------------------------------------------------------------


def _spent(options: argparse.Namespace) -> Answer:
    compared = check_whole(options.journal)
    ledger = read(options.journal, options.accountant)
    bound = ledger.epsilon(options.delta)
    adjacency = ADJACENCY if ledger.unit is None else ADJACENCY.replace("record", "person")
    unit = UNIT if ledger.unit is None else PERSON.format(ledger.unit)
    groups = dict.fromkeys([*ledger.groups, *options.group])
    by_group = {
        group: group_bound and group_bound.upper
        for group, group_bound in ledger.by_group(options.delta, groups).items()
    }
    splits = {split: ledger.epsilon(options.delta, split=split).upper for split in ledger.entries}
    together = [list(names) for names in ledger.splits.together(ledger.entries)]
    lines = [
        f"{ledger.steps} steps recorded; {_compared_text(compared)}",
        _bound_text(bound, options.delta, adjacency),
        *(
            f"  {group}: {'not stated separately' if spent is None else f'epsilon {rounded_up(spent)}'}"
            for group, spent in by_group.items()
        ),
        f"unit: {unit}",
        *(f"split {split}: epsilon {rounded_up(spent)}" for split, spent in splits.items() if len(splits) > 1),
        *(f"added up, as one record may be in all: {', '.join(names)}" for names in together if len(names) > 1),
        *(f"note: {note}" for note in ledger.notes),
    ]
    run = {
        "groups": by_group,
        "unit": unit,
        "splits": splits,
        "counted_together": together,
        "notes": list(ledger.notes),
        "compared_with": compared,
    }
    return Answer({"steps": ledger.steps, **_bound_data(bound, options.delta), **run}, "\n".join(lines))


def _compared_text(compared: Sequence[str]) -> str:
    """Say what the end of the journal was compared with: a cut one cannot tell by itself."""
    if compared:
        return f"its end agrees with {' and '.join(compared)} beside it"
    return "nothing lies beside the journal that would tell whether its end was cut off"


# -- advice --------------------------------------------------------------------------------------------------------


def _advice(options: argparse.Namespace) -> Answer:
    _require(options, "epsilon")
    target = Target(options.epsilon, options.delta)
    advice = advise(
        options.records,
        target,
        epochs=options.epochs or EPOCHS,
        batch_sizes=options.batch_size or None,
        queries=options.query_noise,
        least_steps=LEAST_STEPS if options.least_steps is None else options.least_steps,
        accountant=options.accountant,
        progress=_Progress(),
    )
    data: Config = {
        "records": options.records,
        "target": target.epsilon,
        "delta": target.delta,
        "plans": [{**_plan_data(plan), "best": plan in advice.best} for plan in advice.plans],
        "advised": _plan_data(advice.advised),
        "reason": advice.reason,
        "learning_rate": list(LEARNING_RATE),
    }
    return Answer(data, _advice_text(options.records, target, advice))


def _plan_data(plan: Plan) -> Config:
    return {**plan._asdict(), "effective_noise": plan.effective_noise}


class _Progress:
    """One line on standard error for every `PATIENCE` seconds."""

    def __init__(self) -> None:
        self._last_line = time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        if time.monotonic() - self._last_line > PATIENCE:
            self._last_line = time.monotonic()
            print(f"dplit: {done} of {of} plans calibrated", file=sys.stderr)


COLUMNS = (
    f"{'epochs':>7} {'batch':>9} {'rate':>8} {'steps':>8} {'noise σ':>9} {'σ/batch':>9}  over the least in these steps"
)


def _advice_text(records: int, target: Target, advice: Advice) -> str:
    """Return a table of plans, then one line that says which to start with."""
    advised, plans = advice.advised, advice.plans
    rows = [
        _row(plan, first=k == 0 or plans[k - 1].epochs != plan.epochs, best=plan in advice.best)
        for k, plan in enumerate(plans)
    ]
    return "\n".join(
        [
            f"{records} records, epsilon {target.epsilon:g} at delta {target.delta:g}, to {ADJACENCY}",
            COLUMNS,
            *rows,
            f"* for its epochs: the smallest batch within {CLOSE:.0%} of the least, if that leaves steps enough",
            "",
            f"start with: batch size {advised.batch_size}, {advised.epochs} epochs = {advised.steps} steps, "
            f"noise multiplier {advised.noise_multiplier:g}, effective noise {advised.effective_noise:.3g} of the bound",
            f"  {advice.reason}",
            *(f"  {line}" for line in LEARNING_RATE),
        ]
    )


def _row(plan: Plan, *, first: bool, best: bool) -> str:
    epochs = plan.epochs if first else ""
    figures = f"{plan.rate:>8.4g} {plan.steps:>8} {plan.noise_multiplier:>9.5g} {plan.effective_noise:>9.3g}"
    return f"{epochs:>7} {plan.batch_size:>9} {figures}  +{plan.excess:.0%}{' *' if best else ''}"


PLAN = Mode("rate", ("rate", "steps", "noise_multiplier", "epsilon", "query_noise"), _plan)
SPENT = Mode("journal", ("journal", "group"), _spent)
ADVICE = Mode("records", ("records", "epsilon", "query_noise", "epochs", "batch_size", "least_steps"), _advice)
