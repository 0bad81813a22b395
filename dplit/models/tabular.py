"""The name that recipes use for `dplit.models.mlp`."""

from dplit.models.mlp import MLP

__all__ = ["MLP"]
