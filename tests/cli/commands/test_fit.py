"""Every recipe, through the real command line."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dplit.cli.commands.fit import main, yaml_files
from dplit.cli.recipes import shipped, summary
from dplit.grads.ownership.harmless import KNOWN
from dplit.privacy import read

ROOT = Path(__file__).parents[3]


QUICK = ["--trainer.max_epochs", "2", "--data.init_args.batch_size", "4096"]


FEW = ["--trainer.max_epochs", "2", "--trainer.limit_train_batches", "8"]


TEXTS = ["--data.init_args.batch_size", "16", "--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1"]
"""Besides, for models that take long for each text."""


def run(*arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "dplit.fit", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == expect, ran.stderr[-2000:]
    return ran


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def parsed(recipe: str) -> Any:
    return yaml.safe_load(shipped()[recipe].read_text())


def quick(recipe: str) -> list[str]:
    return FEW + (TEXTS if "max_length" in parsed(recipe)["data"]["init_args"] else [])


every_recipe = [
    pytest.param(name, marks=[] if name == "adult_group_quantile" else pytest.mark.slow) for name in shipped()
]


@pytest.mark.parametrize("recipe", every_recipe)
def test_every_recipe_runs_by_itself(recipe: str) -> None:
    ran = run(recipe, *quick(recipe))
    folder = Path("runs") / recipe
    assert f"run directory {folder}" in ran.stdout
    assert "test accuracy" in ran.stdout or "test perplexity" in ran.stdout
    kept = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "metrics.csv", "fairness.csv", "fairness.png", "checkpoints"} <= kept
    with (folder / "fairness.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["epoch"] for row in rows if row["split"] == "validation"} == {"0", "1"}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert len({row["group"] for row in rows} - {""}) >= 2
    if "strategy" in parsed(recipe)["trainer"]:
        law_stated_as_configured(folder, config["trainer"]["strategy"]["init_args"])
        law_no_python_read_is_unexplained(folder)


def law_stated_as_configured(folder: Path, given: dict[str, Any]) -> None:
    """ε just within the target, if there is one; δ, steps and what was released uncharged."""
    stated, noise = json.loads((folder / "privacy.json").read_text()), given["noise"]
    target = noise.get("init_args", noise) if isinstance(noise, dict) else {"delta": given["delta"]}
    assert 0 < stated["epsilon"] <= target.get("epsilon", math.inf)
    assert stated["epsilon"] >= 0.96 * target.get("epsilon", 0.0)
    assert stated["delta"] == target["delta"]
    assert any("val/loss" in line for line in stated["released_without_charge"])
    assert any("fairness.csv" in line for line in stated["released_without_charge"])
    assert read(folder / "ledger.jsonl").steps == stated["steps"] == 16
    assert "ε" in (folder / "privacy.md").read_text()


def law_no_python_read_is_unexplained(folder: Path) -> None:
    """The steps were followed, and Python decided by values of examples nowhere but where the reason is known."""
    reads = json.loads((folder / "privacy.json").read_text())["python_reads"]
    assert reads is not None
    assert [line for line in reads if not line.endswith(tuple(KNOWN.values()))] == []


@pytest.mark.parametrize("recipe", shipped())
def test_recipes_are_short_and_say_what_they_are(recipe: str) -> None:
    assert len(shipped()[recipe].read_text().splitlines()) < 40
    assert summary(shipped()[recipe])


@pytest.mark.slow
def test_resuming_goes_on_in_the_same_ledger_and_another_folder() -> None:
    run("adult_flat", *QUICK)
    longer = ["--trainer.max_epochs", "5", "--data.init_args.batch_size", "4096"]
    ran = run("adult_flat", *longer, "--ckpt_path", "runs/adult_flat/checkpoints/last.ckpt", expect=2)
    assert "is spent already" in ran.stderr
    generous = ["--trainer.strategy.init_args.noise.epsilon", "4"]
    run("adult_flat", *longer, *generous, "--ckpt_path", "runs/adult_flat/checkpoints/last.ckpt")
    stated = json.loads(Path("runs/adult_flat-3/privacy.json").read_text())
    assert 3.0 < stated["epsilon"] <= 4.0
    assert read("runs/adult_flat/ledger.jsonl").steps == stated["steps"] > 16


def test_a_run_is_never_overwritten() -> None:
    Path("taken").mkdir()
    Path("taken/config.yaml").write_text("mine")
    ran = run("adult_flat", "--trainer.default_root_dir", "taken", expect=2)
    assert ran.stderr.strip().splitlines()[-1].startswith("dplit: taken holds another run")
    assert Path("taken/config.yaml").read_text() == "mine"


def test_print_config_prints_and_trains_nothing() -> None:
    printed = yaml.safe_load(run("adult_flat", "--print_config", "--trainer.max_epochs", "7").stdout)
    assert printed["trainer"]["max_epochs"] == 7
    assert printed["trainer"]["strategy"]["class_path"] == "dplit.DPStrategy"
    assert not Path("runs").exists()


def test_an_unknown_recipe_names_the_nearest(capsys: pytest.CaptureFixture) -> None:
    assert main(["adult_flatt"]) == 2
    assert "did you mean adult_flat?" in capsys.readouterr().err


def test_help_lists_every_recipe(capsys: pytest.CaptureFixture) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in shipped())
    assert main([]) == 2


def test_refusing_a_recipe_takes_no_time() -> None:
    """Nothing heavy is imported to say that a recipe does not exist."""
    code = "import sys; from dplit.fit import main; main(['none']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3], capture_output=True)


@pytest.mark.parametrize("how", ["{}", "--config {}", "--config={}"])
def test_a_key_that_stands_twice_is_refused_wherever_it_is(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    """jsonargparse would let the last one win: a strategy that is given twice might not be private."""
    Path("twice.yaml").write_text("trainer: {strategy: dp}\ntrainer: {max_epochs: 1}\n")
    arguments = how.format("twice.yaml").split()
    assert main(arguments if how == "{}" else ["adult_flat", *arguments]) == 2
    assert capsys.readouterr().err.startswith("dplit: twice.yaml, line 2: the key 'trainer' stands twice")
    assert not Path("runs").exists()


def test_files_among_overrides_are_found(tmp_path: Path) -> None:
    Path("a.yaml").write_text("")
    Path("b.yml").write_text("")
    overrides = ["--config", "a.yaml", "--data=b.yml", "--ckpt_path", "c.ckpt", "--model", "none.yaml"]
    assert yaml_files(overrides) == [Path("a.yaml"), Path("b.yml")]
