"""A run to be killed: opens or resumes a ledger, then records and "applies" (appends a line) again and again.

python releasing.py DIRECTORY ORDER DIE: ORDER is "record-first", or "apply-first" for the mutant; at step DIE (0: never)
the process kills itself between the two, otherwise it goes on until it is killed.
"""

import os
import signal
import sys
from pathlib import Path

from dplit.privacy import Gaussian, Journal, Ledger, Sampled

EVENT = Sampled(0.01, [Gaussian(1.0)])


def opened(place: Path) -> Ledger:
    path = place / "ledger.jsonl"
    return Ledger(Journal.reopen(path) if path.exists() else Journal.create(path))


def run(place: Path, order: str, die: int) -> None:
    ledger = opened(place)
    applied = os.open(place / "applied", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    acts = [lambda: ledger.record(EVENT), lambda: os.write(applied, b".")]
    first, second = acts if order == "record-first" else reversed(acts)
    step = 0
    while True:
        step += 1
        first()
        if step == die:
            os.kill(os.getpid(), signal.SIGKILL)
        second()


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
