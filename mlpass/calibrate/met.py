"""A stop on the way of samples through a model, and what is done there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.gathered import Whose
from mlpass.calibrate.outputs import interpreter_of, values_in
from mlpass.calibrate.sums import Observed
from mlpass.errors import CalibrationError, NotFiniteError
from mlpass.plan.steps import Step
from mlpass.runtime.origins import origin_of
from mlpass.runtime.stop import Stop
from mlpass.weights.sites import Site

if TYPE_CHECKING:
    from mlpass.program.mlmodel import ModelLike


class Met(NamedTuple):
    """A stop on the way, where all samples have come to the same op.

    Attributes:
        sites: what the samples told about those that no later op reads.
        put: lets the program go on with another weight of one of them.
    """

    sites: Sequence[tuple[Step, Observed]]
    put: Callable[[Site, NDArray[np.generic]], object]


def put(stop: Stop, site: Site, weight: NDArray[np.generic]) -> None:
    """Lets a program go on with another weight."""
    for value in values_in(stop.constants, site):
        stop.replace(value, weight)


@contextmanager
def naming_origin(model: ModelLike, calibration: Calibration, first: int = 0) -> Iterator[None]:
    """Has an error of NaN or inf within it say where they come from.

    Raises:
        CalibrationError: there were such.
    """
    try:
        yield
    except NotFiniteError as error:
        if not isinstance(error.whose, Whose):
            raise
        sample, op = error.whose
        runner = interpreter_of(model, calibration)
        origin = origin_of(runner, calibration.sample_data[sample - first], sample, op)
        raise CalibrationError(f"{error}{origin}") from None
