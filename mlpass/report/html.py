"""A sweep as one page that needs nothing beside itself: no network, no other file."""

from __future__ import annotations

import logging
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from mlpass.errors import BackendError, ConfigError, visible
from mlpass.files import whole_file
from mlpass.report.by_layer import axes_of, sortable, view_of
from mlpass.report.estimate import CHIP, SOURCES
from mlpass.report.folders import without_folders
from mlpass.report.plain import to_json
from mlpass.report.study import SweepReport, latency_text, number_text
from mlpass.report.table import bytes_text
from mlpass.report.verdict import knee, scale_of, verdict

_EXTRA = ("jinja2", "matplotlib")
_SCREENS = ("wide", "narrow")


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

    # What it tells of folders that it cannot write to is for those who listen to it.
    logging.getLogger("matplotlib").addHandler(logging.NullHandler())
    from mlpass.report import figures

    # Names come from the model, which may be anybody's: everything is escaped but our own SVG.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=_printable
    )
    environment.filters |= {
        "bytes": lambda value: bytes_text(value or 0),
        "number": number_text,
        "percent": lambda share: f"{share:.0%}",
        "latency": latency_text,
        "sortable": sortable,
    }
    templates = files("mlpass.report").joinpath("templates")
    template = environment.from_string(templates.joinpath("sweep.html").read_text("utf-8"))
    ordered = sorted(
        enumerate(report.trials),
        key=lambda one: (one[1].nbytes is None, one[1].nbytes or 0, -one[1].worth),
    )
    numbers = {id(trial): number for number, trial in ordered}
    done = [(number, trial) for number, trial in ordered if trial.report is not None]
    axes = axes_of([trial for _, trial in done])
    views = {number: view_of(trial, axes, report.model) for number, trial in done}
    picked = knee(report)
    timed = any(trial.latency for trial in report.trials)
    estimates = ((number, report.estimate_of(trial)) for number, trial in ordered)
    guesses = {number: guess for number, guess in estimates if guess is not None}
    return template.render(
        report=report,
        name=Path(report.model).name,
        style=templates.joinpath("sweep.css").read_text("utf-8"),
        script=templates.joinpath("sweep.js").read_text("utf-8"),
        number_of=lambda trial: numbers[id(trial)],
        ordered=ordered,
        claims=verdict(report),
        scale=scale_of(report),
        plainly=lambda text: without_folders(text, report.model),
        timed=timed,
        guesses={} if timed else guesses,
        chip=f"an {CHIP}",
        sources=SOURCES,
        measured=any(trial.quality is not None for trial in report.trials),
        valued=report.value_before is not None,
        figures={kind: figures.front_figure(report, wide=kind == "wide") for kind in _SCREENS},
        done=done,
        axes=axes,
        picked=picked,
        views=views,
        # Within a script nothing but its end is markup.
        data=to_json(views).replace("<", "\\u003c"),
        patterns=[
            (number, trial, figures.pattern_image(trial.pattern))
            for number, trial in ordered
            if trial.pattern is not None and "0" in "".join(trial.pattern.lines)
        ],
    )


def _printable(value: object) -> object:
    """Returns a text with what does not print escaped; anything else, our own SVG too, as it is."""
    return visible(value) if type(value) is str else value
