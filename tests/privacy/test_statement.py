import json
import math

import pytest

from dplit.errors import ConfigurationError, PrivacyError
from dplit.privacy import Gaussian, Ledger, Sampled, Target
from dplit.privacy import statement as report
from dplit.privacy.statement import Facts, rounded_up, statement, write_statement

STEP = Sampled(0.01, [Gaussian(1.0)], {"a": Sampled(0.01, [Gaussian(2.0)]), "b": Sampled(0.01, [Gaussian(1.0)])})


@pytest.fixture
def ledger():
    found = Ledger()
    found.record(STEP, times=1000)
    found.record(Gaussian(50.0), times=3, split="validation")
    return found


def facts(**changes):
    settings = {
        "delta": 1e-5,
        "groups": ["a", "b", "stranger"],
        "policy": "GroupThresholds",
        "parameters": {"bounds": {"a": 0.5, "b": 1.0}},
        "noise_multipliers": {"gradient": 1.0},
        "rate": 0.01,
        "expected_batch_size": 300.0,
        "dataset_size": 30000,
        "released_without_charge": ["train_loss"],
        "journal": "ledger.jsonl",
        "target": Target(3.0, 1e-5),
    }
    return Facts(**{**settings, **changes})


def test_the_statement_says_upper_bounds(ledger):
    found = statement(ledger, facts())
    assert found["epsilon"] == ledger.epsilon(1e-5).upper > found["bracket"]["estimate"]
    assert found["groups"]["a"] == ledger.epsilon(1e-5, group="a").upper < found["groups"]["b"]
    assert found["groups"]["stranger"].startswith("not stated separately")
    assert found["splits"]["validation"] == ledger.epsilon(1e-5, split="validation").upper
    assert found["delta"] == 1e-5
    assert found["steps"] == 1000
    assert found["warnings"] == []
    assert found["released_without_charge"] == ["train_loss"]
    assert "add or remove one record" in found["adjacency"]
    assert "0.2.0" in found["accountant"]
    assert {"python", "dplit", "torch", "lightning", "prv-accountant", "numpy"} <= set(found["versions"])


def test_what_voids_it_is_said(ledger):
    ledger.note("the noise seed was fixed (7)")
    found = statement(ledger, facts())
    assert found["voided_by"][0] == "the noise seed was fixed (7)"
    assert any("trying several" in line for line in found["voided_by"])
    assert any("seed" in line for line in found["voided_by"][1:])
    assert "**the noise seed was fixed (7)** (this run)" in report.markdown(found)


def law_every_section_is_said(stated):
    """What is assumed, read, released, and decides: each under a heading of its own, and "nothing" where there is none."""
    text = report.markdown(stated)
    sections = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    headings = {
        "Assumed, and not checked": "assumptions",
        "Where Python decides by values of examples": "python_reads",
        "Released without charge": "released_without_charge",
        "What steers training beside the noisy gradients": "steered_by",
    }
    for heading, key in headings.items():
        bullets = [line.removeprefix("- ") for line in sections[heading].strip().splitlines()]
        assert bullets == (stated[key] or [bullets[0]])
        assert bullets[0] in ("nothing", "nowhere", "Not looked for in this run.") or stated[key]


@pytest.mark.parametrize("told", [True, False])
def test_every_section_is_said(ledger, told):
    lines = {"assumptions": ["public"], "python_reads": ["m.py:3: `if x`"], "steered_by": ["val_loss"]} if told else {}
    found = statement(ledger, facts(**lines))
    assert found["assumptions"][-1] == "public" or not told
    law_every_section_is_said(found)


@pytest.mark.parametrize(("reads", "said"), [(None, "Not looked for in this run."), ([], "- nowhere"), (["a"], "- a")])
def test_nobody_looked_is_not_nothing_found(ledger, reads, said):
    found = statement(ledger, facts(python_reads=reads))
    assert found["python_reads"] == reads
    assert f"values of examples\n\n{said}\n" in report.markdown(found)


def test_mutant_section_left_out_is_caught(ledger, monkeypatch):
    monkeypatch.setattr(report, "_assumptions", lambda facts: [])
    with pytest.raises((AssertionError, IndexError)):
        law_every_section_is_said(statement(ledger, facts()))


@pytest.mark.parametrize(("person", "said"), [(None, "a person has one record"), ("user", "'user' tells all records")])
def test_the_unit_is_the_first_assumption(ledger, person, said):
    assert statement(ledger, facts(person=person))["assumptions"][0].startswith(said)
    assert any("number of persons" in line for line in statement(ledger, facts(person="user"))["assumptions"])


def test_no_epsilon_is_stated_for_a_split_whose_exact_figures_left(ledger):
    ledger.record(Gaussian(50.0), split="validation/1")
    ledger.record(Gaussian(50.0), split="test")
    found = statement(ledger, facts(exact_figures={"validation": ["val/loss", "val/accuracy"], "test": []}))
    for split in ("validation", "validation/1"):
        assert found["splits"][split].startswith("not stated")
        assert found["splits"][split].endswith("val/loss, val/accuracy")
    assert found["splits"]["test"] == ledger.epsilon(1e-5, split="test").upper
    assert found["splits"]["train"] == ledger.epsilon(1e-5, split="train").upper
    assert "validation ε = not stated" in report.markdown(found)


def test_warnings(ledger):
    (weak,) = statement(ledger, facts(dataset_size=100000))["warnings"]
    assert "1/100000" in weak
    (over,) = statement(ledger, facts(target=Target(1.0, 1e-5)))["warnings"]
    assert "above the target" in over
    assert "nothing was recorded" in statement(Ledger(), facts())["warnings"][0]


def test_both_files_are_written_whole(ledger, tmp_path):
    place = tmp_path / "run"
    found = write_statement(place, ledger, facts().releasing(["train_loss", "val/accuracy"]))
    assert json.loads((place / "privacy.json").read_text()) == found
    text = (place / "privacy.md").read_text()
    for said in ("ε = 1.83", "δ = 1e-05", "| a | ", "val/accuracy", "GroupThresholds(bounds=", "Poisson", "1000 steps"):
        assert said in text
    assert sorted(entry.name for entry in place.iterdir()) == ["privacy.json", "privacy.md"]


def test_a_failed_write_leaves_the_old_file(ledger, tmp_path, monkeypatch):
    write_statement(tmp_path, ledger, facts())
    before = (tmp_path / "privacy.json").read_bytes()
    ledger.record(STEP, times=500)

    def full(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr("dplit.files.os.fsync", full)
    with pytest.raises(PrivacyError, match=r"^[^\n]*no space left[^\n]*$"):
        write_statement(tmp_path, ledger, facts())
    assert (tmp_path / "privacy.json").read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["privacy.json", "privacy.md"]


def test_infinite_noise_is_json(ledger):
    text = json.dumps(statement(ledger, facts(noise_multipliers={"counts": math.inf})), allow_nan=False)
    assert '"counts": "inf"' in text


def test_sparse_facts_are_enough(ledger):
    assert "None" not in report.markdown(statement(ledger, Facts(1e-5)))


def test_impossible_delta():
    with pytest.raises(ConfigurationError, match="delta="):
        facts(delta=0)


@pytest.mark.parametrize(("eps", "text"), [(1.832701, "1.8328"), (878.624, "878.63"), (0, "0"), (5.1e6, "5100000")])
def test_epsilon_is_rounded_up(eps, text):
    assert rounded_up(eps) == text
    assert float(rounded_up(eps)) >= eps
