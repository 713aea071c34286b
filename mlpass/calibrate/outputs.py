"""What a model gives with other weights, and how far that is from what it gave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, total
from mlpass.calibrate.calibration import Calibration
from mlpass.halves import widened
from mlpass.parallel import map_items, map_slabs, thread_count
from mlpass.program.ir import Value
from mlpass.runtime.constants import Constants
from mlpass.runtime.functions import runner_of
from mlpass.runtime.given import steps_for
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.onward import Onward, can_go_on
from mlpass.runtime.samples import Sample
from mlpass.weights.sites import Site

if TYPE_CHECKING:
    from mlpass.program.mlmodel import ModelLike

Outputs = list[dict[str, object]]


def interpreter_of(model: ModelLike, calibration: Calibration) -> Interpreter:
    """Returns what runs a model as a calibrated run does: of a pipeline, what can be run.

    Raises:
        ConfigError: samples name a function that there is not.
        UnsupportedOpError: ops without kernels, all named at once.
    """
    return runner_of(
        model,
        calibration.functions,
        backend=calibration.backend,
        device=calibration.device,
        function_name=calibration.function_name,
    )


def outputs_of(interpreter: Interpreter, samples: Sequence[Sample]) -> Outputs:
    """Returns what a model gives for samples, one after another, each step of each.

    A classifier's probabilities by label are an array, in the labels' order.

    Raises:
        ExecutionError: an op failed.
    """

    def predict(number: int) -> Outputs:
        sample = samples[number]
        state = interpreter.new_state(sample)
        given = [interpreter.take(step, state) for step in steps_for(sample, interpreter, number)]
        return [{name: _as_array(value) for name, value in one.items()} for one in given]

    numbers = range(len(samples))
    if interpreter.backend is not None and interpreter.backend.name == "numpy":
        found = map_items(predict, numbers)
    else:
        found = [*map(predict, numbers)]
    return [step for steps in found for step in steps]


def outputs_with(
    interpreter: Interpreter,
    samples: Sequence[Sample],
    changes: Iterable[Mapping[Site, NDArray[np.generic]]],
) -> Iterator[Outputs]:
    """Yields what a model gives for samples with some other weights, and with others again.

    Args:
        interpreter: that runs it.
        samples: one after another.
        changes: the other weights, each time; best in the order in which the model reads them.

    Raises:
        ExecutionError: an op failed.
    """
    backend = interpreter.backend
    assert backend is not None  # Calibration refuses Core ML itself
    steps = [steps_for(sample, interpreter, number) for number, sample in enumerate(samples)]
    if not can_go_on(interpreter) or any(len(each) > 1 for each in steps):
        for weights in changes:
            with other_weights(interpreter, weights):
                found = outputs_of(interpreter, samples)
            yield found
        return
    with backend.session(False):
        runs = [Onward(interpreter, inputs) for (inputs,) in steps]
    ahead = thread_count() if backend.name == "numpy" else 1
    rest = iter(changes)
    while some := list(islice(rest, ahead)):
        with backend.session(False):
            arrays = [_arrays(interpreter, weights) for weights in some]
            jobs = [run.outputs(each) for each in arrays for run in runs]
            run_all = map_items if backend.name == "numpy" else map
            made = [*run_all(lambda job: job(), jobs)]
        for number in range(len(some)):
            own = made[number * len(runs) : (number + 1) * len(runs)]
            yield [{name: _as_array(value) for name, value in one.items()} for one in own]


def values_in(constants: Constants, site: Site) -> list[Value]:
    """Returns what a weight is among a program's constants; none where other functions have it."""
    return [maker.outputs[-1] for maker in site.makers if maker.outputs[-1] in constants]


def _arrays(
    interpreter: Interpreter, weights: Mapping[Site, NDArray[np.generic]]
) -> dict[Value, Array]:
    """Returns other weights by the values that they are in the program that is run."""
    assert interpreter.backend is not None
    (part,) = interpreter.parts
    found: dict[Value, Array] = {}
    for site, weight in weights.items():
        array = interpreter.backend.from_numpy(widened(weight))
        found |= dict.fromkeys(values_in(part.constants, site), array)
    return found


def _as_array(value: object) -> object:
    return np.array([*value.values()]) if isinstance(value, Mapping) else value


@contextmanager
def other_weights(
    interpreter: Interpreter, weights: Mapping[Site, NDArray[np.generic]]
) -> Iterator[None]:
    """Lets a model run with other weights for a while."""
    backend = interpreter.backend
    assert backend is not None  # Calibration refuses Core ML itself
    replaced = []
    try:
        for site, weight in weights.items():
            array = backend.from_numpy(widened(weight))
            parts = (part for member in interpreter.members for part in member.parts)
            for constants in (part.constants for part in parts):
                for value in values_in(constants, site):
                    constants.replace(value, array)
                    replaced.append((constants, value))
        yield
    finally:
        for constants, value in replaced:
            constants.forget(value)


def has_floats(outputs: Outputs) -> bool:
    """Returns whether there is an output of floats, of which `error_of` tells anything."""
    return any(_is_float(value) for one in outputs for value in one.values())


def error_of(dense: Outputs, other: Outputs) -> float:
    """Returns the relative square error, the mean of all outputs of floats; 0 without any.

    An output that is of another shape now, as where the values say how many there are, is wrong as
    a whole; so is an element that is not finite any more. Functions may have others.
    """
    errors = []
    for name in dict.fromkeys(name for one in dense for name in one):
        both = zip(dense, other, strict=True)
        pairs = [(one[name], two[name]) for one, two in both if name in one]
        if not all(_is_float(one) for one, _ in pairs):
            continue
        changed, whole = 0.0, 0.0
        for one, two in pairs:
            more, own = _squares(np.asarray(one), np.asarray(two))
            changed, whole = changed + more, whole + own
        errors.append(changed / whole if whole else 0.0)
    return float(np.mean(errors)) if errors else 0.0


def _squares(dense: NDArray[np.floating], other: NDArray[np.floating]) -> tuple[float, float]:
    """Returns the square sums of what changes and of what it was, where that is finite."""
    if other.shape != dense.shape:
        other = np.zeros(dense.shape, dense.dtype)
    first, second = dense.reshape(-1), other.reshape(-1)

    def add(start: int, stop: int) -> tuple[float, float]:
        was, now = (each[start:stop].astype(np.float64) for each in (first, second))
        now[~np.isfinite(now)] = 0
        lost = ~np.isfinite(was)
        was[lost] = now[lost] = 0
        now -= was
        return total(np.square(now, out=now)), total(np.square(was, out=was))

    sums = map_slabs(add, first.size)
    return sum(changed for changed, _ in sums), sum(whole for _, whole in sums)


def _is_float(value: object) -> bool:
    return bool(getattr(value, "dtype", np.dtype(int)).kind == "f")
