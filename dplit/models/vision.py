"""The name that recipes use for `dplit.models.cnn`."""

from dplit.models.cnn import CNN

__all__ = ["CNN"]
