"""`dplit`: lists its commands, finds new ones by itself, and names the nearest of an unknown one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import dplit
from dplit.cli import commands
from dplit.cli import main as cli
from dplit.cli.main import main

ROOT = Path(__file__).parents[2]


def test_every_command_is_listed_with_a_summary_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    assert {"account", "compare", "fit"} <= set(cli.names())
    for name in cli.names():
        summary, example = cli.describe(name)
        assert summary
        assert example.startswith(f"dplit {name} ")
        assert not example.endswith("--help")
        assert f"  {name:<10} {summary}\n" in output
        assert f"  {example}\n" in output


def test_without_arguments_the_help_is_printed_and_the_status_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().out == cli.help_text()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dplit {dplit.__version__}\n"


@pytest.mark.parametrize(
    ("name", "message"), [("fti", "did you mean fit?"), ("xyz", "the commands are account"), ("--fit", "there is no")]
)
def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str], name: str, message: str) -> None:
    assert main([name]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("dplit: ")
    assert error.count("\n") == 1


def test_a_new_file_is_a_new_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "greet.py").write_text(
        '"""Says hello.\n\n    dplit greet you\n"""\n\ndef main(arguments):\n    print("hello", *arguments)\n    return 7\n'
    )
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    monkeypatch.setattr(cli, "files", lambda package: tmp_path)
    assert "greet" in cli.names()
    assert cli.describe("greet") == ("Says hello", "dplit greet you")
    assert main(["greet", "you"]) == 7
    assert capsys.readouterr().out == "hello you\n"


def test_a_command_gets_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["account", "--journal", "none.jsonl", "--delta", "1e-5"]) == 2
    assert "none.jsonl does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    "module", ["dplit --version", "dplit --help", "dplit account --help", "dplit fit --help", "dplit compare --help"]
)
def test_help_imports_nothing_heavy(module: str) -> None:
    code = (
        "import sys, runpy\n"
        f"sys.argv = {module.split()!r}\n"
        "try: runpy.run_module('dplit', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {name.split('.')[0] for name in sys.modules} & {'torch', 'lightning', 'matplotlib', 'pandas'}\n"
        "assert not heavy, heavy\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
