"""Colours and marks: the same for a variant, or a group, in every figure, and told apart by any common eye."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

VARIANT_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette without yellow, which is faint on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*", "d")
GROUP_COLOURS = (
    *("#332288", "#DDAA33", "#117733", "#88CCEE", "#882255"),
    *("#44AA99", "#999933", "#CC6677", "#AA4499", "#777777"),
)
"""Tol's muted palette, darker where white shows through; so that no group looks like a variant's line."""
GREY = "#555555"


def of_variant(k: int) -> dict[str, Any]:
    """Return colour and marker of the k-th variant; after seven the marks are hollow."""
    colour = VARIANT_COLOURS[k % len(VARIANT_COLOURS)]
    hollow = k // len(VARIANT_COLOURS) % 2 == 1
    return {"color": colour, "marker": MARKERS[k % len(MARKERS)], "mfc": "white" if hollow else colour, "mec": colour}


def of_group(k: int) -> str:
    """Return the colour of the k-th group."""
    return GROUP_COLOURS[k % len(GROUP_COLOURS)]


def blank(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure of `width` × `height` inches with rows × columns axes, and the axes by row."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(hspace=0.06, wspace=0.04))
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for one in axes.flat:
        one.grid(alpha=0.25, linewidth=0.6)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
    return figure, axes.tolist()


def legend_below(figure: Figure, handles: Sequence[Any], names: Sequence[str], columns: int = 6) -> None:
    """Put a legend under all axes."""
    told = [literal(name) for name in names]
    figure.legend(handles, told, loc="outside lower center", ncols=min(len(told), columns), frameon=False, fontsize=9)


def literal(name: str) -> str:
    """Return a name that matplotlib shows as it is."""
    return name.replace("$", r"\$")


def as_data(figure: Figure) -> str:
    """Return a figure as an SVG in a `data:` address, its text drawn as outlines."""
    stream = BytesIO()
    with rc_context({"svg.hashsalt": "dplit", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()
