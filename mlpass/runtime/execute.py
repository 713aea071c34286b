"""The loop: run op after op, and let go of every value after its last use."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mlpass.arrays import Array, Namespace
from mlpass.errors import ExecutionError, MlpassError
from mlpass.program.ir import Op, Value
from mlpass.runtime.backends.base import Backend
from mlpass.runtime.constants import Constants
from mlpass.runtime.failures import failure, title_of
from mlpass.runtime.function_plan import BlockPlan, FunctionPlan, OpPlan, made_in
from mlpass.runtime.ops import Source


class Listener(Protocol):
    """Something that sees each op run, those of nested blocks included."""

    def before(self, op: Op, inputs: Mapping[str, object]) -> None:
        """Sees `op` and its arguments before it runs: data are arrays of the backend."""

    def after(self, op: Op, outputs: tuple[object, ...]) -> None:
        """Sees `op` and its results."""


class Recording:
    """A listener that keeps the arguments of wanted ops, each time that they run."""

    def __init__(self, wanted: Sequence[Op]) -> None:
        """Has kept nothing yet."""
        self.found: dict[Op, list[Mapping[str, object]]] = {op: [] for op in wanted}

    def before(self, op: Op, inputs: Mapping[str, object]) -> None:
        """Keeps what a wanted op is given."""
        if op in self.found:
            self.found[op].append(inputs)

    def after(self, op: Op, outputs: tuple[object, ...]) -> None:
        """Has seen enough before."""


class Values(dict[Source, Any]):
    """The values at hand, arrays and what else kernels make, and behind them the constants."""

    def __init__(self, constants: Constants) -> None:
        """Holds nothing yet."""
        super().__init__()
        self.constants = constants

    def __missing__(self, source: Source) -> object:
        return self.constants[source]

    def of(self, source: Source | tuple[Source, ...]) -> object:
        """Returns the value of an argument; all of them, where it is variadic."""
        if isinstance(source, tuple):
            return tuple([self[item] for item in source])
        return self[source]


def execute(
    plan: FunctionPlan,
    constants: Constants,
    backend: Backend,
    inputs: Mapping[Value, Array],
    *,
    wanted: Collection[Value] = (),
    stop_early: bool = False,
    listeners: Sequence[Listener] = (),
) -> dict[Value, Array]:
    """Returns the function's outputs and the `wanted` values.

    Args:
        plan: of the function.
        constants: of the same.
        backend: whose arrays all values are; its session must be entered.
        inputs: one for each of the function's.
        wanted: values to keep. One in a branch that was not taken is not among the results.
        stop_early: whether to stop once all `wanted` values are there; outputs may then be missing.
        listeners: called before and after each op.

    Raises:
        ExecutionError: an op failed.
    """
    run = Run(Values(constants), wanted, backend.xp, listeners)
    run.values.update(inputs.items())
    steps: Iterable[OpPlan] = plan.block.steps
    if stop_early:
        steps = steps_to(plan.block, run.wanted)
    run.steps(steps)
    results = dict.fromkeys((*run.wanted, *plan.block.outputs))
    return {
        value: run.values[value] for value in results if value in run.values or value in constants
    }


def steps_to(block: BlockPlan, wanted: Collection[Value]) -> Sequence[OpPlan]:
    """Returns the steps of a block up to the last that makes a wanted value."""
    last = 0
    for number, step in enumerate(block.steps, 1):
        made = set(step.op.outputs)
        for nested in step.op.blocks:
            made.update(made_in(nested))
        if not made.isdisjoint(wanted):
            last = number
    return block.steps[:last]


class Run:
    """One run of a function."""

    def __init__(
        self,
        values: Values,
        wanted: Collection[Value],
        xp: Namespace,
        listeners: Sequence[Listener] = (),
    ) -> None:
        """Has run nothing yet."""
        self.values = values
        self.wanted = frozenset(wanted)
        self.xp = xp
        self._listeners = listeners

    def arguments(self, step: OpPlan) -> dict[str, Any]:
        """Returns what the kernel of a step is given.

        Raises:
            ExecutionError: it cannot be read.
        """
        values = self.values
        try:
            arguments = values.constants.arguments(step).copy()
            for parameter, source in step.given:
                arguments[parameter] = values.of(source)
        except (MlpassError, OSError):
            raise
        except Exception as error:
            raise failure(step.op, error) from error
        return arguments

    def reading(self, step: OpPlan) -> Mapping[str, object]:
        """Returns the same as `arguments`, each read when it is asked for."""
        return _Reading(self.values, step)

    def steps(self, steps: Iterable[OpPlan]) -> None:
        """Runs some steps, one after another.

        Raises:
            ExecutionError: an op failed.
        """
        for step in steps:
            arguments = self.arguments(step)
            for listener in self._listeners:
                listener.before(step.op, arguments)
            results = self.call(step, arguments)
            del arguments
            for listener in self._listeners:
                listener.after(step.op, results)
            self.finish(step, results)
            del results  # or what nothing reads would live on through the next op

    def finish(self, step: OpPlan, results: tuple[object, ...]) -> None:
        """Takes in what a step has made, and lets go of what nothing after it reads."""
        values, wanted = self.values, self.wanted
        values.update(zip(step.op.outputs, results, strict=True))
        for value in step.release:
            if value not in wanted:
                values.pop(value, None)

    def call(self, step: OpPlan, arguments: dict[str, object]) -> tuple[Any, ...]:
        """Returns what a step makes of arguments.

        Raises:
            ExecutionError: the op failed.
        """
        first = self._blocks(step) if step.blocks else self.xp
        try:
            made = step.function(first, **arguments)
        except MlpassError:
            raise
        except Exception as error:
            raise failure(step.op, error, arguments) from error
        results = made if isinstance(made, tuple) else (made,)
        if len(results) != len(step.op.outputs):
            raise ExecutionError(
                f"{title_of(step.op)}: its kernel makes {len(results)} results, "
                f"the program expects {len(step.op.outputs)}"
            )
        for one in results:
            if isinstance(one, np.generic):
                # Of arrays without axes numpy makes scalars, which not all of its functions take.
                return tuple(map(_with_axes, results))
        return results

    def _blocks(self, step: OpPlan) -> Any:
        def run(number: int, arguments: Sequence[object] = ()) -> tuple[object, ...]:
            block = step.blocks[number]
            self.values.update(zip(block.inputs, arguments, strict=True))
            self.steps(block.steps)
            results = tuple(self.values[value] for value in block.outputs)
            for value in (*block.own, *block.inputs):
                if value not in self.wanted:
                    self.values.pop(value, None)
            return results

        return run


class _Reading(Mapping[str, object]):
    """What the kernel of a step is given, each read when it is asked for."""

    def __init__(self, values: Values, step: OpPlan) -> None:
        self._values = values
        self._step = step
        self._sources = dict(step.arguments)
        self._given = {parameter for parameter, _ in step.given}

    def __getitem__(self, parameter: str) -> object:
        source, values = self._sources[parameter], self._values
        if parameter not in self._given:
            return values.constants.argument(self._step, parameter, source)
        return values.of(source)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def _with_axes(result: object) -> object:
    return np.asarray(result) if isinstance(result, np.generic) else result
