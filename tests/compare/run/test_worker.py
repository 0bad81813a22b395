"""What a worker process refuses, says, and does when its parent is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dplit.compare.run import worker

ROOT = Path(__file__).parents[3]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "HF_HUB_OFFLINE": "1"}


REFUSED = {
    "policy": ({"policy": {"class_path": "dplit.clipping.Flat", "init_args": {"bound": -1}}}, "bound=-1"),
    "class": ({"policy": {"class_path": "dplit.clipping.Flatt"}}, "did you mean Flat?"),
    "groups": (
        {"policy": {"class_path": "dplit.clipping.GroupThresholds", "init_args": {"thresholds": {"Old": 1.0}}}},
        "the declared groups are Female, Male",
    ),
    "unreachable": (
        {"policy": {"class_path": "dplit.clipping.GroupQuantile", "init_args": {"noise_multiplier": 0.1}}},
        "epsilon=3 cannot be reached",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_a_rehearsal_finds_what_fit_would_refuse(name: str) -> None:
    from dplit.compare.config.recipe import parse

    change, message = REFUSED[name]
    overrides = {f"trainer.strategy.init_args.{key}": value for key, value in change.items()}
    made = parse({"base": "adult_flat", "epsilon": [3], "variants": {"A": overrides}}, Path("made.yaml"))
    ran = subprocess.run(
        [sys.executable, "-c", REHEARSE, json.dumps(made.config(made.variants[0], 3.0, (), 0))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    line = ran.stdout.strip().splitlines()[-1]
    assert message in line


REHEARSE = (
    "import json, sys; from dplit.compare.run.worker import rehearse; print(rehearse([json.loads(sys.argv.pop())]))"
)


KILLED = """
import os
import time
from collections.abc import Iterator
from dplit.compare.run.runner import _pool
from contextlib import contextmanager
from pathlib import Path

if __name__ == "__main__":
    with _pool(1, Path.cwd()) as pool:
        print(pool.schedule(os.getpid).result(), flush=True)
        pool.schedule(time.sleep, args=(600,))
        time.sleep(1)
        os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_workers_at_work_leave_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "killed.py").write_text(KILLED)
    ran = subprocess.run(
        [sys.executable, "killed.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment(tmp_path),
        check=False,
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    worker_id = int(ran.stdout)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{worker_id}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{worker_id}").exists()


def test_an_error_is_one_line() -> None:
    from dplit.errors import ConfigurationError

    assert worker.line_of(ConfigurationError("a\n  b")) == "a b"
    assert worker.line_of(KeyError("x")) == "KeyError: 'x'"
    assert worker.line_of(MemoryError()) == "MemoryError"
