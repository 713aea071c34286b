"""A run that goes on with other weights from where these are first read, again and again.

What comes before is run once. So a model in which one weight after another is tried takes half the
work of as many runs, and trials do not need each other's constants: they may run at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mlpass.arrays import Array
from mlpass.program.ir import Value
from mlpass.runtime.constants import Others
from mlpass.runtime.execute import Run, Values
from mlpass.runtime.features import read_input, write_output
from mlpass.runtime.interpreter import Interpreter, Outputs, bind, is_plain
from mlpass.runtime.samples import Inputs
from mlpass.runtime.stretches import uses_of


def can_go_on(interpreter: Interpreter) -> bool:
    """Returns whether a model is one program that keeps no state."""
    members, states = interpreter.members, interpreter.states
    return len(members) == 1 and not states and interpreter.is_one_program


class Onward:
    """One sample on its way through a model."""

    def __init__(self, interpreter: Interpreter, inputs: Inputs) -> None:
        """Has run nothing yet.

        Args:
            interpreter: that `can_go_on`; its backend's session must be entered.
            inputs: as for `Interpreter.predict`.

        Raises:
            InputError: they do not fit.
        """
        (part,) = interpreter.parts
        assert interpreter.backend is not None  # Core ML has no parts
        self._interpreter, self._part, self._backend = interpreter, part, interpreter.backend
        self._steps, self._end = part.plan.block.steps, len(part.plan.block.steps)
        self._uses = uses_of(part.plan)
        self._inputs = {
            feature.name: read_input(feature, inputs.get(feature.name))
            for feature in part.description.inputs
        }
        self._begin()

    def _begin(self) -> None:
        self._run, self._done = self._with(), 0
        self._run.values.update(bind(self._part, self._inputs, None, self._backend))

    def _with(self, weights: Mapping[Value, Array] | None = None) -> Run:
        constants = self._part.constants
        own = constants if weights is None else Others(constants, weights)
        return Run(Values(own), (), self._backend.xp)

    def outputs(self, weights: Mapping[Value, Array]) -> Callable[[], Outputs]:
        """Returns what runs on with other weights, and gives the model's outputs as `predict` does.

        It is soonest where weights come in the order in which the model reads them.

        Args:
            weights: by the values that they are in the program. One that it does not read changes
                nothing.

        Raises:
            ExecutionError: an op failed; so where it runs on.
        """
        first = min((uses[0] for uses in map(self._uses.get, weights) if uses), default=self._end)
        if first < self._done:
            self._begin()
        self._run.steps(self._steps[self._done : first])
        self._done = first
        other = self._with(weights)
        other.values.update(self._run.values)

        def run_on() -> Outputs:
            other.steps(self._steps[first:])
            made = {}
            for value in self._part.plan.block.outputs:
                result = other.values[value]
                made[value.name] = result if is_plain(result) else self._backend.to_numpy(result)
            return {
                feature.name: write_output(feature, made[feature.name])
                for feature in self._interpreter.outputs
            }

        return run_on
