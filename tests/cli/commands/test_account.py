import json
import subprocess
import sys

import pytest

from dplit.cli.commands import account
from dplit.privacy import Gaussian, Journal, Ledger, Sampled, Target, calibrate, epsilon
from dplit.privacy.planning import advise

TYPICAL = ["--rate", "0.01", "--steps", "1000", "--delta", "1e-5"]


def answered(capsys, *arguments):
    assert account.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_epsilon_of_a_plan(capsys):
    bound = epsilon([(Sampled(0.01, [Gaussian(1.0)]), 1000)], 1e-5)
    answer = answered(capsys, *TYPICAL, "--noise-multiplier", "1.0")
    assert (answer["lower"], answer["estimate"], answer["epsilon"]) == tuple(bound)
    assert account.main([*TYPICAL, "--noise-multiplier", "1.0"]) == 0
    out = capsys.readouterr().out
    assert "epsilon 1.8328 at delta 1e-05" in out
    assert "certified from 1.82" in out


def test_joint_queries(capsys):
    answer = answered(capsys, *TYPICAL, "--noise-multiplier", "1.00504", "--query-noise", "10", "--query-noise", "inf")
    assert answer["joint_noise_multiplier"] == pytest.approx(1.0, abs=1e-5)


def test_noise_for_a_target(capsys):
    answer = answered(capsys, *TYPICAL, "--epsilon", "3", "--query-noise", "10")
    assert answer["noise_multiplier"] == calibrate(Target(3, 1e-5), rate=0.01, steps=1000, queries=[10.0])
    assert answer["epsilon"] <= 3
    assert account.main([*TYPICAL, "--epsilon", "3"]) == 0
    assert capsys.readouterr().out.startswith("noise multiplier 0.81")


def test_a_finished_run(capsys, tmp_path):
    path = tmp_path / "ledger.jsonl"
    with Journal.create(path) as journal:
        ledger = Ledger(journal)
        ledger.record(Sampled(0.01, [Gaussian(1.0)], {"a": Sampled(0.01, [Gaussian(2.0)])}), times=1000)
        ledger.note("fixed noise seed")
    answer = answered(capsys, "--journal", str(path), "--delta", "1e-5", "--group", "a", "--group", "b")
    assert answer["epsilon"] == ledger.epsilon(1e-5).upper
    assert answer["groups"] == {"a": ledger.epsilon(1e-5, group="a").upper, "b": None}
    assert account.main(["--journal", str(path), "--delta", "1e-5", "--group", "b"]) == 0
    out = capsys.readouterr().out
    assert "1000 steps recorded" in out
    assert "b: not stated separately" in out
    assert "note: fixed noise seed" in out


def a_run(folder, unit=None):
    with Journal.create(folder / "ledger.jsonl") as journal:
        ledger = Ledger(journal)
        ledger.declare_groups(["a", "b"])
        for _ in range(870):
            ledger.record(Sampled(0.01, [Gaussian(1.0)], {"a": Sampled(0.01, [Gaussian(2.0)])}), unit=unit)
        for split in ("validation", "test"):
            ledger.record(Sampled(1.0, [Gaussian(4.0)], {"a": Sampled(1.0, [Gaussian(8.0)])}), 2, split, unit)
    return folder / "ledger.jsonl", ledger


@pytest.mark.parametrize("lines", [1, 300])
def test_a_journal_whose_end_was_cut_off_is_one_line(capsys, tmp_path, lines):
    path, _ = a_run(tmp_path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-lines]))
    assert account.main(["--journal", str(path), "--delta", "1e-5"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"has {873 - lines} entries, ledger.head beside it says 873: its end was cut off" in err


def test_what_the_end_was_compared_with_is_said(capsys, tmp_path):
    path, _ = a_run(tmp_path)
    assert account.main(["--journal", str(path), "--delta", "1e-5"]) == 0
    assert "870 steps recorded; its end agrees with ledger.head beside it" in capsys.readouterr().out
    path.with_suffix(".head").unlink()
    assert account.main(["--journal", str(path), "--delta", "1e-5"]) == 0
    assert "nothing lies beside the journal that would tell whether its end was cut off" in capsys.readouterr().out


@pytest.mark.parametrize(("unit", "said"), [(None, "one record"), ("user", "all records with the same 'user'")])
def test_the_journal_alone_says_unit_groups_and_splits(capsys, tmp_path, unit, said):
    path, ledger = a_run(tmp_path, unit)
    answer = answered(capsys, "--journal", str(path), "--delta", "1e-5")
    assert answer["epsilon"] == ledger.epsilon(1e-5).upper
    assert answer["groups"] == {"a": ledger.epsilon(1e-5, group="a").upper, "b": None}
    assert answer["counted_together"] == [["test", "validation"], ["train"]]
    assert said in answer["unit"]
    assert account.main(["--journal", str(path), "--delta", "1e-5"]) == 0
    out = capsys.readouterr().out
    assert "added up, as one record may be in all: test, validation" in out
    assert said in out


ADVICE = ["--records", "2000", "--epsilon", "3", "--delta", "1e-5", "--epochs", "3"]


def test_advice_on_the_batch_size(capsys):
    sizes = ["--batch-size", "64", "--batch-size", "250"]
    answer = answered(capsys, *ADVICE, *sizes, "--least-steps", "20", "--query-noise", "20")
    advised = advise(2000, Target(3, 1e-5), epochs=[3], batch_sizes=[64, 250], least_steps=20, queries=[20.0]).advised
    assert answer["advised"] == {**advised._asdict(), "effective_noise": advised.effective_noise}
    (best,) = [plan for plan in answer["plans"] if plan.pop("best")]
    assert best == answer["advised"]
    assert account.main([*ADVICE, "--batch-size", "64", "--batch-size", "2000"]) == 0
    out = capsys.readouterr().out
    assert "2000 records, epsilon 3 at delta 1e-05" in out
    assert "start with: batch size 64, 3 epochs = 96 steps" in out
    assert "learning rate" in out


def test_slow_advice_says_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr(account, "PATIENCE", -1.0)
    answered(capsys, *ADVICE, "--batch-size", "2000")
    account.main([*ADVICE, "--batch-size", "2000"])
    assert capsys.readouterr().err == "dplit: 0 of 1 plans calibrated\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--delta"),
        (["--delta", "1e-5"], "--rate and --steps is missing"),
        (TYPICAL, "--noise-multiplier"),
        ([*TYPICAL, "--noise-multiplier", "1", "--epsilon", "3"], "--noise-multiplier"),
        ([*TYPICAL, "--noise-multiplier", "one"], "--noise-multiplier"),
        ([*TYPICAL, "--noise-multiplier", "-1"], "noise_multiplier=-1.0"),
        ([*TYPICAL, "--noise-multiplier", "nan"], "noise_multiplier=nan"),
        ([*TYPICAL, "--epsilon", "3", "--query-noise", "0.1"], "cannot be reached"),
        (["--rate", "2", "--steps", "10", "--delta", "1e-5", "--noise-multiplier", "1"], "rate=2.0"),
        (["--rate", ".1", "--steps", "0", "--delta", "1e-5", "--noise-multiplier", "1"], "steps=0"),
        (["--rate", ".1", "--steps", "10", "--delta", "1", "--noise-multiplier", "1"], "delta=1.0"),
        (["--journal", "missing.jsonl", "--delta", "1e-5"], "missing.jsonl does not exist"),
        (["--journal", "missing.jsonl", *TYPICAL], "--rate has no meaning beside --journal"),
        ([*TYPICAL, "--noise", "1"], "--noise"),
        (["--records", "100", "--delta", "1e-3"], "--epsilon is missing"),
        (["--records", "0", "--epsilon", "3", "--delta", "1e-3"], "records=0"),
        (["--records", "100", "--epsilon", "0", "--delta", "1e-3"], "epsilon=0"),
        (["--records", "100", "--epsilon", "3", "--delta", "1e-3", "--epochs", "0"], "epochs=0"),
        (["--records", "100", "--epsilon", "3", "--delta", "1e-3", "--batch-size", "101"], "batch_size=101"),
        (["--records", "100", "--epsilon", "3", "--delta", "1e-3", "--least-steps", "0"], "least_steps=0"),
        (["--records", "100", "--epsilon", "3", *TYPICAL], "--rate has no meaning beside --records"),
        ([*TYPICAL, "--epsilon", "3", "--epochs", "3"], "--epochs has no meaning without --records"),
        ([*TYPICAL, "--epsilon", "3", "--group", "a"], "--group has no meaning without --journal"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, message):
    assert account.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dplit: ")
    assert err.count("\n") == 1
    assert message in err


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as caught:
        account.main(["--help"])
    assert caught.value.code == 0
    assert "dplit account --rate 0.01" in capsys.readouterr().out


def test_neither_the_command_nor_the_package_imports_torch():
    code = (
        "import sys, runpy; import dplit.privacy, dplit.privacy.statement; import dplit\n"
        "sys.argv = ['account', '--rate', '.01', '--noise-multiplier', '2', '--steps', '10', '--delta', '1e-5']\n"
        "try: runpy.run_module('dplit.account', run_name='__main__')\n"
        "except SystemExit as leaving: assert not leaving.code, leaving.code\n"
        "heavy = {name.split('.')[0] for name in sys.modules} & {'torch', 'lightning', 'pandas', 'matplotlib'}\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "epsilon" in done.stdout


def test_another_accountant_by_name(capsys, tmp_path):
    event = Sampled(0.01, [Gaussian(1.0)])
    wide = epsilon([(event, 1000)], 1e-5, "rdp").upper
    assert answered(capsys, *TYPICAL, "--noise-multiplier", "1.0", "--accountant", "rdp")["epsilon"] == wide
    noise = answered(capsys, *TYPICAL, "--epsilon", "3", "--accountant", "rdp")["noise_multiplier"]
    assert noise == calibrate(Target(3, 1e-5), rate=0.01, steps=1000, accountant="rdp")
    with Journal.create(tmp_path / "ledger.jsonl") as journal:
        Ledger(journal).record(event, times=1000)
    spent = answered(capsys, "--journal", str(tmp_path / "ledger.jsonl"), "--delta", "1e-5", "--accountant", "rdp")
    assert spent["epsilon"] == wide
    plans = answered(capsys, *ADVICE, "--batch-size", "200", "--accountant", "rdp")["plans"]
    assert plans[0]["noise_multiplier"] == calibrate(Target(3, 1e-5), rate=0.1, steps=30, accountant="rdp")
    assert account.main([*TYPICAL, "--noise-multiplier", "1.0", "--accountant", "rdpp"]) == 2
    assert capsys.readouterr().err == "dplit: accountant='rdpp' is not known; did you mean 'rdp'?\n"
