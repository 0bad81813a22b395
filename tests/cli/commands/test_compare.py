"""The command line, with fabricated runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from dplit.cli.commands.compare import main
from dplit.compare.analysis.results import Results
from dplit.compare.report import report
from dplit.compare.run import runner, worker
from tests.compare.fabricated import RECIPE, Bench, inline


def empty_page(results: Results) -> Path:
    """Drawing is tested elsewhere."""
    (results.out / "report.html").write_text("")
    return results.out / "report.html"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "_pool", inline)
    monkeypatch.setattr(worker, "rehearse", lambda configs: None)
    monkeypatch.setattr(worker, "make", made.make)
    monkeypatch.setattr(report, "write", empty_page)
    Path("mine.yaml").write_text(yaml.safe_dump(RECIPE))
    return made


def test_it_leaves_results_and_report(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mine.yaml"]) == 0
    output = capsys.readouterr().out
    assert "written: runs/mine/results.csv and runs/mine/report.html" in output
    assert f"{len(bench.made)}/{len(bench.made)} " in output
    assert Path("runs/mine/report.html").is_file()


def test_report_alone_makes_no_run(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mine.yaml", "--report"]) == 2
    assert "runs/mine holds no comparison to report on" in capsys.readouterr().err
    assert not Path("runs").exists()
    main(["mine.yaml", "--only", "Flat"])
    made = len(bench.made)
    assert {run.split("/")[0] for run in bench.made} == {"Flat", "not-private"}
    assert main(["mine.yaml", "--report"]) == 0
    assert len(bench.made) == made
    assert "4 runs are still to be made" in capsys.readouterr().out


def test_targets_and_seeds_can_be_given(bench: Bench) -> None:
    assert main(["mine.yaml", "--epsilon", "0.5", "--seeds", "7", "8", "--out", "there"]) == 0
    assert {run.split("/")[1] for run in bench.made if not run.startswith("not-private")} == {"eps-0.5"}
    assert {run[-1] for run in bench.made} == {"7", "8"}
    assert Path("there/report.html").is_file()


def test_smoke_is_small_and_apart(bench: Bench) -> None:
    assert main(["mine.yaml", "--smoke"]) == 0
    assert len(bench.made) == 3
    assert Path("runs/mine-smoke/report.html").is_file()
    assert not Path("runs/mine").exists()


def test_a_failed_run_shows_in_the_exit_status(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.fails = lambda run: str(run) == "Flat/eps-1/learning_rate-0.1/seed-0"
    assert main(["mine.yaml"]) == 1
    output = capsys.readouterr().out
    assert "failed Flat/eps-1/learning_rate-0.1/seed-0: RuntimeError: as the test wants" in output
    assert main(["mine.yaml", "--report"]) == 1
    bench.fails = lambda run: False
    assert main(["mine.yaml"]) == 0


def test_two_at_once_are_refused(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    main(["mine.yaml"])
    with FileLock("runs/mine/.lock"):
        assert main(["mine.yaml"]) == 2
    assert "another dplit compare is at work in runs/mine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine.yaml", "--jobs", "0"], "--jobs 0: give a number of runs"),
        (["mine.yaml", "--only", "Flot"], "did you mean Flat?"),
        (["mine.yaml", "--epsilon", "-1"], "epsilon=-1.0 must be a finite number above 0"),
        (["mine.yaml", "--seeds", "1", "1"], "names a value twice"),
        (["mine.yaml", "--out", "."], "holds something that is no comparison"),
        (["mine.yaml", "--smok"], "unrecognized arguments: --smok"),
        ([], ""),
    ],
)
def test_refusals_are_one_line(
    bench: Bench, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) <= 1
    assert bench.made == []
    assert not Path("runs").exists()


def test_ctrl_c_has_a_status_of_its_own(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "carry_out", stop)
    assert main(["mine.yaml"]) == 130
    assert "the same command goes on" in capsys.readouterr().err
