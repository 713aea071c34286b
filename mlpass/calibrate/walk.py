"""The way through a model with its samples: a stop at a time, with the Grams of the sites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from mlpass.blas import one_blas_thread
from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.met import Met, naming_origin, put
from mlpass.calibrate.replays import interpreters_of, side_by_side
from mlpass.calibrate.sums import Observed, SiteGrams
from mlpass.parallel import one_ahead
from mlpass.plan.steps import Step
from mlpass.runtime.stretches import cohorts_of
from mlpass.weights.sites import Site

if TYPE_CHECKING:
    from mlpass.program.mlmodel import ModelLike


@contextmanager
def walk(
    model: ModelLike,
    steps: Sequence[Step],
    calibration: Calibration,
    known: Callable[[Site], bool] = frozenset().__contains__,
) -> Iterator[Iterable[Met]]:
    """Opens the way of all samples through a model, past every site of a plan.

    Where layers aim at the dense model, a replay of that goes beside the other, stop by stop. BLAS
    is held to one thread meanwhile, and the backend's session is entered.

    Args:
        model: to run: an open package, or a program's graph.
        steps: what is to become of each site.
        calibration: what to run it on, and how.
        known: whether a site's Gram is not needed.

    Raises:
        CalibrationError: the samples do not fit.
        UnsupportedOpError: ops without kernels, all named at once.
        ExecutionError: an op failed.
        OSError: the disk is full.
    """
    if calibration.executor is not None:
        from mlpass.calibrate.cluster import walk_divided

        with closing(walk_divided(model, steps, calibration, known)) as way:
            yield way
        return
    interpreters = interpreters_of(model, calibration)
    cohorts = cohorts_of(len(calibration.sample_data))
    grams = SiteGrams(steps, interpreters[0], known, cohorts, calibration.aims_at_dense)
    with (
        side_by_side(interpreters, calibration, grams.wants) as pairs,
        naming_origin(model, calibration),
    ):
        yield (Met(grams.add(stop, other), partial(put, stop)) for stop, other in pairs)


@contextmanager
def observe_dense(
    model: ModelLike, steps: Sequence[Step], calibration: Calibration
) -> Iterator[Iterable[tuple[Step, Observed]]]:
    """Opens what the sites of a plan meet in the model as it is, one after another.

    Args:
        model: as for `walk`.
        steps: likewise.
        calibration: likewise; what it has of the model as it was is not gathered again.

    Raises:
        CalibrationError: the samples do not fit, or a layer's inputs hold NaN or inf.
        UnsupportedOpError: ops without kernels, all named at once.
        ExecutionError: an op failed.
        OSError: the disk is full.
    """
    if calibration.dense_grams:
        with one_blas_thread():
            yield calibration.dense_grams.read(steps)
        return
    with walk(model, steps, replace(calibration, target="own")) as way:
        stops = (met.sites for met in way)
        if calibration.backend != "numpy" or calibration.executor is not None:
            yield (site for sites in stops for site in sites)
            return
        # What is found out on the way changes nothing that is to come.
        with closing(one_ahead(stops)) as ahead:
            yield (site for sites in ahead for site in sites)
