"""What the figures of a report share: marks, legends, and which variants appear at which target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dplit.compare.analysis.intervals import Interval
from dplit.compare.analysis.results import Results
from dplit.compare.run.plan import VariantAtEpsilon
from dplit.fairness import plotting


@dataclass(frozen=True)
class Picture:
    """A drawn figure, and one sentence on what to look for.

    Attributes:
        title: above the figure.
        caption: one sentence that begins with "Look for".
        data: the figure as SVG in a `data:` address.
    """

    title: str
    caption: str
    data: str


class Look(TypedDict):
    """Colour and marker of a mark: arguments of matplotlib."""

    color: str
    marker: str
    mfc: str
    mec: str


def epsilons_of(results: Results) -> list[float]:
    """Return the targets that have finished runs."""
    finished = {contender.epsilon for contender in results.contenders}
    return [epsilon for epsilon in results.comparison.epsilons if epsilon in finished]


def contenders_at(results: Results, epsilon: float, *, with_reference: bool = False) -> list[VariantAtEpsilon]:
    """Return the variants with finished runs at one target; `with_reference`, the runs without privacy come last."""
    private = [contender for contender in results.contenders if contender.epsilon == epsilon]
    return [*private, results.reference] if with_reference and results.reference else private


def look_of(results: Results, contender: VariantAtEpsilon) -> Look:
    """Return the colour and marker of a contender: one for each variant, whatever the target."""
    if contender.epsilon is None:
        return {"color": plotting.GREY, "marker": "*", "mfc": plotting.GREY, "mec": plotting.GREY}
    names = [variant.name for variant in results.comparison.variants]
    look = plotting.of_variant(names.index(contender.variant))
    return Look(color=look["color"], marker=look["marker"], mfc=look["mfc"], mec=look["mec"])


def variant_handles(results: Results, reference_line: bool = False) -> list[Line2D]:
    """Return the handles of a legend of variants; the runs without privacy come last, as a mark or a line."""
    variants = {contender.variant: contender for contender in results.contenders if contender.epsilon is not None}
    handles = [
        Line2D([], [], label=name, linestyle="", **look_of(results, contender)) for name, contender in variants.items()
    ]
    if results.reference:
        name = results.reference.variant
        handles.append(
            Line2D([], [], label=name, linestyle=":", color=plotting.GREY)
            if reference_line
            else Line2D([], [], label=name, linestyle="", **look_of(results, results.reference))
        )
    return handles


def group_handles(results: Results) -> list[Patch]:
    """Return the handles of a legend of groups."""
    return [Patch(color=plotting.of_group(k)) for k in range(len(results.groups))]


def draw_mark(axes: Axes, x: float, y: Interval, look: Look, x_half: float = math.nan) -> None:
    """Draw one mark with its intervals; half an interval is NaN where there is none."""
    y = y.drawn
    y_half = None if math.isnan(y.half) else y.half
    axes.errorbar(
        [x],
        [y.mean],
        yerr=y_half,
        xerr=None if math.isnan(x_half) else x_half,
        markersize=6,
        elinewidth=0.9,
        linestyle="",
        **look,
    )
