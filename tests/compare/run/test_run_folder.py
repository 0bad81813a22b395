"""The output folder: nothing outside it is touched, and a damaged mark does not count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dplit.compare.run import plan, run_folder
from dplit.errors import ConfigurationError
from tests.compare.fabricated import comparison


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("mine")
    with pytest.raises(ConfigurationError, match="holds something that is no comparison"):
        run_folder.claim(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]
    with pytest.raises(ConfigurationError, match="is no folder"):
        run_folder.claim(tmp_path / "photo.jpg", {})


def test_nothing_outside_is_touched(tmp_path: Path) -> None:
    out, run = tmp_path / "out", plan.search(comparison())[0]
    run_folder.claim(out, {})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/kept").write_text("mine")
    (out / run.path).parent.mkdir(parents=True)
    (out / run.path).symlink_to(tmp_path / "elsewhere")
    for touch in (lambda: run_folder.prepare(out, run), lambda: run_folder.fail(out, run, "x")):
        with pytest.raises(ConfigurationError, match="leads out of"):
            touch()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["kept"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"digest": "another"}'])
def test_a_damaged_mark_is_no_mark(tmp_path: Path, text: str) -> None:
    run = plan.search(comparison())[0]
    place = run_folder.prepare(tmp_path, run)
    (place / run_folder.DONE).write_text(text)
    assert run_folder.state(tmp_path, run) != "done"
    run_folder.finish(place, run, 1.0)
    assert run_folder.state(tmp_path, run) == "done"
    assert json.loads((place / run_folder.DONE).read_text())["seed"] == run.seed
