"""The look of figures: told apart, shown as they are named, and without a trace in matplotlib's global state."""

from __future__ import annotations

import base64
import math
from pathlib import Path

import matplotlib
import pytest

from dplit.fairness import plotting


def test_curves_of_forty_groups_look_different() -> None:
    looks = [tuple(sorted(plotting.of_group_curve(k).items())) for k in range(40)]
    assert len(set(looks)) == 40
    assert [plotting.of_group_curve(k)["color"] for k in range(40)] == [plotting.of_group(k) for k in range(40)]


def test_no_group_looks_like_a_variant() -> None:
    assert not {plotting.of_group(k) for k in range(40)} & {plotting.of_variant(k)["color"] for k in range(40)}


def luminance(colour: str) -> float:
    """Relative luminance of sRGB; source: WCAG 2.1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", sorted({*plotting.GROUP_COLOURS, *plotting.VARIANT_COLOURS, plotting.GREY}))
def test_no_colour_is_faint_on_white(colour: str) -> None:
    assert 1.05 / (luminance(colour) + 0.05) > 1.6


def test_blank_axes_are_by_row_and_share_as_asked() -> None:
    figure, axes = plotting.blank(2, 3, 9.0, 4.0, dpi=50, sharex=True)
    assert [len(row) for row in axes] == [3, 3]
    assert [place for row in axes for place in row] == figure.axes
    assert axes[0][0].get_shared_x_axes().joined(axes[0][0], axes[1][2])
    assert (*figure.get_size_inches(), figure.dpi) == (9.0, 4.0, 50)


def test_a_curve_has_its_values_its_look_and_at_most_30_marks() -> None:
    for n in (1, 30, 31, 301):
        (axes,) = plotting.blank(1, 1, 3.0, 3.0)[1][0]
        values = [math.nan, *map(float, range(1, n))]
        plotting.curve(axes, range(n), values, plotting.of_group_curve(11))
        (line,) = axes.get_lines()
        assert list(line.get_ydata()) == pytest.approx(values, nan_ok=True)
        assert (line.get_color(), line.get_marker(), line.get_linestyle()) == (plotting.of_group(1), "*", "--")
        assert math.ceil(n / line.get_markevery()) <= 30


def test_names_are_shown_as_they_are() -> None:
    figure, ((axes,),) = plotting.blank(1, 1, 3.0, 3.0)
    plotting.curve(axes, [0], [1.0], plotting.of_group_curve(0))
    plotting.legend_below(figure, axes.get_lines(), ["$x^2$"], title="group")
    (text,) = figure.legends[0].get_texts()
    assert text.get_text() == r"\$x^2\$"
    figure.canvas.draw()
    assert figure.legends[0].get_title().get_text() == "group"


def test_undefined_axes_say_so() -> None:
    (axes,) = plotting.blank(1, 1, 3.0, 3.0)[1][0]
    plotting.mark_undefined(axes)
    assert [text.get_text() for text in axes.texts] == ["not defined"]
    assert list(axes.get_yticks()) == []


def test_the_same_figure_is_the_same_text_and_no_setting_moves(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)

    def drawn() -> str:
        figure, ((axes,),) = plotting.blank(1, 1, 3.0, 3.0)
        plotting.curve(axes, [0, 1], [0.0, 1.0], plotting.of_group_curve(0))
        plotting.save(figure, tmp_path / "figure.png")
        return plotting.as_data(figure)

    data = drawn()
    assert drawn() == data
    assert base64.b64decode(data.partition(",")[2]).startswith(b"<?xml")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before
