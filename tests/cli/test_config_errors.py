"""Wrong configuration gets one clear line: key, value, nearest name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dplit.cli.commands.fit import main
from dplit.cli.recipes import find

Edit = Callable[[str], str]


def swap(old: str, new: str) -> Edit:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return edit


def drop(pattern: str) -> Edit:
    return lambda text: re.sub(pattern, "", text)


TARGET = "noise: {class_path: dplit.Target, init_args: {epsilon: 3.0, delta: 1.0e-5}}"


MUTATED: dict[str, tuple[Edit, list[str], str]] = {
    "unknown_trainer_key": (swap("max_epochs: 30", "max_epoch: 3"), [], "'max_epoch'; did you mean max_epochs?"),
    "unknown_top_key": (swap("data:", "dataa:"), [], "did you mean data?"),
    "unknown_argument": (swap("physical_batch_size", "physical_batchsize"), [], "did you mean physical_batch_size?"),
    "unknown_class": (swap("clipping.Flat", "clipping.Flatt"), [], "did you mean Flat?"),
    "unknown_module": (swap("models.tabular", "models.tabula"), [], "did you mean tabular?"),
    "null_bound": (swap("bound: 4.0", "bound: null"), [], "bound=None must be a number"),
    "negative_bound": (swap("bound: 4.0", "bound: -4.0"), [], "bound=-4.0"),
    "zero_epsilon": (swap("epsilon: 3.0", "epsilon: 0"), [], "epsilon=0"),
    "null_epsilon": (swap("epsilon: 3.0", "epsilon: null"), [], "epsilon"),
    "missing_epsilon": (swap("epsilon: 3.0, ", ""), [], "trainer.strategy.noise: the following arguments are required: epsilon"),
    "large_delta": (swap("delta: 1.0e-5", "delta: 1.0"), [], "delta=1"),
    "noise_text": (swap(TARGET, "noise: much"), [], "got much"),
    "noise_null": (swap(TARGET, "noise: null"), [], "noise=None"),
    "broken_yaml": (lambda text: "model: [", [], "line"),
    "not_a_number": (lambda text: text, ["--trainer.max_epochs", "abc"], "trainer.max_epochs: expected int or null, got abc"),
    "not_a_choice": (lambda text: text, ["--fairness.release", "secret"], "expected one of public, flagged, noisy, got secret"),
    "abbreviated": (lambda text: text, ["--trainer.max_epoch", "3"], "did you mean max_epochs?"),
    "large_batch": (lambda text: text, ["--data.init_args.batch_size", "99999"], "batch_size=99999 is larger than"),
    "other_group": (lambda text: text, ["--data.init_args.group", "height"], "sex, race, sex_race, got height"),
    "no_checkpoint": (lambda text: text, ["--ckpt_path", "none.ckpt"], "checkpoint none.ckpt does not exist"),
    "accumulation": (lambda text: text, ["--trainer.accumulate_grad_batches", "4"], "accumulate_grad_batches=4"),
    "thresholds": (
        swap("clipping.Flat, init_args: {bound: 4.0}", "clipping.GroupThresholds, init_args: {thresholds: {Female: 1.0}}"),
        [],
        "the declared groups are Female, Male",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MUTATED)
def test_one_clear_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    edit, overrides, says = MUTATED[name]
    Path("mutated.yaml").write_text(edit(find("adult_flat").read_text()))
    assert main(["mutated.yaml", *overrides]) == 2
    (line,) = [row for row in capsys.readouterr().err.splitlines() if row.startswith("dplit: ")]
    assert says in line
    assert len(line) < 300
    assert not list(Path().glob("runs/*/ledger.jsonl"))
