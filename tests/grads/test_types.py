"""What torch and Lightning leave untyped is named in one file; elsewhere types are real."""

from __future__ import annotations

import ast
from pathlib import Path

import dplit.grads
from dplit.grads import types

FOLDER = Path(dplit.grads.__path__[0])
MAY_SAY_ANY = {
    "types.py",
    "tape/recorded_function.py",  # attributes of an autograd context
    "batch_axis/propagate.py",  # one argument of a torch function
    "coupling/fixed_randomness.py",  # functions that stand in for torch's
    *(
        f"coupling/{name}.py" for name in ("companions", "generators", "lasting_state", "write_watch")
    ),  # values of any kind
    *(f"ownership/{name}.py" for name in ("call", "experiment", "ownership")),  # arguments of an operation, of any kind
    *(
        f"ownership/{name}.py" for name in ("python_reads", "read_trials", "scalar_losses")
    ),  # what Python is given or decides by
    *(
        f"ownership/{name}.py" for name in ("batch_owners", "owner_map", "random_state")
    ),  # batches, states of generators
    *(f"ownership/rules/{name}.py" for name in ("indexing", "reductions")),  # arguments of an operation
}


def says_any(path: Path) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(ast.parse(path.read_text())))


def test_any_is_written_where_torch_has_no_types() -> None:
    files = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.py") if says_any(path)}
    assert files == MAY_SAY_ANY


def test_every_alias_says_what_it_is() -> None:
    tree = ast.parse(Path(types.__file__).read_text())
    names = [node for node in tree.body if isinstance(node, ast.Assign)]
    after = [tree.body[tree.body.index(node) + 1] for node in names]
    assert names
    assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in after)
