"""How every figure looks: the same colours and marks for a variant, or a group, told apart with every common colour vision.

Only matplotlib's object interface is used, so that no global figure or setting is touched.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Literal

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

VARIANT_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette without yellow, which is faint on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*", "d")
DASHES = ("-", "--", ":", "-.")
GROUP_COLOURS = (
    *("#332288", "#DDAA33", "#117733", "#88CCEE", "#882255"),
    *("#44AA99", "#999933", "#CC6677", "#AA4499", "#777777"),
)
"""Tol's muted palette, darker where white shows through; so that no group looks like a variant's line."""
GREY = "#555555"

Sharing = bool | Literal["none", "all", "row", "col"]


LineStyle = dict[str, str]
"""What matplotlib's `plot` takes of a line's look, by the names of its arguments."""


def of_variant(k: int) -> LineStyle:
    """Return colour and marker of the k-th variant; the marks of every second seven are hollow."""
    colour = VARIANT_COLOURS[k % len(VARIANT_COLOURS)]
    hollow = k // len(VARIANT_COLOURS) % 2 == 1
    return {"color": colour, "marker": MARKERS[k % len(MARKERS)], "mfc": "white" if hollow else colour, "mec": colour}


def of_group(k: int) -> str:
    """Return the colour of the k-th group."""
    return GROUP_COLOURS[k % len(GROUP_COLOURS)]


def of_group_curve(k: int) -> LineStyle:
    """Return colour, marker and dashes of the k-th group's curve."""
    dashes = DASHES[k // len(GROUP_COLOURS) % len(DASHES)]
    return {"color": of_group(k), "marker": MARKERS[k % len(MARKERS)], "linestyle": dashes}


def blank(
    rows: int,
    columns: int,
    width: float,
    height: float,
    *,
    dpi: float = 100,
    sharex: Sharing = False,
    sharey: Sharing = False,
) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure of `width` × `height` inches with rows × columns axes, and the axes by row.

    Args:
        rows: at least 1.
        columns: at least 1.
        width: in inches.
        height: in inches.
        dpi: dots per inch, for what is saved as pixels.
        sharex: as for `Figure.subplots`.
        sharey: as for `Figure.subplots`.
    """
    figure = Figure(figsize=(width, height), dpi=dpi, layout=ConstrainedLayoutEngine(hspace=0.06, wspace=0.04))
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
    for axes in grid.flat:
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, grid.tolist()


def curve(axes: Axes, positions: Sequence[int], values: Sequence[float], style: LineStyle) -> None:
    """Draw a curve with at most 30 marks; NaN leaves a hole.

    Args:
        axes: to draw on.
        positions: on the lower axis.
        values: as many.
        style: "color", "marker" and "linestyle".
    """
    (line,) = axes.plot(positions, values, linewidth=1.7, markersize=4.5, color=style["color"])
    line.set(marker=style["marker"], linestyle=style["linestyle"], markevery=max(math.ceil(len(values) / 30), 1))


def mark_undefined(axes: Axes) -> None:
    """Say on the axes that none of their values is defined."""
    axes.text(0.5, 0.5, "not defined", transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set_yticks([])


def legend_below(
    figure: Figure, handles: Sequence[Artist], names: Sequence[str], columns: int = 6, title: str | None = None
) -> None:
    """Put a legend under all axes, with names shown as they are."""
    shown = [literal(name) for name in names]
    figure.legend(
        list(handles),
        shown,
        loc="outside lower center",
        ncols=min(len(shown), columns),
        frameon=False,
        fontsize=9,
        title=title,
    )


def literal(name: str) -> str:
    r"""Return a name that matplotlib shows as it is.

    >>> print(literal("$x$"))
    \$x\$
    """
    return name.replace("$", r"\$")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG."""
    figure.savefig(path, format="png")


def as_data(figure: Figure) -> str:
    """Return a figure as an SVG in a `data:` address, its text drawn as outlines."""
    stream = BytesIO()
    with rc_context({"svg.hashsalt": "dplit", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()
