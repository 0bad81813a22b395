"""Recipes are found by path or name, and each command names the other for its recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dplit.cli.commands.compare import main
from dplit.cli.recipes import find, shipped, summary
from dplit.errors import ConfigurationError


def test_each_command_names_the_other_for_its_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    from dplit.cli.commands.fit import main as fit

    assert fit(["compare_adult"]) == 2
    assert "compare_adult is a recipe for dplit compare" in capsys.readouterr().err
    assert main(["adult_flat"]) == 2
    assert "adult_flat is a recipe for dplit fit" in capsys.readouterr().err
    assert not set(shipped("fit")) & set(shipped("compare"))
    with pytest.raises(ConfigurationError, match="did you mean compare_adult"):
        find("compare_adlut", kind="compare")


def test_a_file_goes_before_a_shipped_recipe_and_is_read_strictly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("adult_flat").parent != tmp_path
    Path("adult_flat").write_text("model: dplit.models.tabular.MLP\n")
    assert find("adult_flat") == Path("adult_flat")
    Path("twice.yaml").write_text("trainer: {}\ntrainer: {}\n")
    for kind in ("fit", "compare"):
        with pytest.raises(ConfigurationError, match=r"twice\.yaml, line 2: the key 'trainer' stands twice"):
            find("twice.yaml", kind=kind)


def test_the_summary_is_the_first_comment(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# What it trains\nmodel: x\n")
    (tmp_path / "b.yaml").write_text("model: x\n")
    assert summary(tmp_path / "a.yaml") == "What it trains"
    assert summary(tmp_path / "b.yaml") == ""
