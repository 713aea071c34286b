"""A sweep as one page that needs nothing beside itself: no network, no other file."""

from __future__ import annotations

import math
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from mlpass.errors import BackendError, ConfigError, visible
from mlpass.files import whole_file
from mlpass.report.plain import to_json
from mlpass.report.study import SweepReport, Trial, latency_text, number_text
from mlpass.report.table import bytes_text

_EXTRA = ("jinja2", "matplotlib")
_LINES = 5  # trials whose layers are compared


def check_target(path: Path) -> None:
    """Checks, before the work is done, that a report can be written.

    Raises:
        ConfigError: the name ends in neither .html nor .json.
        BackendError: it is a page, and the report extra is not installed.
    """
    if path.suffix not in (".html", ".json"):
        raise ConfigError(f"output: a report's name must end in .html or .json. Got {str(path)!r}.")
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if path.suffix == ".html" and missing:
        raise BackendError(
            f"an HTML report needs {' and '.join(missing)}: pip install {' '.join(missing)}, "
            "or name a .json file"
        )


def write_report(report: SweepReport, path: Path, *, force: bool = False) -> None:
    """Writes a sweep as a page, or as JSON where the name ends so; it appears whole or not at all.

    Args:
        report: to write.
        path: of the file.
        force: whether to replace one that is there.

    Raises:
        OutputExistsError: something is there, and `force` is False.
        ConfigError: the name ends in neither .html nor .json.
        BackendError: it is a page, and the report extra is not installed.
        OSError: it cannot be written.
    """
    check_target(path)
    text = to_json(report.to_dict(), indent=2) if path.suffix == ".json" else to_html(report)
    with whole_file(path, force=force) as building:
        building.write_text(text, encoding="utf-8")


def to_html(report: SweepReport) -> str:
    """Returns a sweep as the text of a page.

    Raises:
        ModuleNotFoundError: the report extra is not installed.
    """
    from jinja2 import Environment, StrictUndefined

    from mlpass.report import figures

    # Names come from the model, which may be anybody's: everything is escaped but our own SVG.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=_printable
    )
    environment.filters |= {
        "bytes": lambda value: bytes_text(value or 0),
        "number": number_text,
        "latency": latency_text,
        "sortable": _sortable,
    }
    templates = files("mlpass.report").joinpath("templates")
    template = environment.from_string(templates.joinpath("sweep.html").read_text("utf-8"))
    picked = figures.knee(report)
    return template.render(
        report=report,
        name=Path(report.model).name,
        style=templates.joinpath("sweep.css").read_text("utf-8"),
        script=templates.joinpath("sweep.js").read_text("utf-8"),
        picked=picked,
        valued=report.value_before is not None,
        front_figure=figures.front_figure(report),
        size_figure=figures.size_figure(picked) if picked else None,
        error_figure=figures.error_figure(figures.spread(_measured(report), _LINES)),
        patterns=[
            (number, trial, figures.pattern_image(trial.pattern))
            for number, trial in enumerate(report.trials)
            if trial.pattern is not None
        ],
    )


def _printable(value: object) -> object:
    """Returns a text with what does not print escaped; anything else, our own SVG too, as it is."""
    return visible(value) if type(value) is str else value


def _measured(report: SweepReport) -> list[Trial]:
    """Returns the trials whose layers can be compared: of the front, if there are two."""
    known = [t for t in report.trials if any(error is not None for error in t.layer_errors)]
    front = [trial for trial in report.front if trial in known]
    return front if len(front) > 1 else sorted(known, key=lambda trial: trial.nbytes or 0)


def _sortable(value: object) -> str:
    """Returns a number as JavaScript reads it, nothing for None and NaN."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return str(value)
