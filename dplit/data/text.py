"""The name that version 0.1 documents for `dplit.data.texts.base.OffensiveText`."""

from dplit.data.texts.base import OffensiveText

__all__ = ["OffensiveText"]
