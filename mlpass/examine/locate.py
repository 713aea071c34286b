"""Where two models part: the error that each op adds of its own, and the one that reaches it.

The second model runs twice over each sample. Once as it is. And once on a lead: whatever an op has
made is replaced by what the first model has there, before the next op reads it. So what is wrong
with an op shows at that op alone. All values are rounded to the types that are declared for them,
so that a type that is too narrow shows too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from mlpass.errors import CalibrationError, ConfigError, ExecutionError, close_matches
from mlpass.examine.compare import Tally
from mlpass.examine.differences import differences
from mlpass.examine.matching import match_values, running
from mlpass.literals import Runner
from mlpass.program.ir import Op, Value
from mlpass.report.location import Location, OpRecord
from mlpass.runtime.declared import Results, declared, walk
from mlpass.runtime.doubts import warn_of
from mlpass.runtime.failures import of_sample
from mlpass.runtime.function_plan import OpPlan
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.ops import label_of
from mlpass.runtime.samples import Inputs, SampleData, load_samples, read_arrays
from mlpass.runtime.state import State
from mlpass.runtime.steps import numbered_steps

if TYPE_CHECKING:
    from mlpass.program.mlmodel import ModelLike


def locate(
    model: ModelLike | Mapping[str, object],
    other: ModelLike,
    sample_data: SampleData,
    *,
    threshold: float = 20.0,
    backend: Runner = "numpy",
) -> Location:
    """Returns where `other` parts from `model`: for each op its own error, and that before it.

    Ops are matched by the names of what they make, else by their type and inputs. The values of
    one prediction are held in memory at once.

    Args:
        model: the reference: a path, an `MLModel` or a pymil `Program`; or values by name,
            {value name: array} or the path of an `.npz` of such, as another framework gives them
            for the one sample.
        other: a model with the same inputs.
        sample_data: as for calibration.
        threshold: in dB: the first op that an error past it reaches is named.
        backend: of the Interpreter: "numpy" or "torch".

    Raises:
        CalibrationError: there are no samples; or values are given for several of them, or for
            nothing that is in the model.
        ConfigError: the backend cannot tell what ops make, or the threshold is not a number.
        ExecutionError: an op of `model` failed; or one of `other` that has no match in it.
        InputError: a sample does not fit the models.
        ModelFormatError: a model cannot be read.
        UnsupportedOpError: a model has ops that cannot be run.
    """
    if backend == "coreml":
        raise ConfigError("backend: Core ML does not show what ops make; use numpy or torch")
    if math.isnan(threshold):
        raise ConfigError("threshold: must be a number of dB. Got nan.")
    samples = load_samples(sample_data)
    suspect = Interpreter(other, backend=backend, partial=True)
    reference = _reference(model, suspect, len(samples), backend)
    warn_of(suspect, samples)
    seen = _Suspect(suspect)
    for number, sample in enumerate(tqdm(samples, desc="locating", unit="sample", disable=None)):
        steps = numbered_steps(sample, suspect, number)
        states = [
            each.make_state() if each is not None and each.states else None
            for each in (reference.interpreter, suspect, suspect)
        ]
        for place, step in enumerate(steps):
            with of_sample(number, place, len(steps)):
                wanted = reference.values(step, states[0])
                seen.run(step, states[1], wanted)
                seen.lead(step, states[2], wanted)
    return Location(
        "values" if isinstance(model, Mapping) else str(model),
        str(other),
        len(samples),
        threshold,
        tuple(seen.records(reference.like, reference.interpreter)),
        tuple(label_of(op) for op in seen.ops if not reference.matches(op)),
        seen.failure,
    )


class _Reference:
    """What the values of the second model should be.

    Attributes:
        interpreter: of the first model; None where values are given.
        like: the first model's values by those of the second.
    """

    def __init__(
        self,
        interpreter: Interpreter | None,
        like: Mapping[Value, Value],
        given: Mapping[Value, object],
    ) -> None:
        self.interpreter = interpreter
        self.like = like
        self._given = given

    def matches(self, op: Op) -> bool:
        """Returns whether it is known what an op of the second model should make."""
        return any(output in self.like or output in self._given for output in op.outputs)

    def values(self, inputs: Inputs, state: State | None) -> Mapping[Value, object]:
        """Returns them for one prediction, as arrays of the backend."""
        if self.interpreter is None:
            return self._given
        made, backend = dict[Value, object](), self.interpreter.backend

        def keep(step: OpPlan, run: Callable[[], Results]) -> Results:
            results = declared(step, run(), backend)
            made.update(zip(step.op.outputs, results, strict=True))
            return results

        walk(self.interpreter, inputs, state, keep)
        return {value: made[like] for value, like in self.like.items() if like in made}


def _reference(model: object, suspect: Interpreter, samples: int, backend: Runner) -> _Reference:
    """Returns what the values of `suspect` should be."""
    if isinstance(model, str | Path) and Path(model).suffix == ".npz":
        model = read_arrays(Path(model))
    if not isinstance(model, Mapping):
        first = Interpreter(model, backend=backend, partial=True)
        pairs = zip(first.parts, suspect.parts, strict=False)
        both = [(one.plan.function.block, two.plan.function.block) for one, two in pairs]
        return _Reference(first, match_values(both), {})
    if samples != 1:
        raise CalibrationError(
            f"the reference is values of one prediction. Got {samples} samples; give that one."
        )
    blocks = [part.plan.function.block for part in suspect.parts]
    named = {value.name: value for block in blocks for op in running(block) for value in op.outputs}
    assert suspect.backend is not None
    given = {
        named[name]: suspect.backend.from_numpy(np.asarray(array))
        for name, array in model.items()
        if name in named
    }
    if not given:
        near = next((close_matches(str(name), named) for name in model), "")
        raise CalibrationError(f"none of the reference's values is one of the model's{near}")
    return _Reference(None, {}, given)


class _Suspect:
    """The second model, and what was seen of it so far.

    Attributes:
        ops: those that run, in order.
        own: how far each op's results are on the lead.
        reached: how far they are as the model runs.
        odd: what it makes of another shape, or why it fails, by op.
        failure: why it could not run to its end.
    """

    def __init__(self, interpreter: Interpreter) -> None:
        self.interpreter = interpreter
        self.ops = [op for part in interpreter.parts for op in running(part.plan.function.block)]
        self.own: dict[Op, Tally] = {}
        self.reached: dict[Op, Tally] = {}
        self.odd: dict[Op, str] = {}
        self.failure: str | None = None

    def run(self, inputs: Inputs, state: State | None, wanted: Mapping[Value, object]) -> None:
        """Runs it as it is; where it fails, that is noted."""
        if self.failure is not None:
            return

        def look(step: OpPlan, run: Callable[[], Results]) -> Results:
            results = declared(step, run(), self.interpreter.backend)
            self._add(self.reached, wanted, step.op, results)
            return results

        try:
            walk(self.interpreter, inputs, state, look)
        except ExecutionError as error:
            self.failure = str(error)

    def lead(self, inputs: Inputs, state: State | None, wanted: Mapping[Value, object]) -> None:
        """Runs it with the wanted values in the place of its own, as soon as they are made."""

        def replace(step: OpPlan, run: Callable[[], Results]) -> Results:
            outputs = step.op.outputs
            try:
                made = declared(step, run(), self.interpreter.backend)
            except ExecutionError as error:
                if any(output not in wanted for output in outputs):
                    raise
                self.own.setdefault(step.op, Tally()).noise = math.inf
                self.odd[step.op] = f"fails: {error}"
                return tuple(wanted[output] for output in outputs)
            self._add(self.own, wanted, step.op, made)
            return tuple(wanted.get(output, one) for output, one in zip(outputs, made, strict=True))

        walk(self.interpreter, inputs, state, replace)

    def _add(
        self,
        tallies: dict[Op, Tally],
        wanted: Mapping[Value, object],
        op: Op,
        made: Sequence[Any],
    ) -> None:
        """Adds what an op has made to what is known of its error."""
        backend = self.interpreter.backend
        assert backend is not None
        for output, result in zip(op.outputs, made, strict=True):
            like: Any = wanted.get(output)
            if not hasattr(like, "shape") or not hasattr(result, "shape"):
                continue
            tally = tallies.setdefault(op, Tally())
            if tuple(like.shape) != tuple(result.shape):
                self.odd[op] = f"shape {tuple(like.shape)} -> {tuple(result.shape)}"
                tally.noise = math.inf
            else:
                tally.add(backend.to_numpy(like), backend.to_numpy(result))

    def records(self, like: Mapping[Value, Value], first: Interpreter | None) -> Iterator[OpRecord]:
        """Yields what was seen of each op that has a match."""
        told = differences(first, self.interpreter, like) if first is not None else {}
        for op in self.ops:
            if op not in self.own:
                continue
            reached = self.reached[op].snr if op in self.reached else None
            odd = (self.odd[op],) if op in self.odd else ()
            yield OpRecord(
                label_of(op), op.type, self.own[op].snr, reached, (*told.get(op, ()), *odd)
            )
