"""Names beside the points of a picture: as many as have room, and none on another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

Point = tuple[float, float]

# Where a name may stand, in points from its own: first where a front leaves room, above and left.
_PLACES = [(-8, 2), (0, 8), (1, 7), (-8, -7), (8, -7), (8, 2), (0, -8), (-14, 12), (14, -14)]
_AROUND = 1.5  # points that stay free around a name
_RIM = 5  # points from the middle of a marker to its rim


@dataclass(frozen=True)
class Label:
    """A name for a point."""

    point: Point
    name: str
    size: float
    color: str


def place_labels(
    axes: Axes, labels: Iterable[Label], lines: Iterable[tuple[Point, Point]] = ()
) -> None:
    """Writes names beside their points, the first that come first; one without room is left out.

    The picture must be laid out already: nothing is moved, and what is written moves nothing.

    Args:
        axes: with all points in their collections.
        labels: the names.
        lines: level or upright, that no name may stand on, from one end to the other.
    """
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    unit, to_canvas = figure.dpi / 72, axes.transData
    taken = [Bbox(to_canvas.transform(line)).padded(0.5) for line in lines]
    for points in axes.collections:
        places = to_canvas.transform(points.get_offsets())
        taken += [Bbox([place, place]).padded(_RIM * unit) for place in places]
    room = axes.get_window_extent(renderer)
    for label in labels:
        for right, up in _PLACES:
            text = axes.annotate(
                label.name,
                label.point,
                (right, up),
                textcoords="offset points",
                ha="left" if right > 0 else "right" if right else "center",
                va="bottom" if up > 0 else "top",
                fontsize=label.size,
                color=label.color,
            )
            text.set_in_layout(False)
            box = text.get_window_extent(renderer).padded(_AROUND * unit)
            inside = room.x0 <= box.x0 and box.x1 <= room.x1
            inside = inside and room.y0 <= box.y0 and box.y1 <= room.y1
            if inside and not any(box.overlaps(each) for each in taken):
                taken.append(box)
                break
            text.remove()
