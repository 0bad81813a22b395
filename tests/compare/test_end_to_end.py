"""The command itself, with real workers and real runs on Adult."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


SMALL = {"trainer.max_epochs": 1, "trainer.limit_train_batches": 3}


BROKEN = """
import os
from dplit.models.tabular import MLP

class Raises(MLP):
    def on_train_epoch_end(self):
        raise RuntimeError("as the test\\nwants")

class Dies(MLP):
    def on_train_epoch_end(self):
        os._exit(9)
"""


def recipe(folder: Path, **changes: Any) -> Path:
    given = {
        "base": "adult_flat",
        "epsilon": [3],
        "seeds": [0, 1],
        "nonprivate": False,
        "variants": {
            "Flat": {**SMALL},
            "GroupQuantile": {
                **SMALL,
                "trainer.strategy.init_args.policy": {"class_path": "dplit.clipping.GroupQuantile"},
            },
        },
        **changes,
    }
    (folder / "broken.py").write_text(BROKEN)
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "dplit.compare", str(folder / "small.yaml"), "--out", str(folder / "out"), *arguments]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "HF_HUB_OFFLINE": "1"}


def compare(folder: Path, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        command(folder, *arguments), cwd=folder, capture_output=True, text=True, env=environment(folder), check=False
    )
    assert ran.returncode == expect, ran.stdout[-2000:] + ran.stderr[-2000:]
    return ran


def finished(folder: Path) -> dict[str, float]:
    marks = sorted((folder / "out").glob("*/**/done.json"))
    return {str(m.parent.relative_to(folder / "out")): m.stat().st_mtime for m in marks if "aside" not in m.parts}


def test_help_and_refusals_are_quick_and_light() -> None:
    code = (
        "import sys; from dplit.compare.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert not end.code\n"
        "heavy = [n for n in ('torch', 'lightning', 'matplotlib', 'pandas') if n in sys.modules]\n"
        "assert not heavy, heavy\n"
        "assert main(['adult_flat']) == 2 and main(['nothing.yaml']) == 2 and main(['x', '--jbos', '2']) == 2"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "compare_adult" in ran.stdout
    assert [line.split(":")[0] for line in ran.stderr.strip().splitlines()] == ["dplit"] * 3


@pytest.mark.slow
def test_two_variants_two_seeds_from_end_to_end(tmp_path: Path) -> None:
    recipe(tmp_path)
    output = compare(tmp_path, "--jobs", "1").stdout
    assert "4/4" in output
    assert set(finished(tmp_path)) == {
        f"{v}/eps-3/as-given/seed-{s}" for v in ("Flat", "GroupQuantile") for s in (0, 1)
    }
    with (tmp_path / "out/results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["split"] for line in lines} == {"validation", "test"}
    assert {line["group"] for line in lines if line["metric"] == "accuracy"} == {"Female", "Male"}
    assert all(float(line["epsilon_spent"]) <= 3.0 for line in lines)
    assert (tmp_path / "out/report.html").is_file()
    assert "test accuracy" in (tmp_path / "out/Flat/eps-3/as-given/seed-0/run.log").read_text()
    assert not list((tmp_path / "out").rglob("*.png"))
    stated = json.loads((tmp_path / "out/Flat/eps-3/as-given/seed-0/privacy.json").read_text())
    assert not any(".png" in line for line in stated["released_without_charge"])
    assert any("fairness.csv" in line for line in stated["released_without_charge"])
    before = finished(tmp_path)
    assert "4/4" not in compare(tmp_path).stdout
    assert finished(tmp_path) == before


@pytest.mark.slow
def test_a_run_that_fails_and_one_that_dies_leave_the_others(tmp_path: Path) -> None:
    broken = {name: {**SMALL, "model": {"class_path": f"broken.{name}"}} for name in ("Raises", "Dies")}
    recipe(tmp_path, variants={"Flat": SMALL, **broken}, seeds=[0])
    output = compare(tmp_path, "--jobs", "2", expect=1).stdout
    assert set(finished(tmp_path)) == {"Flat/eps-3/as-given/seed-0"}
    assert "RuntimeError: as the test wants" in output
    assert "the worker process died (exit code 9)" in output
    error = (tmp_path / "out/Raises/eps-3/as-given/seed-0/error.txt").read_text()
    assert error.startswith("RuntimeError: as the test wants\n\nTraceback")
    page = (tmp_path / "out/report.html").read_text()
    assert "RuntimeError: as the test wants" in page
    assert "the worker process died" in page
    before = finished(tmp_path)
    assert "3/3" in compare(tmp_path, expect=1).stdout
    assert finished(tmp_path) == before
    assert compare(tmp_path, "--report", expect=1).returncode == 1


@pytest.mark.slow
def test_only_what_is_lost_is_made_again(tmp_path: Path) -> None:
    recipe(tmp_path)
    compare(tmp_path)
    before = finished(tmp_path)
    lost = "Flat/eps-3/as-given/seed-1"
    (tmp_path / "out" / lost / "done.json").unlink()
    compare(tmp_path, "--only", "Flat")
    after = finished(tmp_path)
    assert {run for run in after if after[run] != before[run]} == {lost}


@contextmanager
def not_ignoring(number: int) -> Iterator[None]:
    """Let processes started meanwhile receive a signal that this process ignores, as it does behind a shell's `&`."""
    before = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.slow
def test_ctrl_c_stops_in_one_line_and_the_same_command_goes_on(tmp_path: Path) -> None:
    recipe(tmp_path, seeds=[0, 1, 2, 3])
    with not_ignoring(signal.SIGINT):
        ran = subprocess.Popen(
            command(tmp_path, "--jobs", "1"),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(tmp_path),
            start_new_session=True,
        )
    until = time.monotonic() + 120
    while len(finished(tmp_path)) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    os.killpg(ran.pid, signal.SIGINT)
    _, error = ran.communicate(timeout=60)
    assert ran.returncode == 130
    assert error.strip() == "stopped; the same command goes on with the runs that are not done"
    before = finished(tmp_path)
    assert 2 <= len(before) < 8
    compare(tmp_path)
    after = finished(tmp_path)
    assert len(after) == 8
    assert {run: after[run] for run in before} == before


@pytest.mark.slow
def test_shipped_smoke_ends_in_two_minutes(tmp_path: Path) -> None:
    began = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-m", "dplit.compare", "compare_adult", "--smoke"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment(tmp_path),
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert time.monotonic() - began < 120
    assert (tmp_path / "runs/compare_adult-smoke/report.html").is_file()
