"""The name that recipes use for `dplit.models.sequence_classifier`."""

from dplit.models.sequence_classifier import SequenceClassifier

__all__ = ["SequenceClassifier"]
