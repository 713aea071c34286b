"""Two models side by side on the same samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mlpass.arrays import total
from mlpass.errors import CalibrationError, ConfigError
from mlpass.literals import Runner
from mlpass.report.comparison import Comparison, OutputRecord
from mlpass.runtime.calls import called, function_of
from mlpass.runtime.failures import of_sample
from mlpass.runtime.functions import Functions, runner_of
from mlpass.runtime.given import steps_for, warn_of_each
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.samples import Sample, SampleData, functions_in, load_samples

if TYPE_CHECKING:
    from mlpass.program.mlmodel import ModelLike

Outputs = Mapping[str, object]
Names = Mapping[str | None, Sequence[str]]  # of outputs, by function

_SHOWN = 5  # labels in a message
_BLOCK = 1 << 18  # elements of an output that are looked at together


class Made(NamedTuple):
    """What one prediction gives, and the function that gives it where the sample names it."""

    function: str | None
    outputs: Outputs


def compare(
    model: ModelLike, other: object, sample_data: SampleData, *, backend: Runner = "numpy"
) -> Comparison:
    """Returns how far the outputs of `other` are from those of `model`.

    Of a pipeline with other parts, what the ML Programs before the first of them give is compared.

    Args:
        model: the reference: a path, an `MLModel` or a pymil `Program`.
        other: likewise, with inputs and outputs of the same names.
        sample_data: as for `prune`, for one function or for several: each has its own figures.
        backend: of the Interpreter.

    Raises:
        CalibrationError: there are no samples, or the models have no output in common.
        ConfigError: there is no such function, or several are asked of Core ML.
        InputError: a sample does not fit the models.
        ModelFormatError: a model cannot be read.
        UnsupportedOpError: a model has ops that cannot be run.
    """
    samples = load_samples(sample_data, functions=True)
    functions = functions_in(samples)
    if backend == "coreml" and len(functions) > 1:
        raise ConfigError(
            f"sample_data: names functions ({', '.join(map(str, functions))}), and Core ML runs "
            "one at a time; give the samples of one, or the backend numpy or torch"
        )
    first, second = (runner_of(each, functions, backend=backend) for each in (model, other))
    common = _common(output_names(first, functions), output_names(second, functions))
    warn_of_each(first, samples)
    bar = tqdm(samples, desc="comparing", unit="sample", disable=None)
    pairs = (
        pair
        for number, sample in enumerate(bar)
        for pair in zip(
            (made.outputs for made in predict_each(first, sample, number)),
            predict_each(second, sample, number),
            strict=True,
        )
    )
    return Comparison(title(model), title(other), len(samples), tally_outputs(common, pairs))


def output_names(runner: Interpreter, functions: Sequence[str | None]) -> Names:
    """Returns the names of what each function gives.

    Args:
        runner: of those functions.
        functions: as `functions_in`.
    """
    if isinstance(runner, Functions):
        return {name: [one.name for one in own.outputs] for name, own in runner.runners.items()}
    return {name: [feature.name for feature in runner.outputs] for name in functions}


def _common(names: Names, others: Names) -> Names:
    """Returns the outputs that functions of two models both have."""
    found = {
        function: [name for name in own if name in others[function]]
        for function, own in names.items()
    }
    for function, both in found.items():
        if not both:
            what = "the models have" if function is None else f"of {function!r} the models have"
            raise CalibrationError(
                f"{what} no output in common: one has {', '.join(names[function])}, the other "
                f"{', '.join(others[function])}"
            )
    return found


def title(model: object) -> str:
    """Returns what a report calls a model, or several in a row."""
    return ", ".join(map(str, model)) if isinstance(model, list | tuple) else str(model)


def tally_outputs(names: Names, pairs: Iterable[tuple[Outputs, Made]]) -> tuple[OutputRecord, ...]:
    """Returns one record an output of each function.

    Args:
        names: of the outputs of each.
        pairs: for each prediction the outputs of the reference, and those to compare with it.

    Raises:
        CalibrationError: an output has different shapes.
    """
    tallies = {function: {name: Tally() for name in own} for function, own in names.items()}
    for reference, result in pairs:
        for name, tally in tallies[result.function].items():
            tally.add(reference[name], result.outputs[name])
    return tuple(
        replace(tally.record(name), function=function)
        for function, own in tallies.items()
        for name, tally in own.items()
    )


def predict_each(interpreter: Interpreter, sample: Sample, number: int) -> Iterator[Made]:
    """Yields what each step of a sample gives, on a new state where the model keeps one.

    Raises:
        InputError: the sample does not fit the model.
        ExecutionError: an op failed.
    """
    state = interpreter.new_state(sample)
    steps = steps_for(sample, interpreter, number)
    for place, step in enumerate(steps):
        function = function_of(step)
        with of_sample(number, place, len(steps)):
            outputs = interpreter.take(called(dict(step), function), state)
        yield Made(function, outputs)


@dataclass
class Tally:
    """How far a value is from its reference: sums over samples, in fp64."""

    signal: float = 0.0
    noise: float = 0.0
    largest: float = 0.0
    total: float = 0.0
    elements: int = 0
    same: int = 0
    places: int = 0

    def add(self, reference: object, result: Any) -> None:
        """Adds what one prediction gives.

        Raises:
            CalibrationError: the shapes or labels differ.
        """
        if isinstance(reference, str | int):
            self.same += reference == result
            self.places += 1
            return
        if isinstance(reference, Mapping):  # a classifier's probabilities, by label
            if not isinstance(result, Mapping) or result.keys() != reference.keys():
                raise CalibrationError(
                    f"an output has the labels {_labels(reference)} in one model, "
                    f"{_labels(result)} in the other"
                )
            result = np.array([result[label] for label in reference])
            reference = np.array(list(reference.values()))
        wanted, made = np.asarray(reference), np.asarray(result)
        if made.shape != wanted.shape:
            raise CalibrationError(
                f"an output has shape {wanted.shape} in one model, {made.shape} in the other"
            )
        width = max(1, wanted.shape[-1]) if wanted.ndim else 1
        step = width * max(1, _BLOCK // width)
        for start in range(0, wanted.size, step):
            self._add(width, *(each.reshape(-1)[start : start + step] for each in (wanted, made)))

    def _add(self, width: int, wanted: NDArray[np.generic], made: NDArray[np.generic]) -> None:
        """Adds whole rows of an output, of a width."""
        wanted, made = (each.astype(np.float64) for each in (wanted, made))
        if width > 1:
            rows, others = (each.reshape(-1, width) for each in (wanted, made))
            told = ~np.isnan(rows).any(-1)  # a NaN is neither the largest nor anything else
            agree = (rows.argmax(-1) == others.argmax(-1)) & ~np.isnan(others).any(-1)
            self.same += int(np.count_nonzero(agree & told))
            self.places += int(np.count_nonzero(told))
        with np.errstate(over="ignore", invalid="ignore"):
            difference = _differences(wanted, made)
            finite = wanted[np.isfinite(wanted)]
            self.signal += total(finite * finite)
            self.noise += total(difference * difference)
            self.total += total(difference)
        self.largest = max(self.largest, float(difference.max(initial=0.0)))
        self.elements += difference.size

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio in dB so far."""
        return _decibels(self.signal, self.noise)

    def record(self, name: str) -> OutputRecord:
        """Returns what the sums come to."""
        top1 = self.same / self.places if self.places else None
        if not self.elements:
            return OutputRecord(name, None, None, None, top1)
        return OutputRecord(name, self.snr, self.largest, self.total / self.elements, top1)


def _differences(wanted: NDArray[np.generic], made: NDArray[Any]) -> NDArray[Any]:
    """Returns the absolute differences, without the places where both are NaN.

    They are 0 for equal infinities, and infinite for any other pair that is not two numbers.
    """
    difference = np.where(made == wanted, 0.0, np.abs(made - wanted))
    difference[np.isnan(difference)] = np.inf
    measured: NDArray[np.generic] = difference[~(np.isnan(made) & np.isnan(wanted))]
    return measured


def _labels(output: object) -> str:
    """Returns an output's first labels as text, "none" of an empty one."""
    if not isinstance(output, Mapping):
        return "none"
    texts = [repr(label) for label in list(output)[:_SHOWN]]
    return ", ".join([*texts, "..."] if len(output) > _SHOWN else texts)


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    if noise == math.inf or signal == 0:
        return -math.inf
    return 10 * (math.log10(signal) - math.log10(noise))
