"""What models are judged by: accuracy, or for those that decide nothing, as language models, perplexity or loss."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any, TypeVar

from dplit.fairness.metrics.quality import QUALITIES

FALLBACK = {"overall_accuracy": "overall_loss"}
"""What chooses among grid points in place of a figure that runs do not have: of language models, what they minimise."""

T = TypeVar("T")
TERMS = "false_positive_equality_difference"


@dataclass(frozen=True)
class Quality:
    """A figure with a direction.

    Attributes:
        name: of the metric of each group; with `overall_`, `worst_group_` or `_gap` the name of a summary.
    """

    name: str

    @property
    def share(self) -> bool:
        """Whether it is a share of examples, and larger is better; the others have no bound, and smaller is better."""
        return self.name == "accuracy"

    @property
    def best(self) -> Any:
        """The end of a scale that is best: `max` or `min`."""
        return max if self.share else min

    @property
    def scale(self) -> float:
        """What costs are multiplied by where they are written: 100 for percentage points."""
        return 100.0 if self.share else 1.0

    @property
    def axis(self) -> str:
        """What an axis says."""
        return "accuracy (share)" if self.share else self.name

    @property
    def cost(self) -> str:
        """What the axis of a cost says."""
        return "cost (points)" if self.share else f"cost ({self.name})"

    @property
    def columns(self) -> dict[str, str]:
        """What a table shows, and what it is called there."""
        own = {
            f"overall_{self.name}": self.name,
            f"worst_group_{self.name}": "worst group",
            f"{self.name}_gap": f"{self.name} gap",
        }
        return (
            own
            | {
                "accuracy": {
                    "demographic_parity_difference": "dem. parity diff.",
                    "equalized_odds_difference": "eq. odds diff.",
                },
                "perplexity": {"overall_loss": "loss", "loss_gap": "loss gap"},
                "loss": {},
            }[self.name]
        )

    @property
    def disparities(self) -> dict[str, str]:
        """The differences between groups that are drawn, and what they are called."""
        own = {f"{self.name}_gap": f"{self.name} gap"}
        return (
            own
            | {
                "accuracy": {
                    "demographic_parity_difference": "demographic parity difference",
                    "equalized_odds_difference": "equalized odds difference",
                },
                "perplexity": {"loss_gap": "loss gap"},
                "loss": {},
            }[self.name]
        )

    @property
    def unit(self) -> str:
        """What stands behind the name of a disparity on its axis."""
        return " (difference of shares)" if self.share else ""

    def cost_of(self, without: T, private: T) -> tuple[T, T]:
        """Return the two in the order in which the first minus the second is what privacy cost: how much worse it is."""
        return (without, private) if self.share else (private, without)


def of(metrics: Container[str]) -> Quality:
    """Return what runs with these figures are judged by: the first that they have, else accuracy."""
    return Quality(next((name for name in QUALITIES if f"overall_{name}" in metrics), QUALITIES[0]))


def chooser(metric: str, metrics: Container[str]) -> str:
    """Return the figure that grid points are chosen by: `metric`, or what stands in for it in runs without it."""
    instead = FALLBACK.get(metric, metric)
    return instead if metric not in metrics and instead in metrics else metric
