"""The public name of the warning `dplit.data.texts.base.OffensiveText`."""

from dplit.data.texts.base import OffensiveText

__all__ = ["OffensiveText"]
