"""The pictures of a report, as SVG and PNG that go into its page and take on its colours."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import FuncFormatter, NullLocator

from mlpass.errors import visible
from mlpass.report.study import Pattern, SweepReport, Trial

# Each stands for a colour of the page, which knows whether it is dark: see `_themed`.
_INK, _GRID, _MAIN, _FAINT = "#010101", "#020202", "#030303", "#040404"
_SERIES = ("#030303", "#050505", "#060606", "#070707", "#080808")
_NAMES = {
    _INK: "--ink",
    _GRID: "--line",
    _MAIN: "--main",
    _FAINT: "--faint",
    **dict(zip(_SERIES[1:], ("--second", "--third", "--fourth", "--fifth"), strict=True)),
}
_MARKERS = ("o", "s", "^", "D", "v")
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
_LAYERS = 20  # bars that can still be read on a phone


def front_figure(report: SweepReport) -> str | None:
    """Returns size against quality, a point a trial, as SVG; None where no quality is known."""
    shown = [
        (number, trial)
        for number, trial in enumerate(report.trials)
        if trial.quality is not None and math.isfinite(trial.quality)
    ]
    if not shown:
        return None
    valued = report.value_before is not None

    def draw(axes: Axes) -> None:
        for front in (False, True):
            some = [(number, trial) for number, trial in shown if trial.front == front]
            points = axes.scatter(
                [_megabytes(trial) for _, trial in some],
                [trial.quality or 0.0 for _, trial in some],
                s=64 if front else 36,
                color=_MAIN if front else _FAINT,
                label="not beaten" if front else "beaten",
                zorder=3,
            )
            points.set_urls([f"#trial-{number}" for number, _ in some])
        line = sorted(
            (_megabytes(trial), trial.quality or 0.0) for _, trial in shown if trial.front
        )
        if line:  # else what beats them is infinitely good, and not shown
            axes.step(*zip(*line, strict=True), where="post", color=_MAIN, linewidth=1)
        axes.axvline(report.bytes_before / 1e6, color=_INK, linewidth=1, linestyle=":")
        if report.value_before is not None:
            axes.axhline(report.value_before, color=_INK, linewidth=1, linestyle=":")
        axes.set_xlabel("size (MB); dotted: the model as it is")
        axes.set_ylabel("value of evaluate" if valued else "SNR (dB)")
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2)

    return _svg(draw, "front", "Size against quality of every config", 5.2, 4)


def size_figure(trial: Trial) -> str | None:
    """Returns each layer's stored bytes before and after, largest first, as SVG."""
    if trial.report is None or not trial.report.layers:
        return None
    ranked = sorted(trial.report.layers, key=lambda layer: -layer.bytes_before)
    rows = [
        (_short(each.name, 20), each.bytes_before, each.bytes_after) for each in ranked[:_LAYERS]
    ]
    if rest := ranked[_LAYERS:]:
        before, after = sum(r.bytes_before for r in rest), sum(r.bytes_after for r in rest)
        rows.append((f"the other {len(rest)}", before, after))

    def draw(axes: Axes) -> None:
        places = np.arange(len(rows))
        axes.barh(places, [row[1] / 1e3 for row in rows], color=_FAINT, label="before")
        axes.barh(places, [row[2] / 1e3 for row in rows], 0.5, color=_MAIN, label="after")
        axes.set_yticks(places, [row[0] for row in rows], fontsize=9)
        axes.invert_yaxis()
        axes.set_xlabel("stored size (kB)")
        axes.legend(loc="lower right")
        axes.grid(visible=False, axis="y")

    return _svg(draw, "size", f"Size by layer, {trial.label}", 5.2, 1.2 + 0.25 * len(rows))


def error_figure(trials: Sequence[Trial]) -> str | None:
    """Returns each layer's relative output error, a line a trial, as SVG; None without errors."""
    shown = [trial for trial in trials if any(e is not None for e in trial.layer_errors)]
    shown = shown[: len(_SERIES)]
    if not shown:
        return None

    def draw(axes: Axes) -> None:
        for trial, color, marker in zip(shown, _SERIES, _MARKERS, strict=False):
            known = [(n, e) for n, e in enumerate(trial.layer_errors) if e and math.isfinite(e)]
            if known:
                axes.plot(
                    *zip(*known, strict=True),
                    color=color,
                    marker=marker,
                    markersize=4,
                    linewidth=1,
                    label=_short(trial.label, 40),
                )
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("layer, in the order of the table of layers")
        axes.set_ylabel("relative output error")
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0))

    return _svg(draw, "error", "Error by layer", 5.2, 4 + 0.18 * len(shown))


def pattern_image(pattern: Pattern) -> str:
    """Returns the picture of a pattern as the address of a PNG, kept elements in blue."""
    keep = np.array([[bit == "1" for bit in line] for line in pattern.lines])
    picture = np.zeros((*keep.shape, 4), np.uint8)
    picture[keep] = (59, 130, 246, 255)
    buffer = io.BytesIO()
    imsave(buffer, picture, format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def knee(report: SweepReport) -> Trial | None:
    """Returns the trial of the front after which quality falls fastest; None without a trial.

    That is the one farthest from the line between the front's ends. Below 0 dB a model is further
    from what it was than one that gives nothing but zeros: no place to look for a knee.
    """
    front = [t for t in report.front if t.quality is not None and math.isfinite(t.quality)]
    if report.value_before is None:
        front = [trial for trial in front if (trial.snr or 0.0) > 0] or front
    done = [trial for trial in report.trials if trial.failed is None]
    if len(front) < 3:
        return front[0] if front else done[len(done) // 2] if done else None
    sizes = np.array([float(trial.nbytes or 0) for trial in front])
    qualities = np.array([trial.quality or 0.0 for trial in front])
    x = (sizes - sizes[0]) / (sizes[-1] - sizes[0])
    y = (qualities - qualities[0]) / (qualities[-1] - qualities[0])
    return front[int(np.argmax(y - x))]


def spread(trials: Sequence[Trial], count: int) -> list[Trial]:
    """Returns at most `count` trials, spread evenly, the first and last among them."""
    if len(trials) <= count:
        return list(trials)
    places = np.linspace(0, len(trials) - 1, count).round().astype(int).tolist()
    assert all(a < b for a, b in pairwise(places))  # there are more trials than places
    return [trials[place] for place in places]


def _svg(
    draw: Callable[[Axes], object], prefix: str, title: str, width: float, height: float
) -> str:
    """Returns what `draw` puts on a pair of axes as SVG for the page's own body."""
    with rc_context(_STYLE):
        figure = Figure((width, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.set_axisbelow(True)
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": visible(title)})
    text = buffer.getvalue()
    return _themed(text[text.index("<svg") :], prefix)


def _themed(svg: str, prefix: str) -> str:
    """Returns SVG whose colours are the page's, dark or light, and whose names are its own.

    Args:
        svg: as matplotlib writes it, with the same names in every figure.
        prefix: of the names, a word.
    """
    svg = re.sub(r'( id="|url\(#|<use xlink:href="#)', rf"\1{prefix}-", svg)
    for color, name in _NAMES.items():
        svg = svg.replace(color, f"var({name})")
    svg = svg.replace(' target="_blank"', "")  # links lead within the page
    return svg.replace("<svg ", '<svg class="figure" role="group" ', 1)


def _megabytes(trial: Trial) -> float:
    return (trial.nbytes or 0) / 1e6


def _short(name: str, length: int = 26) -> str:
    """Returns a name as it prints, cut in its middle: layers differ in their ends."""
    name = visible(name)
    if len(name) <= length:
        return name
    half = (length - 1) // 2
    return f"{name[:half]}…{name[-half:]}"
