"""Rules are found by being there: every file of rules registers some, and each operation has one."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.errors import UnsupportedOperation
from dplit.grads import Tape, rules
from dplit.grads.tape import registry

FILES = [module.name for module in iter_modules(rules.__path__)]


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_rules_registers_some(name: str) -> None:
    module = f"dplit.grads.rules.{name}"
    import_module(module)
    assert [f for f in (*registry.RULES.values(), *registry.VJP_RULES.values()) if f.__module__ == module]


def test_options_are_of_operations_with_a_rule() -> None:
    assert set(registry.RULES) >= registry.TAKES_ANY_BATCH_AXIS
    assert set(registry.RULES) >= registry.TAKES_NO_DATA


def test_a_new_rule_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a rule, `torch.cdist` of a parameter is refused; with one, the rule is called with the tape."""
    monkeypatch.setattr(registry, "RULES", dict(registry.RULES))
    module, x = nn.Linear(3, 3), torch.randn(4, 3)
    with pytest.raises(UnsupportedOperation, match="cdist"), Tape(module, 4):
        torch.cdist(x, module.weight)

    @registry.rule(torch.cdist)
    def distances(tape: Tape, a: Tensor, b: Tensor, **options: object) -> Tensor:
        assert tape.tracked(b) is not None
        return tape.apply_rule(F.linear, a, b)

    with Tape(module, 4) as tape:
        losses = torch.cdist(x, module.weight).sum(1)
    assert torch.allclose(tape.backward(losses).norms(), (3**0.5) * x.norm(dim=1))
