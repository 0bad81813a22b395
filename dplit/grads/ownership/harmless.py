"""Places at which Python may look at values that depend on examples, because nothing of a gradient follows from what it sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dplit.errors import PrivacyError
from dplit.grads.ownership.python_reads import Read

KNOWN = {
    "transformers/masking_utils.py": "a mask is left out where it would mask nothing",
    "transformers/modeling_attn_mask_utils.py": "a mask is left out where it would mask nothing",
}
"""Files whose reads are known to change how a result is computed, not what it is."""


class Harmless:
    """The places that are known or declared to be harmless.

    Args:
        declared: places as messages name them, such as "model.py:31", or files for all their lines.

    Attributes:
        met: the places that were read, with the reason why they pass.
    """

    def __init__(self, declared: Sequence[str] = ()) -> None:
        self.declared = tuple(declared)
        self.met: dict[str, str] = {}

    def check(self, reads: Iterable[Read]) -> None:
        """Let known and declared places pass.

        Raises:
            PrivacyError: another one, named by file and line.
        """
        for read in reads:
            why = self.why(read)
            if why is None:
                raise PrivacyError(
                    f"Python reads a value that depends on examples: {read}; what it decides by it would depend on all of them. "
                    f"Write it with torch.where or masks, or declare DPStrategy(python_reads=[{str(read.place)!r}]) if no loss "
                    "and no gradient can follow from what is read there"
                )
            self.met[str(read)] = why

    def why(self, read: Read) -> str | None:
        """Return why a place is harmless, or None."""
        if any(str(read.place) == place or str(read.place).rpartition(":")[0] == place for place in self.declared):
            return "declared harmless"
        return next((why for file, why in KNOWN.items() if read.place.file.endswith(file)), None)
