"""Places at which Python may look at values that depend on examples, because nothing of a gradient follows from what it sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dplit.errors import PrivacyError
from dplit.grads.ownership.blame import Place
from dplit.grads.ownership.python_reads import Read

_SKIPPED_MASK = "a mask is left out where it would mask nothing"
_SKIPPED_EXPERT = "an expert that no row goes to adds nothing"
_ONLY_CHECKED = "it is checked, and an error is raised"

KNOWN: dict[tuple[str, str], str] = {
    ("transformers/masking_utils.py", ""): _SKIPPED_MASK,
    ("transformers/modeling_attn_mask_utils.py", ""): _SKIPPED_MASK,
    ("transformers/integrations/moe.py", "grouped_mm_experts_forward"): "as many rows as were sorted",
    ("transformers/models/mixtral/modeling_mixtral.py", "MixtralExperts.forward"): _SKIPPED_EXPERT,
    ("transformers/models/qwen2_moe/modeling_qwen2_moe.py", "Qwen2MoeExperts.forward"): _SKIPPED_EXPERT,
    ("transformers/models/gpt_oss/modeling_gpt_oss.py", "GptOssExperts.forward"): _SKIPPED_EXPERT,
    ("transformers/models/bart/modeling_bart.py", "BartForSequenceClassification.forward"): _ONLY_CHECKED,
    ("transformers/models/flaubert/modeling_flaubert.py", "FlaubertModel.forward"): _ONLY_CHECKED,
    ("transformers/models/xlm/modeling_xlm.py", "XLMModel.forward"): _ONLY_CHECKED,
}
"""Functions of transformers, by file and name (all of a file where that is empty), whose reads change how
a result is computed, not what it is."""


class Harmless:
    """The places that are known or declared to be harmless.

    Args:
        declared: places as messages name them, such as "model.py:31", or files for all their lines.

    Attributes:
        found: the places from which nothing of the losses was seen to follow.
        met: what was read, with the reason why it passes.
    """

    def __init__(self, declared: Sequence[str] = ()) -> None:
        self.declared = tuple(declared)
        self.found: set[Place] = set()
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
        if read.place in self.found:
            return "nothing of the losses follows from it: seen by giving Python other values"
        return next((why for (file, function), why in KNOWN.items() if read.is_in(file, function)), None)

    def lines(self) -> list[str]:
        """Return a line for each place that was read, with the reason why it passes."""
        return [f"{read}: {why}" for read, why in sorted(self.met.items())]
