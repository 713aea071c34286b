"""The pictures of a report, as SVG and PNG that go into its page and take on its colours."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import pairwise

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator

from mlpass.errors import visible
from mlpass.report.labels import Label, Point, place_labels
from mlpass.report.study import Pattern, SweepReport, Trial

# Each stands for a colour of the page, which knows whether it is dark: see `_themed`.
_INK, _GRID, _MAIN, _FAINT, _SECOND, _SOFT = (f"#0{n}0{n}0{n}" for n in range(1, 7))
_NAMES = {
    _INK: "--ink",
    _GRID: "--line",
    _MAIN: "--main",
    _FAINT: "--faint",
    _SECOND: "--second",
    _SOFT: "--soft",
}
_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be read, searched and scaled
    "svg.hashsalt": "mlpass",  # the same report is the same bytes
    "text.parse_math": False,  # a "$" in a layer's name is a "$"
    "font.family": "sans-serif",
    "font.size": 12,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 10,
}
_WIDE, _NARROW = (10.2, 4.4), (5.2, 4.6)  # inches; a page shows the one that fits


def front_figure(report: SweepReport, *, wide: bool) -> str | None:
    """Returns size against quality, a point a trial, as SVG; None where no quality is known.

    Args:
        report: of the sweep.
        wide: whether it is for a screen that is wider than a phone's.
    """
    shown = [
        (number, trial)
        for number, trial in enumerate(report.trials)
        if trial.quality is not None and math.isfinite(trial.quality)
    ]
    if not shown:
        return None
    valued = report.value_before is not None
    # Trials no better than zeros stand at the bottom, however far below: the rest needs the room.
    bottom = -math.inf if valued else -0.06 * max(10.0, *(trial.worth for _, trial in shown))

    unit, scale = ("kB", 1e3) if report.bytes_before < 3e6 else ("MB", 1e6)

    def place(trial: Trial) -> Point:
        return (trial.nbytes or 0) / scale, max(trial.worth, bottom)

    front = sorted(place(trial) for _, trial in shown if trial.front)
    whole = report.bytes_before / scale

    def draw(axes: Axes) -> None:
        for (name, marker, color, area), some in _kinds(shown, valued).items():
            points = axes.scatter(
                [place(trial)[0] for _, trial in some],
                [place(trial)[1] for _, trial in some],
                s=area,
                marker=marker,
                color=color,
                label=name,
                zorder=4 if some[0][1].front else 3,
            )
            points.set_urls([f"#trial-{number}" for number, _ in some])
        if front:  # else what beats them is infinitely good, and not shown
            axes.step(*zip(*front, strict=True), where="post", color=_MAIN, linewidth=1)
        axes.axvline(whole, color=_INK, linewidth=1, linestyle=":")
        if report.value_before is not None:
            axes.axhline(report.value_before, color=_INK, linewidth=1, linestyle=":")
        axes.set_xlabel(f"size ({unit}); dotted: the model as it is")
        axes.set_ylabel("value of evaluate" if valued else "SNR (dB)")
        axes.margins(x=0.06, y=0.1)
        axes.xaxis.set_major_locator(
            MaxNLocator(8 if wide else 4, integer=True, steps=[1, 2, 5, 10])
        )
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, handletextpad=0.2)

    def name_points(axes: Axes) -> None:
        ranked = sorted(shown, key=lambda one: (not one[1].front, -one[1].worth))
        labels = [
            Label(place(t), _short(t.title, 34), *((10, _INK) if t.front else (9, _SOFT)))
            for _, t in ranked
            if t.front or wide
        ]
        steps = [
            line
            for (x, y), (right, up) in pairwise(front)
            for line in (((x, y), (right, y)), ((right, y), (right, up)))
        ]
        low, high = axes.get_ylim()
        place_labels(axes, labels, [*steps, ((whole, low), (whole, high))])

    prefix, size = ("wide", _WIDE) if wide else ("narrow", _NARROW)
    svg = _svg(draw, name_points, prefix, "Size against quality of every config", size)
    return _titled(svg, dict(shown))


def _kinds(
    shown: Sequence[tuple[int, Trial]], valued: bool
) -> dict[tuple[str, str, str, int], list[tuple[int, Trial]]]:
    """Returns the trials by what becomes of them: a name, a marker, a colour and an area each."""
    kinds: dict[tuple[str, str, str, int], list[tuple[int, Trial]]] = {}
    for number, trial in shown:
        if trial.front:
            kind = ("not beaten", "o", _MAIN, 64)
        elif trial.no_better_than_zeros and not valued:
            kind = ("no better than zeros", "v", _SECOND, 36)
        else:
            kind = ("beaten", "o", _FAINT, 36)
        kinds.setdefault(kind, []).append((number, trial))
    return dict(sorted(kinds.items(), reverse=True))


def pattern_image(pattern: Pattern) -> str:
    """Returns the picture of a pattern as the address of a PNG, kept elements in blue."""
    keep = np.array([[bit == "1" for bit in line] for line in pattern.lines])
    picture = np.zeros((*keep.shape, 4), np.uint8)
    picture[keep] = (59, 130, 246, 255)
    buffer = io.BytesIO()
    imsave(buffer, picture, format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _svg(
    draw: Callable[[Axes], object],
    name_points: Callable[[Axes], object],
    prefix: str,
    title: str,
    size: tuple[float, float],
) -> str:
    """Returns what `draw` puts on a pair of axes, with its names, as SVG for the page's body."""
    with rc_context(_STYLE):
        figure = Figure(size, layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.set_axisbelow(True)
        draw(axes)
        figure.draw_without_rendering()
        name_points(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": visible(title)})
    text = buffer.getvalue()
    return _themed(text[text.index("<svg") :], prefix)


def _titled(svg: str, trials: Mapping[int, Trial]) -> str:
    """Returns SVG whose points say which trial they are, to pointers and to what reads pages."""

    def titled(found: re.Match[str]) -> str:
        title = escape(visible(trials[int(found[1])].title))
        return f'{found[0][:-1]} aria-label="{title}"><title>{title}</title>'

    return re.sub(r'<a xlink:href="#trial-(\d+)">', titled, svg)


def _themed(svg: str, prefix: str) -> str:
    """Returns SVG whose colours are the page's, dark or light, and whose names are its own."""
    svg = re.sub(r'( id="|url\(#|<use xlink:href="#)', rf"\1{prefix}-", svg)
    for color, name in _NAMES.items():
        svg = svg.replace(color, f"var({name})")
    svg = svg.replace(' target="_blank"', "")  # links lead within the page
    return svg.replace("<svg ", '<svg class="figure" role="group" ', 1)


def _short(name: str, length: int) -> str:
    """Returns a name as it prints, cut in its middle: configs differ in their ends."""
    name = visible(name)
    if len(name) <= length:
        return name
    half = (length - 1) // 2
    return f"{name[:half]}…{name[-half:]}"
