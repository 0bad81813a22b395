"""Lightning strategies that train privately, one file for each kind of device setup.

A file holds one strategy, a subclass of `PrivateHooks` before a strategy of Lightning, and is found by being here:
`Trainer(strategy="dp")` is `single_device`, and a file NAME is `Trainer(strategy="dp_NAME")`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dplit.discovery import defined_in, module_names

if TYPE_CHECKING:
    from dplit.training.strategies.private import PrivateHooks

SHARED = "private"
"""The file of what all strategies have in common."""


def names() -> dict[str, str]:
    """Return the file of each strategy by the name that a Trainer takes; nothing is imported."""
    files = [name for name in module_names(__path__) if name != SHARED]
    return {"dp" if file == "single_device" else f"dp_{file}": file for file in files}


def strategy_class(name: str) -> type[PrivateHooks]:
    """Return the strategy with this name, as `names` has it."""
    from dplit.training.strategies.private import PrivateHooks

    (strategy,) = defined_in(import_module(f"{__name__}.{names()[name]}"), PrivateHooks)
    return strategy


def register(registry: Any) -> None:
    """Put every strategy into Lightning's registry; its file is imported when it is first asked for by name."""
    for name in names():
        registry.register(name, _maker(name), description="DP-SGD with ghost clipping (dplit)", override=True)


def _maker(name: str) -> Any:
    def make(**options: Any) -> PrivateHooks:
        return strategy_class(name)(**options)

    return make
