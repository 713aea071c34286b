"""Several functions of a model run on one set of samples: as one program, their ops side by side.

Weights that functions share are read by an op of each. In the program of all of them those ops are
neighbours, so that a replay has all samples, of whatever function, come to a weight at once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import accumulate, pairwise
from typing import NamedTuple

from mlpass.errors import CalibrationError
from mlpass.literals import Runner
from mlpass.program.ir import Block, Constant, Function, Op
from mlpass.program.reads import arguments_of
from mlpass.runtime.backends.base import Backend
from mlpass.runtime.calls import function_of
from mlpass.runtime.constants import Constants
from mlpass.runtime.description import Feature
from mlpass.runtime.function_plan import BlockPlan, FunctionPlan, OpPlan
from mlpass.runtime.interpreter import Interpreter, Outputs, Part
from mlpass.runtime.ops import Source, is_constant
from mlpass.runtime.samples import Inputs, Sample, listed
from mlpass.runtime.state import State
from mlpass.runtime.stretches import Bounds


def runner_of(
    model: object,
    functions: Sequence[str | None],
    *,
    backend: Runner,
    device: str | None = None,
    function_name: str | None = None,
) -> Interpreter:
    """Returns what runs a model on samples that name these functions: one alone, or several.

    Of a pipeline with other parts that is what comes before them, unless Core ML runs it all.

    Args:
        model: in any form that an `Interpreter` takes, and so for the others.
        functions: that the samples name, as `functions_in`; None for the one that needs no name.
        backend: that it runs on.
        device: torch's.
        function_name: the one that needs no name.

    Raises:
        ConfigError: there is no such function.
        UnsupportedOpError: ops without kernels, all named at once.
    """
    runners = {
        function: Interpreter(
            model,
            backend=backend,
            device=device,
            function_name=function or function_name,
            partial=backend != "coreml",
        )
        for function in functions
    }
    return Functions(runners) if len(runners) > 1 else next(iter(runners.values()))


class Functions(Interpreter):
    """Runs several functions of a model: each step the one that it names."""

    def __init__(self, runners: Mapping[str | None, Interpreter]) -> None:
        """Lays their programs side by side."""
        self.runners = dict(runners)
        first = next(iter(self.runners.values()))
        assert first.backend is not None  # Core ML shows no activations
        self.backend: Backend = first.backend
        self.listeners = []
        self.inputs, self.outputs, self.states = first.inputs, first.outputs, {}
        for runner in self.runners.values():
            runner.listeners = self.listeners
            self.states |= runner.states
        beside = zip(*(runner.parts for runner in self.runners.values()), strict=True)
        self.parts = tuple(lay_beside(parts, self.backend) for parts in beside)

    @property
    def members(self) -> Sequence[Interpreter]:
        """What runs a function each."""
        return tuple(self.runners.values())

    def runner(self, step: Inputs) -> Interpreter:
        """Returns what runs the function that a step is for."""
        return self.runners[function_of(step)]

    def take(self, step: Inputs, state: State | None) -> Outputs:
        """Returns what the function gives that a step is for."""
        runner = self.runner(step)
        if state is None or not runner.states:
            return runner.predict(step)
        return runner.predict(step, state.of(runner.states))

    def new_state(self, sample: Sample) -> State | None:
        """Returns new states for the functions of a sample's steps; None where they keep none.

        Raises:
            CalibrationError: two keep different ones under one name.
        """
        found: dict[str, Feature] = {}
        for step in listed(sample):
            for name, feature in self.runner(step).states.items():
                other = found.setdefault(name, feature)
                if (other.shape, other.dtype) != (feature.shape, feature.dtype):
                    raise CalibrationError(
                        f"sample_data: functions of one sequence keep different states under the "
                        f"name {name!r}: {other.dtype} {other.shape} and {feature.dtype} "
                        f"{feature.shape}"
                    )
        return State(found, self.backend) if found else None


@dataclass(frozen=True, eq=False)
class Beside(Part):
    """A program of several functions, of which a run is one.

    Attributes:
        shared: bounds of neighbouring steps, of several functions, that read one weight.
    """

    shared: tuple[Bounds, ...] = ()

    @property
    def groups(self) -> Sequence[Bounds]:
        """Bounds of neighbouring steps that read one weight."""
        return self.shared


class _Constants(Constants):
    """The constants of several functions, whose opsets may differ."""

    def __init__(self, plan: FunctionPlan, backend: Backend, opsets: Mapping[Op, int]) -> None:
        super().__init__(plan, backend, {})
        self._opsets = opsets

    def _opset_of(self, maker: Op) -> int:
        return self._opsets[maker]


class _Group(NamedTuple):
    """Steps of different functions that read one weight, or one step that reads none of note."""

    steps: tuple[OpPlan, ...]
    weight: Hashable


def lay_beside(parts: Sequence[Part], backend: Backend) -> Beside:
    """Returns the program of several functions' parts."""
    plans = [part.plan for part in parts]
    groups: list[_Group] = []
    for plan in plans:
        groups = _merged(groups, [_Group((s,), _weight(s, plan)) for s in plan.block.steps])
    steps = tuple(step for group in groups for step in group.steps)
    stated = [op for plan in plans for op in plan.function.block.ops if is_constant(op)]
    blocks = [plan.block for plan in plans]
    inputs, outputs, own = (
        tuple(value for block in blocks for value in getattr(block, name))
        for name in ("inputs", "outputs", "own")
    )
    whole = Block(inputs, (*stated, *(step.op for step in steps)), outputs)
    first = plans[0].function
    plan = FunctionPlan(
        Function(", ".join(each.function.name for each in plans), whole, first.opset),
        BlockPlan(inputs, steps, outputs, own),
        {value: op for each in plans for value, op in each.makers.items()},
        frozenset().union(*(each.attributes for each in plans)),
        {name: value for each in plans for name, value in each.names.items()},
    )
    opsets = {op: each.function.opset for each in plans for op in each.makers.values()}
    edges = pairwise(accumulate((len(group.steps) for group in groups), initial=0))
    shared = tuple(bounds for bounds in edges if bounds[1] - bounds[0] > 1)
    return Beside(parts[0].description, plan, _Constants(plan, backend, opsets), shared=shared)


def _merged(first: list[_Group], second: list[_Group]) -> list[_Group]:
    """Returns two functions' steps in one order, those that read one weight beside each other.

    Between those, what is alike follows each other: few values are live where both end a block.
    """
    merged: list[_Group] = []
    done = (0, 0)
    for one, other in _alike(first, second, lambda group: group.weight):
        merged += _between(first[done[0] : one], second[done[1] : other])
        merged.append(_Group(first[one].steps + second[other].steps, first[one].weight))
        done = (one + 1, other + 1)
    return [*merged, *_between(first[done[0] :], second[done[1] :])]


def _between(first: list[_Group], second: list[_Group]) -> list[_Group]:
    """Returns two functions' steps in one order, those of one type after each other."""
    ordered: list[_Group] = []
    done = (0, 0)
    for one, other in _alike(first, second, lambda group: group.steps[0].op.type):
        ordered += [*first[done[0] : one + 1], *second[done[1] : other + 1]]
        done = (one + 1, other + 1)
    return [*ordered, *first[done[0] :], *second[done[1] :]]


def _alike(
    first: list[_Group], second: list[_Group], key: Callable[[_Group], Hashable]
) -> Iterator[tuple[int, int]]:
    """Yields the places of what is one by a key in both, in order; None is nothing."""
    places = [
        [index for index, group in enumerate(groups) if key(group) is not None]
        for groups in (first, second)
    ]
    mine, its = (
        [key(groups[index]) for index in some]
        for groups, some in zip((first, second), places, strict=True)
    )
    for a, b, size in SequenceMatcher(None, mine, its, autojunk=False).get_matching_blocks():
        yield from zip(places[0][a : a + size], places[1][b : b + size], strict=True)


def _weight(step: OpPlan, plan: FunctionPlan) -> Hashable:
    """Returns where the largest constant of a file is stored that a step reads; None without."""
    sources = [] if step.blocks else [*arguments_of(step.op)]
    found = [constant for source in sources for constant in _stored(source, plan)]
    largest = max(found, key=lambda constant: constant.nbytes, default=None)
    return None if largest is None else largest.storage


def _stored(source: Source, plan: FunctionPlan) -> list[Constant]:
    """Returns the constants of weight files that a value is made of, where nothing else is."""
    if isinstance(source, Constant):
        return [source] if source.in_file and source.storage is not None else []
    maker = plan.makers.get(source)
    read = [] if maker is None else [*arguments_of(maker)]
    return [constant for one in read for constant in _stored(one, plan)]
