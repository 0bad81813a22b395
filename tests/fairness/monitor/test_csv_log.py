"""The tidy file: its columns, and that no run writes to the file of another."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor

import pytest

from dplit.fairness import FairnessMonitor
from dplit.fairness.monitor import csv_log
from dplit.fairness.monitor.csv_log import HEADER, append, claim
from tests.fairness.fairness_project import NAMES, Model, Project
from tests.fairness.monitor.test_display import snapshot
from tests.fairness.monitor.test_monitor import PER_GROUP, SUMMARY, fitted, read

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
]


def test_file_is_tidy(trainer, tmp_path):
    fitted(trainer)
    frame = read(tmp_path)
    assert tuple(frame.columns) == HEADER
    assert len(frame) == 2 * (len(PER_GROUP) * len(NAMES) + len(SUMMARY))
    assert set(frame.split) == {"validation"}
    assert list(frame.step.unique()) == [2, 4]
    assert frame.epsilon.isna().all()


def test_another_runs_file_is_left_alone(trainer, tmp_path):
    (tmp_path / "fairness.csv").write_text("theirs")
    (tmp_path / "fairness-1.png").write_text("theirs too")
    fitted(trainer)
    assert (tmp_path / "fairness.csv").read_text() == "theirs"
    assert (tmp_path / "fairness-1.png").read_text() == "theirs too"
    assert tuple(read(tmp_path, "fairness-2.csv").columns) == HEADER
    assert (tmp_path / "fairness-2.png").exists()


def test_each_fit_has_its_own_file(trainer, tmp_path):
    monitor = FairnessMonitor(table=False)
    for _ in range(2):
        trainer(monitor, max_epochs=1).fit(Model(), datamodule=Project())
    assert len(read(tmp_path)) == len(read(tmp_path, "fairness-1.csv"))


def law_every_claim_gets_its_own_file(folder):
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: claim(folder, "fairness.csv"), range(24)))
    assert len(set(paths)) == 24
    assert {path.name for path in paths} == {"fairness.csv", *(f"fairness-{i}.csv" for i in range(1, 24))}


def test_every_claim_gets_its_own_file(tmp_path):
    law_every_claim_gets_its_own_file(tmp_path / "new")


def test_mutant_look_before_creating(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_log, "_create", lambda path: not path.exists())
    with pytest.raises(AssertionError):
        law_every_claim_gets_its_own_file(tmp_path)


def test_lines_are_appended_below_the_header(tmp_path):
    path, shot = claim(tmp_path, "fairness.csv"), snapshot(epsilon=1.0, delta=1e-5, epsilon_by_group={"Female": 0.5})
    append(path, shot)
    append(path, shot)
    with path.open(newline="") as file:
        header, *lines = csv.reader(file)
    assert tuple(header) == HEADER
    assert len(lines) == 2 * (len(shot.rows) + 1)
    assert lines[-1] == ["3", "120", "1.0", "1e-05", "validation", "Female", "epsilon", "0.5"]
