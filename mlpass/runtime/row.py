"""The programs of a model, which run one after another, as one graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from mlpass.program.ir import Op, StateType, Value
from mlpass.runtime.description import Feature
from mlpass.runtime.function_plan import reads
from mlpass.runtime.interpreter import Interpreter, Part
from mlpass.runtime.ops import Source

_Any = TypeVar("_Any", bound=Source)


class Row:
    """What reads and makes each value, across programs.

    An input that a program before makes, an array under its name, is that value. What tables or
    images make of one is another.

    Attributes:
        ops: those of the main blocks in order, but for constants.
        makers: the op that makes each value.
        readers: of each value the ops that read it, themselves or in their blocks.
        stated: constant values.
        left: values that something else reads: outputs, and those that other parts take.
    """

    def __init__(self, runner: Interpreter) -> None:
        """Reads the programs of a model, or those of one function of it."""
        self.ops: list[Op] = []
        self.makers: dict[Value, Op] = {}
        self.readers: dict[Value, list[Op]] = {}
        self.stated: set[Source] = set()
        self.left: set[Value] = set()
        self._numbers: dict[Op | Value, int] = {}  # of the program that each is in
        self._handed: set[Value] = set()  # outputs of programs
        self._before: dict[Source, Value] = {}  # what inputs are in the program that makes them
        known: dict[str, Value] = {}  # what is handed on now, by name
        for number, part in enumerate(runner.parts):
            self._pass_tables(part, known)
            self._take(part, known)
            self._append(part, number)
            made = {value.name: self.origin(value) for value in part.plan.block.outputs}
            self._handed.update(made.values())
            known.update(made)
        self.left.update(self.origin(value) for value in runner.parts[-1].plan.block.outputs)
        self.left.update(_among(known, runner.outputs))

    def origin(self, source: _Any) -> _Any | Value:
        """Returns what an input is where it was made; everything else as it is."""
        return self._before.get(source, source)

    def shows(self, value: Value, op: Op) -> bool:
        """Returns whether a value can be there when an op runs: its program has it, or is given it.

        Args:
            value: from `origin`.
            op: any of `ops`.
        """
        home, place = self._numbers.get(value), self._numbers[op]
        return home == place or (home is not None and home < place and value in self._handed)

    def _pass_tables(self, part: Part, known: dict[str, Value]) -> None:
        """Notes what parts for tables before a program read, and forgets what they make anew."""
        for table in part.before:
            self.left.update(_among(known, table.description.inputs))
            for feature in table.description.outputs:
                known.pop(feature.name, None)

    def _take(self, part: Part, known: dict[str, Value]) -> None:
        """Notes what the inputs of a program are."""
        arrays = {each.name for each in part.description.inputs if each.kind == "array"}
        for value in part.plan.block.inputs:
            if isinstance(value.type, StateType) or value.name not in known:
                continue
            if value.name in arrays:
                self._before[value] = known[value.name]
            else:
                self.left.add(known[value.name])

    def _append(self, part: Part, number: int) -> None:
        """Takes in the ops of a program."""
        self.stated.update(part.plan.makers)
        self._numbers.update((value, number) for value in part.plan.block.inputs)
        for op in (step.op for step in part.plan.block.steps):
            self.ops.append(op)
            self.makers.update((value, op) for value in op.outputs)
            self._numbers.update(dict.fromkeys((op, *op.outputs), number))
            for value in dict.fromkeys(map(self.origin, reads(op))):
                self.readers.setdefault(value, []).append(op)


def _among(known: dict[str, Value], features: tuple[Feature, ...]) -> Iterator[Value]:
    return (known[each.name] for each in features if each.name in known)
