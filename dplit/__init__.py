"""Differentially private training in Lightning, with its effect on subgroups visible and steerable.

The names below load on first use, so that accounting and ledger reading never import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import wrapt

from dplit.training import strategies

if TYPE_CHECKING:
    from dplit import clipping, diagnostics, fairness, grads, privacy
    from dplit.privacy.calibration import Target
    from dplit.training.strategies.single_device import DPStrategy

__version__ = "0.1.0"
__all__ = ["DPStrategy", "Target", "clipping", "diagnostics", "fairness", "grads", "privacy"]

_MODULE_OF = {"DPStrategy": "dplit.training.strategies.single_device", "Target": "dplit.privacy.calibration"}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    if name in __all__:
        return import_module(f"dplit.{name}")
    raise AttributeError(f"module 'dplit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


@wrapt.when_imported("lightning.pytorch.strategies")  # type: ignore[untyped-decorator, unused-ignore]
def _register_by_name(lightning: Any) -> None:
    """`Trainer(strategy="dp")`, whichever of lightning and dplit is imported first."""
    strategies.register(lightning.StrategyRegistry)
