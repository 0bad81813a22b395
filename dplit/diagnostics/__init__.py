"""Whose gradients are clipped, which groups the clipped sum follows and who is remembered: exact figures, for public data.

The callback loads on first use, so that the figures need torch alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dplit.diagnostics.callback import SubgroupDiagnostics

__all__ = ["SubgroupDiagnostics"]


def __getattr__(name: str) -> type[SubgroupDiagnostics]:
    if name == "SubgroupDiagnostics":
        from dplit.diagnostics.callback import SubgroupDiagnostics

        return SubgroupDiagnostics
    raise AttributeError(f"module 'dplit.diagnostics' has no attribute {name!r}")
