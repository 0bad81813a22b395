"""A recipe made into a trainer: where its run goes, and what errors about it become."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import RichProgressBar

from dplit.cli import lightning_cli
from dplit.cli.lightning_cli import RUN_FILES, RecipeCLI, one_line
from dplit.cli.recipes import find
from dplit.errors import ConfigurationError, DplitError

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _in_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dplit"])


def test_overrides_reach_the_trainer_and_runs_are_numbered() -> None:
    Path("runs/adult_flat").mkdir(parents=True)
    recipe_cli = RecipeCLI(find("adult_flat"), ["--trainer.max_epochs", "7"])
    assert recipe_cli.trainer.max_epochs == 7
    assert recipe_cli.trainer.default_root_dir == str(Path("runs/adult_flat-2"))
    assert sum(isinstance(callback, RichProgressBar) for callback in recipe_cli.trainer.callbacks) == 1
    silent = RecipeCLI(find("adult_flat"), ["--trainer.enable_progress_bar", "false"])
    assert not any(isinstance(callback, RichProgressBar) for callback in silent.trainer.callbacks)


@pytest.mark.parametrize("name", RUN_FILES)
def test_a_folder_that_holds_a_run_is_refused(name: str) -> None:
    Path("taken").mkdir()
    Path("taken", name).write_text("")
    with pytest.raises(ConfigurationError, match="taken holds another run"):
        RecipeCLI(find("adult_nonprivate"), ["--trainer.default_root_dir", "taken"])


def law_one_line_of(error: Exception, message: str) -> None:
    with pytest.raises(ConfigurationError) as refused, one_line():
        raise error
    assert str(refused.value) == message


def test_errors_about_the_recipe_become_one_line() -> None:
    law_one_line_of(MisconfigurationException("two\n  lines"), "two")
    law_one_line_of(argparse.ArgumentError(None, "Parser key \"a\": Expected a <class 'int'>"), "a: expected int")
    nested = ValueError("Parser key: class could not be made")
    nested.__cause__ = ConfigurationError("bound=-1 must be above 0")
    law_one_line_of(nested, "bound=-1 must be above 0")


def test_errors_of_the_project_and_of_the_program_pass() -> None:
    for error in (DplitError("as it is"), ValueError("a bug"), KeyError("a bug")):
        with pytest.raises(type(error)) as passed, one_line():
            raise error
        assert passed.value is error


def test_a_mutant_that_hides_the_cause_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightning_cli, "_refusal", lambda error: str(error))
    with pytest.raises(AssertionError):
        test_errors_about_the_recipe_become_one_line()
