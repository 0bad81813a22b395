"""The figure that models are judged by: accuracy, or perplexity or loss for models without classes, as language models."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import TypeVar

from dplit.fairness.metrics.quality import QUALITIES

FALLBACK = {"overall_accuracy": "overall_loss"}
"""The figure that chooses among grid points where runs lack the one asked for: language models have no accuracy."""

T = TypeVar("T")
TERMS = "false_positive_equality_difference"
"""The sum over identity terms of how far their false positive rates lie from the overall one."""


@dataclass(frozen=True)
class Quality:
    """A figure with a direction.

    Attributes:
        name: of the figure of each group: accuracy, perplexity or loss. Summaries are named after it: `overall_NAME`,
            `worst_group_NAME` and `NAME_gap`.
    """

    name: str

    @property
    def share(self) -> bool:
        """True for a share of examples, where larger is better; False for figures without an upper bound, where smaller is."""
        return self.name == "accuracy"

    def best(self, values: Iterable[float]) -> float:
        """Return the best of some values: the largest share, or the smallest of the others."""
        return max(values) if self.share else min(values)

    @property
    def scale(self) -> float:
        """The factor by which costs are multiplied in tables: 100 for percentage points."""
        return 100.0 if self.share else 1.0

    @property
    def axis(self) -> str:
        """The label of an axis that shows the figure."""
        return "accuracy (share)" if self.share else self.name

    @property
    def cost(self) -> str:
        """The label of an axis that shows a privacy cost."""
        return "cost (points)" if self.share else f"cost ({self.name})"

    @property
    def columns(self) -> dict[str, str]:
        """The figures that tables show, with their column heads."""
        by_name = {
            f"overall_{self.name}": self.name,
            f"worst_group_{self.name}": "worst group",
            f"{self.name}_gap": f"{self.name} gap",
        }
        return (
            by_name
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
        """The differences between groups that are drawn, with their titles."""
        by_name = {f"{self.name}_gap": f"{self.name} gap"}
        return (
            by_name
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
        """The end of the label of an axis that shows a disparity."""
        return " (difference of shares)" if self.share else ""

    def cost_of(self, without: T, private: T) -> tuple[T, T]:
        """Return both figures, in the order in which the first minus the second is the privacy cost: how much worse it is."""
        return (without, private) if self.share else (private, without)


def of(metrics: Container[str]) -> Quality:
    """Return the figure that runs are judged by: the first of accuracy, perplexity and loss that they have, else accuracy.

    Example:
        >>> of({"overall_loss", "loss_gap"}).name
        'loss'
    """
    return Quality(next((name for name in QUALITIES if f"overall_{name}" in metrics), QUALITIES[0]))


def chooser(metric: str, metrics: Container[str]) -> str:
    """Return the figure that grid points are chosen by: `metric`, or its fallback in runs without it.

    Example:
        >>> chooser("overall_accuracy", {"overall_loss"})
        'overall_loss'
    """
    instead = FALLBACK.get(metric, metric)
    return instead if metric not in metrics and instead in metrics else metric
