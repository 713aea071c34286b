"""The way through a model with its samples: a stop at a time, with the Grams of the sites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from itertools import repeat
from typing import TYPE_CHECKING

from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.gathered import Whose
from mlpass.calibrate.outputs import interpreter_of
from mlpass.calibrate.sums import Observed, SiteGrams, Stops
from mlpass.errors import CalibrationError, NotFiniteError
from mlpass.plan.steps import Step
from mlpass.runtime.origins import origin_of
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
) -> Iterator[tuple[SiteGrams, Iterable[Stops]]]:
    """Opens the sums of what the sites of a plan meet, and the stops at which there is more to add.

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
    dense = calibration.target == "dense"
    interpreters = [interpreter_of(model, calibration) for _ in range(1 + dense)]
    backend = interpreters[0].backend
    assert backend is not None  # Calibration refuses Core ML itself
    plans = [part.plan for part in interpreters[0].parts]
    grams = SiteGrams(steps, plans, backend, known, dense)
    samples, budget = calibration.sample_data, calibration.memory_budget // len(interpreters)
    with backend.held(), backend.session(False), ExitStack() as open_replays:
        first, *second = [
            open_replays.enter_context(
                closing(stops(each, samples, grams.wants, memory_budget=budget))
            )
            for each in interpreters
        ]
        beside: Iterable[Stop | None] = second[0] if dense else repeat(None)
        try:
            yield grams, zip(first, beside, strict=dense)
        except NotFiniteError as error:
            if not isinstance(error.whose, Whose):
                raise
            sample, op = error.whose
            runner = interpreter_of(model, calibration)
            raise CalibrationError(f"{error}{origin_of(runner, samples[sample], op)}") from None


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
    with walk(model, steps, replace(calibration, target="own")) as (grams, on_the_way):
        yield (site for stop, _ in on_the_way for site in grams.add(stop))
