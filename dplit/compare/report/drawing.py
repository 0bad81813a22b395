"""What the figures share: marks, handles of legends, and which variants stand at which target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dplit import plotting
from dplit.compare.analysis.intervals import Interval
from dplit.compare.analysis.results import Results
from dplit.compare.run.plan import VariantAtEpsilon


@dataclass(frozen=True)
class Picture:
    """A drawn figure: SVG in a `data:` address, and one sentence on what to look for."""

    title: str
    caption: str
    data: str


def epsilons_of(results: Results) -> list[float]:
    """Return the targets that have finished runs."""
    return [e for e in results.comparison.epsilons if any(cell[1] == e for cell in results.cells)]


def cells_at(results: Results, epsilon: float) -> list[VariantAtEpsilon]:
    """Return the variants with finished runs at one target."""
    return [cell for cell in results.cells if cell[1] == epsilon]


def look_of(results: Results, cell: VariantAtEpsilon) -> dict[str, Any]:
    """Return a cell's colour and marker."""
    if cell[1] is None:
        return {"color": plotting.GREY, "marker": "*", "mfc": plotting.GREY, "mec": plotting.GREY}
    return plotting.of_variant([one.name for one in results.comparison.variants].index(cell[0]))


def variant_handles(results: Results, reference_line: bool = False) -> list[Line2D]:
    """Return the handles of a legend of variants; the runs without privacy come last, as a mark or a line."""
    shown = dict.fromkeys(name for name, epsilon in results.cells if epsilon is not None)
    handles = [Line2D([], [], linestyle="", label=n, **look_of(results, (n, 1.0))) for n in shown]
    if results.reference:
        look = (
            {"linestyle": ":", "color": plotting.GREY}
            if reference_line
            else {**look_of(results, results.reference), "linestyle": ""}
        )
        handles.append(Line2D([], [], label=results.reference[0], **look))
    return handles


def group_handles(results: Results) -> list[Patch]:
    """Return the handles of a legend of groups."""
    return [Patch(color=plotting.of_group(g)) for g in range(len(results.groups))]


def mark(one: Axes, x: float, y: Interval, look: dict[str, Any], x_half: float = math.nan) -> None:
    """Draw one mark with its intervals, where there are any."""
    y = y.drawn
    bars: dict[str, Any] = {
        "yerr": None if math.isnan(y.half) else y.half,
        "xerr": None if math.isnan(x_half) else x_half,
    }
    one.errorbar([x], [y.mean], markersize=6, linestyle="", elinewidth=0.9, **bars, **look)
