"""Paths: two steps are on the same one if the same operations ran on the same results, whatever the values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dplit.grads.tape.path import Path


class Noted(TorchFunctionMode):
    """Adds each torch function to a path."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.path.note(func, args, kwargs or {}, [result] if isinstance(result, Tensor) else [])
        return result


Body = Callable[[Tensor, Tensor], object]


def walked(body: Body, n: int = 4, width: int = 6, seed: int = 0) -> Path:
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, width, generator=g), torch.randn(n, width, generator=g)
    path = Path(n, [x, y])
    with Noted(path):
        body(x, y)
    return path


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_other_values_and_lengths_are_on_the_same_path(n: int) -> None:
    def body(x: Tensor, y: Tensor) -> object:
        return (x * y).sum(1).view(n, 1).exp()

    expected = walked(body, n, 17)
    assert expected.digest == walked(body, n, 17, seed=1).digest
    assert expected.digest == walked(body, n, 19).digest


BODIES: dict[str, Body] = {
    "nothing": lambda x, y: x,
    "a function": lambda x, y: x.sin(),
    "another function": lambda x, y: x.cos(),
    "its argument": lambda x, y: y.sin(),
    "the order": lambda x, y: (x.sin(), y.sin()),
    "the other order": lambda x, y: (y.sin(), x.sin()),
    "what goes into what": lambda x, y: x.sin().cos(),
    "what goes into what else": lambda x, y: (x.sin(), x.cos()),
    "a dimension": lambda x, y: x.sum(0),
    "another dimension": lambda x, y: x.sum(1),
    "the last dimension": lambda x, y: x.sum(-1),
    "the last but one": lambda x, y: x.sum(-2),
    "a type": lambda x, y: x.double(),
    "a setting": lambda x, y: x.sum(1, keepdim=True),
    "another setting": lambda x, y: x.sum(1, keepdim=False),
    "a place": lambda x, y: x[0],
    "another place": lambda x, y: x[1],
    "a slice": lambda x, y: x[1:],
    "n rows": lambda x, y: x.reshape(4, 6),
    "other rows": lambda x, y: x.reshape(6, 4),
}


def test_what_rules_look_at_is_told_apart() -> None:
    digests = {name: walked(body).digest for name, body in BODIES.items()}
    assert len(set(digests.values())) == len(BODIES), digests


def test_a_fraction_is_a_value_and_no_part_of_the_path() -> None:
    one, two = walked(lambda x, y: x * 0.5), walked(lambda x, y: x * 0.25)
    assert one.digest == two.digest
    assert one.values != two.values


def test_mutant_a_digest_that_forgets_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "_sketch", lambda self, value, sizes: 0)
    digests = {name: walked(body).digest for name, body in BODIES.items()}
    assert len(set(digests.values())) < len(BODIES)


def test_mutant_a_digest_that_never_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "digest", property(lambda self: 0, lambda self, value: None), raising=False)
    assert walked(BODIES["a function"]).digest == walked(BODIES["another function"]).digest
