"""The Interpreter: runs a model's program, and predicts as Core ML does."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from mlpass.arrays import Array
from mlpass.errors import (
    InputError,
    MlpassError,
    ModelFormatError,
    UnsupportedOpError,
    close_matches,
)
from mlpass.literals import Runner
from mlpass.program.ir import StateType, TensorType, Value
from mlpass.program.pte_paths import host_of
from mlpass.runtime.backends.base import Backend, open_backend
from mlpass.runtime.backends.coreml import CoreMLModel
from mlpass.runtime.constants import Constants
from mlpass.runtime.description import Description
from mlpass.runtime.execute import Listener, execute
from mlpass.runtime.features import check_names, read_input, restored, write_output
from mlpass.runtime.function_plan import FunctionPlan, plan_function
from mlpass.runtime.samples import Inputs, Sample
from mlpass.runtime.sources import Runnable, close_with, open_source
from mlpass.runtime.state import State
from mlpass.runtime.suppression import Suppression
from mlpass.runtime.tabular import Tabular

if TYPE_CHECKING:
    from mlpass.program.mlmodel import ModelLike

Outputs = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Part:
    """A program to run: the model's one, or one of a pipeline.

    Attributes:
        description: its inputs, outputs and states.
        plan: its function, ready to run.
        constants: what that states.
        before: parts for tables that come between it and the program before it.
    """

    description: Description
    plan: FunctionPlan
    constants: Constants
    before: tuple[Tabular, ...] = ()

    @property
    def groups(self) -> Sequence[tuple[int, int]]:
        """Bounds of neighbouring steps that a replay comes to at once: see `Beside`."""
        return ()

    def prepared(self, given: Inputs) -> Inputs:
        """Returns what was given, and what the parts before make of it.

        Raises:
            InputError: it does not fit them.
        """
        for part in self.before:
            given = {**given, **part.run(given)}
        return given


class Interpreter:
    """Runs a model anywhere.

    Attributes:
        inputs: what `predict` takes.
        outputs: what it gives.
        states: what it keeps.
        backend: whose arrays the program runs on; None where Core ML runs it.
        parts: its programs, in order; none where Core ML runs it.
        listeners: called before and after every op; append your own.
    """

    def __init__(
        self,
        model: ModelLike,
        *,
        backend: Runner = "numpy",
        device: str | None = None,
        function_name: str | None = None,
        partial: bool = False,
    ) -> None:
        """Reads and checks the model; a weight is read when it is first used.

        Args:
            model: path of an `.mlpackage`, an `MLModel`, or a pymil `Program`; or a list of
                packages that run one after another, the outputs of each the inputs of the next.
            backend: "numpy", "torch", or, on macOS, "coreml".
            device: torch's: "cpu", "mps" or "cuda".
            function_name: of a model with several; its default one where None.
            partial: whether to run of a pipeline only the ML Programs, and parts for tables before
                them, that no other part comes before; its outputs are then what they make of its
                own, and what they give to the parts after.

        Raises:
            ConfigError: there is no such backend or function.
            BackendError: the backend cannot run here.
            ModelFormatError: the model cannot be read, or its ops do not fit their kernels.
            UnsupportedOpError: ops without kernels, all named at once.
            OSError: its files cannot be read.
        """
        self.listeners: list[Listener] = []
        self.backend = None if backend == "coreml" else open_backend(backend, device)
        source = open_source(model, function_name, partial=partial)
        if source.package is not None and source.package is not model:
            close_with(self, source.package)
        self._core_ml: CoreMLModel | None = None
        if self.backend is None:
            hosted = source.package if host_of(model) is not None else None
            if hosted is not None:  # Core ML reads what is unpacked
                model, function_name = hosted.path, function_name or hosted.function_name
            self._core_ml = CoreMLModel(model, device, function_name)
        self.inputs = source.description.inputs
        self.outputs = source.description.outputs
        described = [stage[0] for stage in source.stages if isinstance(stage, tuple)]
        self.states = {one.prefix + each.name: each for one in described for each in one.states}
        self._stages = () if self.backend is None else _plan_stages(source, self.backend)
        self.parts = tuple(stage for stage in self._stages if isinstance(stage, Part))

    @overload
    def predict(self, inputs: Inputs, state: State | None = None) -> Outputs: ...
    @overload
    def predict(self, inputs: list[Inputs], state: None = None) -> list[Outputs]: ...
    def predict(
        self, inputs: Inputs | list[Inputs], state: State | None = None
    ) -> Outputs | list[Outputs]:
        """Returns the model's outputs by name, as `MLModel.predict` does.

        Args:
            inputs: by name; or a list of such, to get a list. Arrays are numpy's, torch's, or
                nested lists, of any numeric type whose values fit the declared one; images are
                PIL's, or their arrays (1, channels, height, width).
            state: from `make_state`, for a model that keeps one.

        Raises:
            InputError: names, shapes or values that do not fit, or a state that is missing.
            ExecutionError: an op failed.
        """
        if self._core_ml:
            return self._core_ml.predict(inputs, state)  # type: ignore[no-any-return]
        if isinstance(inputs, list):
            if state is not None:
                raise InputError("state: does not go with a list of inputs; call predict for each")
            return [self.predict(one) for one in inputs]
        values = self._run(inputs, state, wanted=None)
        return {
            feature.name: write_output(feature, values[feature.name]) for feature in self.outputs
        }

    def run(self, inputs: Inputs, outputs: Sequence[str], state: State | None = None) -> Outputs:
        """Returns any values of the program by name, in the types that the program declares.

        It runs no further than it has to, unless the model keeps state.

        Args:
            inputs: as for `predict`.
            outputs: names of values: of outputs, or of anything in between.
            state: as for `predict`.

        Raises:
            InputError: as `predict`; or there is no such value, or the run did not compute it.
            ExecutionError: an op failed.
        """
        if self._core_ml:
            return self._core_ml.run(inputs, outputs)  # type: ignore[no-any-return]
        known = [name for part in self.parts for name in part.plan.names]
        if strange := [name for name in outputs if name not in set(known)]:
            raise InputError(
                "outputs: "
                + "; ".join(f"there is no value {n!r}{close_matches(n, known)}" for n in strange)
            )
        made = self._run(inputs, state, wanted=list(outputs))
        if missed := [name for name in outputs if name not in made]:
            raise InputError(
                f"outputs: the run did not compute {', '.join(map(repr, missed))}, made in a "
                "branch that was not taken; ask for values that every branch makes"
            )
        return {name: made[name] for name in outputs}

    def make_state(self) -> State:
        """Returns a new state, all zeros, for a model that keeps one.

        Raises:
            InputError: it keeps none.
        """
        if self._core_ml:
            return self._core_ml.make_state()  # type: ignore[no-any-return]
        if not self.states or self.backend is None:
            raise InputError("make_state: this model keeps no state")
        return State(self.states, self.backend)

    @property
    def is_one_program(self) -> bool:
        """Whether nothing comes before or after a program."""
        return len(self.parts) == len(self._stages) == 1 and not self.parts[0].before

    @property
    def members(self) -> Sequence[Interpreter]:
        """What runs a function each: this alone, where that is not of several functions."""
        return (self,)

    def runner(self, step: Inputs) -> Interpreter:
        """Returns what runs a step of a sample: this, where that is not of several functions."""
        return self

    def take(self, step: Inputs, state: State | None) -> Outputs:
        """Returns what `predict` does of a step of a sample, by the function that it is for."""
        return self.predict(step, state)

    def new_state(self, sample: Sample) -> State | None:
        """Returns a new state for the steps of a sample; None where the model keeps none."""
        return self.make_state() if self.states else None

    def _run(self, inputs: Inputs, state: State | None, wanted: list[str] | None) -> Outputs:
        """Returns, by name, the wanted values, or all outputs, as numpy arrays."""
        self._check_state(state)
        if not isinstance(inputs, Mapping):
            raise InputError(f"inputs: must be a dict by name. Got {type(inputs).__name__}.")
        check_names(inputs, self.inputs, self.states)
        given = dict(inputs)
        made: Outputs = {}
        for number, part in enumerate(self._stages):
            if not isinstance(part, Part):
                kept = part.run(given)
                given.update(kept)
                made.update(kept if wanted is None else {})
                continue
            last = number == len(self._stages) - 1
            names = part.plan.names
            keep = [names[name] for name in wanted or () if name in names]
            early = wanted is not None and last and not self.states
            for value, array in self._run_part(part, given, state, keep, early):
                if wanted is None:
                    made[value.name] = array
                elif value in keep:
                    made[value.name] = _declared(value, array)
                if not last and value in part.plan.block.outputs:
                    given[value.name] = array
            for feature in part.description.outputs if not last else ():
                given[feature.name] = write_output(feature, given[feature.name])
        return made

    def _run_part(
        self, part: Part, given: Inputs, state: State | None, keep: Sequence[Value], early: bool
    ) -> list[tuple[Value, object]]:
        """Returns the outputs of a part, and the values to keep, as numpy arrays.

        Where it may end `early` it does so once these are there.
        """
        assert self.backend is not None
        arrays = {
            feature.name: read_input(feature, given.get(feature.name))
            for feature in part.description.inputs
        }
        with self.backend.session(False):
            results = execute(
                part.plan,
                part.constants,
                self.backend,
                dict(bind(part, arrays, state, self.backend)),
                wanted=keep,
                stop_early=early,
                listeners=self.listeners,
            )
        return [
            (value, result if is_plain(result) else self.backend.to_numpy(result))
            for value, result in results.items()
        ]

    def _check_state(self, state: object) -> None:
        if self.states and state is None:
            raise InputError("state: this model keeps one; pass state=interpreter.make_state()")
        if state is None:
            return
        if not isinstance(state, State) or set(state.cells) != set(self.states):
            raise InputError(
                f"state: must be from this model's make_state, with "
                f"{', '.join(map(repr, self.states)) or 'none'}. Got {state!r}."
            )


def bind(
    part: Part, arrays: Mapping[str, Any], state: State | None, backend: Backend
) -> Iterator[tuple[Value, Any]]:
    """Yields each input of a program with what it is in one run.

    Args:
        part: the program.
        arrays: its inputs by name, as `read_input` gives them.
        state: where the function keeps one.
        backend: whose arrays to make of them.
    """
    for value in part.plan.block.inputs:
        if isinstance(value.type, StateType):
            if state is not None:
                yield value, state.cells[part.description.prefix + value.name]
            continue
        array = arrays[value.name]
        if isinstance(value.type, TensorType) and value.type.shape == ():
            array = array.reshape(())
        yield value, backend.from_numpy(array)


def _plan_stages(source: Runnable, backend: Backend) -> tuple[Part | Suppression | Tabular, ...]:
    """Returns the parts ready to run; what is wrong with any of them is one error."""
    stages: list[Part | Suppression | Tabular] = []
    before: tuple[Tabular, ...] = ()
    problems: list[MlpassError] = []
    shared: dict[Hashable, Array] = {}
    for stage in source.stages:
        if not isinstance(stage, tuple):
            stages.append(stage)
            before += (stage,) if isinstance(stage, Tabular) else ()
            continue
        description, function = stage
        try:
            plan = plan_function(function, backend.name)
        except (UnsupportedOpError, ModelFormatError) as error:
            problems.append(error)
        else:
            stages.append(Part(description, plan, Constants(plan, backend, shared), before))
            before = ()
    if problems:
        worst = next((one for one in problems if isinstance(one, UnsupportedOpError)), problems[0])
        raise type(worst)("; ".join(map(str, problems))) from None
    return tuple(stages)


def is_plain(result: object) -> bool:
    """Returns whether a result is text, a list or the like rather than an array."""
    return isinstance(result, str | int | float | dict | list) or not hasattr(result, "shape")


def _declared(value: Value, array: Any) -> Any:
    if isinstance(value.type, TensorType) and not is_plain(array):
        return restored(array, value.type.dtype)
    return array
