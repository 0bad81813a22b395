"""The benchmark: what it computes from times and allocations, and that it runs from end to end."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scripts.benchmark import measure, methods, report
from scripts.benchmark.__main__ import main, usual
from scripts.benchmark.methods import METHODS, Fit, Here, Setup
from scripts.benchmark.workloads import WORKLOADS

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
OPACUS = importlib.util.find_spec("opacus") is not None
RUNNABLE = [name for name in METHODS if OPACUS or "opacus" not in name]


def setup(*, bare: bool = False) -> Setup:
    return Setup(WORKLOADS["smoke"], CPU, 8, bare)


# -- arithmetic --------------------------------------------------------------------------------------------------


def law_fair(names: list[str], rounds: int) -> None:
    """Every method once a round; over as many rounds as methods, each is first, second, ... equally often."""
    order: list[str] = []

    def seconds(name: str) -> float:
        order.append(name)
        return float(len(order))

    taken = measure.interleaved(names, rounds, seconds)
    turns = [order[i : i + len(names)] for i in range(0, len(order), len(names))]
    assert all(sorted(turn) == sorted(names) for turn in turns)
    assert all(len({turn[place] for turn in turns}) == len(names) for place in range(len(names)))
    assert {name: [i + 1.0 for i, other in enumerate(order) if other == name] for name in names} == taken


def test_turns_are_fair() -> None:
    law_fair(["a", "b", "c"], 3)
    assert measure.interleaved([], 5, lambda name: 1.0) == {}


def test_mutant_a_fixed_order_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "rotated", lambda names, turn: [*names])
    with pytest.raises(AssertionError):
        law_fair(["a", "b", "c"], 3)


def law_ratio() -> None:
    """The ratio is of the medians; the range is of ratios within a round."""
    found = measure.over([2.0, 9.0, 4.0, 4.0, 6.0], [1.0, 2.0, 4.0, 2.0, 4.0])
    assert found == (4.0, 4.0 / 2.0, 1.0, 4.5)


def test_ratio_and_range() -> None:
    law_ratio()
    assert measure.over([3.0], [3.0]) == (3.0, 1.0, 1.0, 1.0)


def test_mutant_a_mean_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure.statistics, "median", lambda values: sum(values) / len(values))
    with pytest.raises(AssertionError):
        law_ratio()


def test_rounds_must_match() -> None:
    with pytest.raises(ValueError, match="shorter"):
        measure.over([1.0, 2.0], [1.0])


def test_the_highest_running_sum() -> None:
    assert measure.highest([3, 4, -5, 2, -4]) == 7
    assert measure.highest([-5, 3, 2]) == 0
    assert measure.highest([]) == 0


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 16, 31])
def test_bisection_finds_the_largest_batch(limit: int) -> None:
    assert measure.largest(lambda n: n <= limit) == limit


def test_bisection_is_within_its_tolerance() -> None:
    found = measure.largest(lambda n: n <= 1000)
    assert 1000 / 1.07 <= found <= 1000


# -- memory ------------------------------------------------------------------------------------------------------


class Buffers:
    """Keeps 4 MB; a step has 12 MB more for a while, 8 MB of them in one operation's temporary."""

    def __init__(self) -> None:
        self.kept = torch.zeros(1_000_000)

    def __call__(self) -> None:
        one = torch.zeros(1_000_000)
        two = torch.zeros(2_000_000)
        del one, two
        self.kept = self.kept.add_(1.0)


def test_peak_is_what_lives_and_what_a_step_adds() -> None:
    gc.collect()  # what other tests left in cycles, and memory() would let go
    before = measure.alive()
    steps = Buffers()
    assert measure.alive() - before == 4_000_000
    assert measure.highest(measure.allocations(Here(steps))) == 12_000_000
    assert abs(measure.memory(Here(steps), CPU).live - before - 16_000_000) < 100_000


def test_stand_ins_have_no_memory() -> None:
    """What a compiler left behind, or has no size yet, must not be asked for its address."""
    from torch._subclasses import FakeTensorMode

    before = measure.alive()
    with FakeTensorMode():
        kept = torch.empty(1000)
    lazy = torch.nn.LazyLinear(3)
    assert measure.alive() <= before
    assert kept.shape == (1000,)
    assert lazy.has_uninitialized_params()


def test_memory_of_a_fit_is_seen_from_its_own_thread() -> None:
    steps = METHODS["plain-trainer"].start(setup())
    assert isinstance(steps, Fit)
    measure.settle(steps, CPU)
    assert measure.highest(measure.allocations(steps)) > 4 * 8 * 16
    steps.close()


# -- methods -----------------------------------------------------------------------------------------------------


def law_same_sum(name: str) -> None:
    assert measure.disagreement(name, lambda: setup(bare=True)) < 1e-5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in RUNNABLE if METHODS[name].private])
def test_private_methods_release_the_same_sum(name: str) -> None:
    law_same_sum(name)


def test_mutant_another_bound_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "Flat", lambda bound: methods.dplit.clipping.Flat(0.5 if next(calls) else bound))
    calls = iter([0, 1])
    with pytest.raises(AssertionError):
        law_same_sum("dplit-trainer")


@pytest.mark.parametrize("name", ["plain-trainer", "dplit-trainer"])
def test_a_call_is_one_step_of_the_fit(name: str) -> None:
    made = setup(bare=True)
    steps = METHODS[name].start(made)
    for _ in range(3):
        before = [p.detach().clone() for p in made.model.parameters()]
        steps()
        assert all(not p.equal(b) for p, b in zip(made.model.parameters(), before, strict=True))
    steps.close()


def test_an_error_of_the_fit_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("in the thread")

    monkeypatch.setattr(Setup, "losses", broken)
    steps = METHODS["plain-trainer"].start(setup())
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        steps()


def test_baselines_are_methods() -> None:
    assert all(METHODS[m.against].against == m.against for m in METHODS.values())
    assert all(goal in METHODS for w in WORKLOADS.values() for goal in w.goals)


# -- workloads ---------------------------------------------------------------------------------------------------


def test_usual_workloads() -> None:
    assert "smoke" not in usual(torch.device("cuda"))
    assert "G2" in usual(torch.device("cuda"))
    assert {"W1", "W2", "W2L", "W3", "W4", "W5"} <= {*usual(CPU)}
    assert "G2" not in usual(CPU)


def test_wide_resnet_16_4() -> None:
    model = WORKLOADS["W4"].build()
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == 1 + 3 * 2 * 2 + 3
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert 2.7e6 < sum(p.numel() for p in model.parameters()) < 2.8e6


# -- the report --------------------------------------------------------------------------------------------------


def test_the_file_keeps_the_sections_that_were_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "benchmarks.md"
    assert "kept nothing else" in report.written(path, {"A, cpu": "one\n\n| a |\n", "B, cpu": "zwei"})
    said = report.written(path, {"B, cpu": "three", "C, cuda": "four"})
    assert said.endswith("wrote B, cpu, C, cuda; kept A, cpu")
    text = path.read_text()
    assert text.startswith(report.HEAD)
    assert [text.count(word) for word in ("one\n\n| a |", "zwei", "three", "four", "# Benchmarks")] == [1, 0, 1, 1, 1]


def test_a_failure_is_one_line_of_the_table() -> None:
    rows = [report.Row("plain", measure.Ratio(0.5, 1, 1, 1)), report.Row("opacus-ghost", failure="E: a | b")]
    header, *lines = report.table(rows, WORKLOADS["W1"])
    assert header == ["method", "ms a step", "over baseline", "range"]
    assert lines[0] == ["plain", "500.00", "1.00", "1.00 – 1.00"]
    assert "| fails: E: a \\| b |" in report.in_markdown([header, *lines])


# -- from end to end ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_smoke(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.benchmark.__main__.quiet", lambda: None)
    out = tmp_path / "benchmarks.md"
    main(["--workloads", "smoke", "--rounds", "2", "--no-memory", "--methods", *RUNNABLE, "--write", str(out)])
    text = out.read_text()
    assert all(f"| {METHODS[name].title} |" in text for name in RUNNABLE)
    assert "fails" not in text
    assert "## smoke, cpu" in text
    assert f"{out}: wrote smoke, cpu" in capsys.readouterr().out.replace("\n", "")


def test_a_method_that_breaks_is_reported_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(setup: Setup) -> Any:
        raise NotImplementedError("tied\nweights")

    monkeypatch.setitem(METHODS, "broken", methods.Method("broken", "broken", broken, "plain"))
    monkeypatch.setattr("scripts.benchmark.__main__.quiet", lambda: None)
    monkeypatch.setenv("COLUMNS", "300")
    main(["--workloads", "smoke", "--rounds", "1", "--no-memory", "--no-agreement", "--methods", "broken"])
    out = capsys.readouterr().out
    assert "fails: NotImplementedError: tied weights" in out
    assert "1.00 – 1.00" in out


@pytest.mark.parametrize("wrong", [["--largest"], ["--rounds", "0"], ["--workloads", "W9"]])
def test_wrong_arguments_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(wrong)
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.slow
def test_memory_in_a_fresh_process() -> None:
    command = [
        sys.executable,
        "-m",
        "scripts.benchmark",
        "--child",
        "memory",
        "--workloads",
        "smoke",
        "--methods",
        "dplit",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ})
    live, resident = json.loads(done.stdout.splitlines()[-1])
    assert 0 < live < resident
