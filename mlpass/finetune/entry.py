"""A function of a model as a module runs it: what it takes and gives, and its programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from mlpass.errors import UnsupportedOpError
from mlpass.finetune.batching import mapped
from mlpass.program.ir import Argument, Op, Value
from mlpass.program.mlpackage import Package
from mlpass.runtime.backends.base import Backend
from mlpass.runtime.description import Feature
from mlpass.runtime.features import check_names
from mlpass.runtime.function_plan import FunctionPlan, OpPlan
from mlpass.runtime.functions import lay_beside
from mlpass.runtime.interpreter import Interpreter, Part


@dataclass(frozen=True, eq=False)
class Stage:
    """A program of the model, ready to train.

    Attributes:
        part: of the Interpreter.
        plan: its plan with ops that take batches, without classifiers.
        results: the value of each output by name.
        single: the steps of the plan as they take one sample.
        members: of several functions beside each other, the stage of each by its name.
    """

    part: Part
    plan: FunctionPlan
    results: Mapping[str, Argument]
    single: Sequence[OpPlan]
    members: Mapping[str | None, Stage] = field(default_factory=dict)

    def of(self, function: str | None) -> Stage:
        """Returns what a step for a function runs of it."""
        return self.members[function] if self.members else self

    @cached_property
    def ops(self) -> frozenset[Op]:
        """The ops that it runs."""
        return frozenset(step.op for step in self.plan.block.steps)

    @cached_property
    def values(self) -> frozenset[Value]:
        """The values that it is given, and those that it makes."""
        return frozenset(self.plan.block.inputs).union(*(op.outputs for op in self.ops))


@dataclass(frozen=True, eq=False)
class Entry:
    """A function of a model.

    Attributes:
        inputs: what it takes.
        ignored: names of a pipeline's other inputs, for parts that are not run.
        outputs: what it gives.
        states: the shape of each state by its name.
        parts: its programs, as an Interpreter has them.
        stages: the same, ready to train.
    """

    inputs: tuple[Feature, ...]
    ignored: frozenset[str]
    outputs: tuple[Feature, ...]
    states: Mapping[str, tuple[int, ...]]
    parts: tuple[Part, ...]
    stages: tuple[Stage, ...]

    def taken(self, inputs: Mapping[str, object]) -> dict[str, object]:
        """Returns what the programs take of inputs by name.

        Raises:
            InputError: names that are not the model's.
        """
        taken = {name: value for name, value in inputs.items() if name not in self.ignored}
        check_names(taken, self.inputs, self.states)
        return taken


def entry_of(runner: Interpreter, package: Package) -> Entry:
    """Returns what an Interpreter runs, ready to train.

    Raises:
        UnsupportedOpError: it runs parts that have no gradients.
    """
    if kinds := sorted({each.kind for part in runner.parts for each in part.before}):
        raise UnsupportedOpError(
            f"{package.name}: has programs behind parts of kind {', '.join(kinds)}, which have "
            "no gradients; prune it on samples without fine-tuning"
        )
    read = {each.name for part in runner.parts for each in part.description.inputs}
    return Entry(
        tuple(each for each in runner.inputs if each.name in read),
        frozenset(each.name for each in runner.inputs) - read,
        tuple(runner.outputs),
        {name: state.shape for name, state in runner.states.items()},
        runner.parts,
        tuple(map(_stage_of, runner.parts)),
    )


def beside(entries: Mapping[str, Entry], backend: Backend) -> tuple[Stage, ...]:
    """Returns the stages of functions, those of several beside each other."""
    if len(entries) == 1:
        (entry,) = entries.values()
        return entry.stages
    stages = zip(*(entry.stages for entry in entries.values()), strict=True)
    return tuple(_beside(dict(zip(entries, some, strict=True)), backend) for some in stages)


def _beside(members: Mapping[str | None, Stage], backend: Backend) -> Stage:
    parts = [replace(stage.part, plan=stage.plan) for stage in members.values()]
    part = lay_beside(parts, backend)
    single = {step.op: step for stage in members.values() for step in stage.single}
    steps = tuple(single[step.op] for step in part.plan.block.steps)
    return Stage(part, part.plan, {}, steps, members)


def _stage_of(part: Part) -> Stage:
    """Returns a part ready to train: a classifier's probabilities are an output of their own."""
    block = part.plan.block
    results: dict[str, Argument] = {value.name: value for value in block.outputs}
    for step in block.steps:
        if step.op.type == "classify":
            label, probabilities = step.op.outputs
            results.pop(label.name, None)
            if probabilities.name in results:
                (results[probabilities.name],) = step.op.inputs["probabilities"]
    steps = tuple(step for step in block.steps if step.op.type != "classify")
    outputs = tuple(value for value in results.values() if isinstance(value, Value))
    trimmed = mapped(replace(block, steps=steps, outputs=outputs))
    return Stage(part, replace(part.plan, block=trimmed), results, steps)
