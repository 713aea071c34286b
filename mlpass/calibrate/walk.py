"""The way through a model with its samples: a stop at a time, with the Grams of the sites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from mlpass.blas import one_blas_thread
from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.sums import Observed, SiteGrams
from mlpass.plan.steps import Step
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.replay import stops
from mlpass.runtime.stop import Stop
from mlpass.weights.sites import Site

if TYPE_CHECKING:
    from mlpass.program.mlmodel import ModelLike


@contextmanager
def walk(
    model: ModelLike,
    steps: Sequence[Step],
    calibration: Calibration,
    known: Callable[[Site], bool] = frozenset().__contains__,
) -> Iterator[tuple[SiteGrams, Iterator[Stop]]]:
    """Opens the sums of what the sites of a plan meet, and the stops at which there is more to add.

    BLAS is held to one thread meanwhile, and the backend's session is entered.

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
    interpreter = Interpreter(
        model,
        backend=calibration.backend,
        device=calibration.device,
        function_name=calibration.function_name,
        partial=True,
    )
    backend = interpreter.backend
    assert backend is not None  # Calibration refuses Core ML itself
    grams = SiteGrams(steps, [part.plan for part in interpreter.parts], backend, known)
    budget = calibration.memory_budget
    on_the_way = stops(interpreter, calibration.sample_data, grams.wants, memory_budget=budget)
    with one_blas_thread(), backend.session(False), closing(on_the_way):
        yield grams, on_the_way


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
        yield calibration.dense_grams.read(steps)
        return
    with walk(model, steps, calibration) as (grams, on_the_way):
        yield (site for stop in on_the_way for site in grams.add(stop))
