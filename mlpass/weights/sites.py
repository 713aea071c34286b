"""The weight sites of a program: which constants its ops read as weights, and which only seem so.

A site is one stored constant with every use of it, in every function of every program that shares
its storage: it is decided once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.program.ir import Block, Constant, Op, Program, TensorType, Value
from mlpass.weights.ops.record import WEIGHT_OPS

_FLOATS = {"fp16", "fp32", "fp64", "bf16", "fp8e4m3fn", "fp8e5m2"}


@dataclass(frozen=True, eq=False)
class Use:
    """One reading of a constant.

    Attributes:
        op: that reads it.
        parameter: by which it does.
        position: among the arguments of that parameter.
        settings: the op's other parameters that are constant and small, as Python values.
    """

    op: Op
    parameter: str
    position: int
    settings: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Site:
    """A weight: what makes it, and who reads it.

    Attributes:
        name: of the value that the ops read, with the part and function it is in where the model
            has several of that name.
        names: of all values that share the storage, without those.
        makers: the ops that make them: `const`, or a `constexpr_*` where it is compressed.
        parts: for a compressed weight, every op that takes part in making it, the maker last.
        constant: the stored constant; for a compressed weight None.
        uses: every reading, by an op that takes it as a weight.
        opset: iOS version of the program it is in.
        other_use: who else reads it, so that it must be left as it is; None where nobody does.
    """

    name: str
    names: tuple[str, ...]
    makers: tuple[Op, ...]
    parts: tuple[Op, ...]
    constant: Constant | None
    uses: tuple[Use, ...]
    opset: int
    other_use: str | None

    @property
    def refusal(self) -> str | None:
        """Why it must be left as it is; None where it may be pruned."""
        if self.constant is None:
            return f"it is already compressed, by {self.makers[0].type}"
        if self.dtype not in _FLOATS:
            return f"its elements are {self.dtype}, not floats"
        if self.dtype not in ("fp16", "fp32"):
            return f"its elements are {self.dtype}; fp16 and fp32 can be pruned"
        return self.other_use

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight as the ops read it."""
        return tuple(size or 0 for size in self._type.shape)

    @property
    def dtype(self) -> str:
        """Element type of the weight as the ops read it."""
        return self._type.dtype

    @property
    def _type(self) -> TensorType:
        value_type = self.makers[0].outputs[-1].type
        assert isinstance(value_type, TensorType)  # find_sites takes tensors alone
        return value_type


def find_sites(
    programs: Iterable[Program], parameters: Mapping[str, Collection[str]] = WEIGHT_OPS
) -> list[Site]:
    """Returns the weight sites of `programs`, in the order in which they are first made.

    Args:
        programs: of one model.
        parameters: those that hold what is looked for, by op type.
    """
    graph = _Graph()
    for program in programs:
        for function in program.functions.values():
            place = "/".join(filter(None, (program.name, function.name)))
            _gather(function.block, program.opset, place, graph, parameters)
    sites = []
    for makers in graph.makers.values():
        outputs = [maker.outputs[-1] for maker in makers]
        uses = [use for value in outputs for use in graph.readings.get(value, ())]
        if uses:
            others = [graph.others[value] for value in outputs if value in graph.others]
            sites.append(_site(makers, uses, others[0] if others else None, graph))
    counts = Counter(site.name for site in sites)
    return [
        replace(site, name=f"{graph.places[site.makers[0]]}/{site.name}")
        if counts[site.name] > 1
        else site
        for site in sites
    ]


def constants_of(op: Op) -> list[Constant]:
    """Returns the constants that an op states."""
    return [
        argument
        for arguments in op.inputs.values()
        for argument in arguments
        if isinstance(argument, Constant)
    ]


def is_position_table(table: NDArray[Any]) -> bool:
    """Returns whether a table's columns are sinusoids of the row, as those of positions are.

    Any sinusoid f(p) of an integer p satisfies f(p + 1) + f(p - 1) = 2 cos(w) f(p) with one factor
    for all p, whatever its phase and amplitude. A trained table does not.

    Args:
        table: (rows, ...), floats.
    """
    if table.ndim < 2 or len(table) < 8:
        return False
    rows = table[:64].astype(np.float64).reshape(min(64, len(table)), -1)
    neighbours, centre = rows[2:] + rows[:-2], rows[1:-1]
    power = np.sum(centre * centre, axis=0)
    live = power > 0
    if not live.any():
        return False
    factor = np.sum(neighbours * centre, axis=0)[live] / power[live]
    error = np.abs(neighbours[:, live] - factor * centre[:, live]).max()
    return bool(error <= 4e-3 * np.abs(rows).max() and np.all(np.abs(factor) <= 2.001))


@dataclass
class _Graph:
    """What is gathered over all programs.

    Attributes:
        makers: the const and constexpr ops, by what they make: those of one storage together.
        producers: the same ops by the value they make.
        firsts: for each of them, the first that makes the same.
        opsets: the opset of the program that each of them is in.
        places: the part of a pipeline and the function that each of them is in, as text.
        constants: what const ops make.
        readings: who reads a value as a weight.
        others: who reads it as something else, or that it is an output: as a reason.
    """

    makers: dict[Hashable, list[Op]] = field(default_factory=dict)
    producers: dict[Value, Op] = field(default_factory=dict)
    firsts: dict[Op, Op] = field(default_factory=dict)
    opsets: dict[Op, int] = field(default_factory=dict)
    places: dict[Op, str] = field(default_factory=dict)
    constants: dict[Value, Constant] = field(default_factory=dict)
    readings: dict[Value, list[Use]] = field(default_factory=dict)
    others: dict[Value, str] = field(default_factory=dict)


def _gather(
    block: Block,
    opset: int,
    place: str,
    graph: _Graph,
    parameters: Mapping[str, Collection[str]],
) -> None:
    for op in block.walk():
        constexpr = op.type.startswith("constexpr_")
        if op.type == "const" or constexpr:
            _note_maker(op, opset, graph)
            graph.places[op] = place
        if constexpr:
            continue
        settings = _settings(op, graph.constants) if op.type in parameters else {}
        for parameter, arguments in op.inputs.items():
            for position, value in enumerate(arguments):
                if not isinstance(value, Value):
                    continue
                if parameter in parameters.get(op.type, ()):
                    use = Use(op, parameter, position, settings)
                    graph.readings.setdefault(value, []).append(use)
                else:
                    graph.others[value] = (
                        f"it is also read by {op.type} ({parameter}), as no weight"
                    )
    for nested in block.walk_blocks():
        for value in nested.outputs:
            graph.others[value] = "it is also an output"


def _note_maker(op: Op, opset: int, graph: _Graph) -> None:
    output = op.outputs[-1]
    if not isinstance(output.type, TensorType):
        return
    if op.type == "const":
        graph.constants.update((output, constant) for constant in constants_of(op))
    graph.opsets[op] = opset
    makers = graph.makers.setdefault((opset, _identity(op, graph)), [])
    makers.append(op)
    graph.producers.update((value, op) for value in op.outputs)
    graph.firsts[op] = makers[0]


def _identity(op: Op, graph: _Graph) -> Hashable:
    """Returns what two ops have in common that make one stored weight."""
    parts: list[Hashable] = []
    for parameter, arguments in sorted(op.inputs.items()):
        for argument in arguments:
            if isinstance(argument, Value):
                producer = graph.producers.get(argument)
                parts.append((parameter, graph.firsts[producer] if producer else argument))
            elif argument.storage is not None:
                parts.append((parameter, argument.storage))
            elif op.type == "const":
                return op
            else:
                value = argument.load()
                raw = value.tobytes() if isinstance(value, np.ndarray) else repr(value)
                parts.append((parameter, argument.type, raw))
    return op.type, *parts


def _settings(op: Op, known: Mapping[Value, Constant]) -> dict[str, Any]:
    """Returns the op's scalar and text parameters that are constant."""
    settings = {}
    for parameter, arguments in op.inputs.items():
        constants = [a if isinstance(a, Constant) else known.get(a) for a in arguments]
        if len(constants) != 1 or constants[0] is None:
            continue
        if isinstance(constants[0].type, TensorType) and constants[0].type.shape == ():
            value = constants[0].read()
            settings[parameter] = value.item() if isinstance(value, np.ndarray) else value
    return settings


def _site(makers: list[Op], uses: list[Use], other_use: str | None, graph: _Graph) -> Site:
    names = tuple(dict.fromkeys(maker.outputs[-1].name for maker in makers))
    constant = graph.constants.get(makers[0].outputs[-1])
    parts = tuple(_parts(makers[0], graph)) if constant is None else ()
    opset = graph.opsets[makers[0]]
    return Site(names[0], names, tuple(makers), parts, constant, tuple(uses), opset, other_use)


def _parts(op: Op, graph: _Graph) -> Iterator[Op]:
    """Yields the ops that `op` builds on, each once and after those it builds on, then `op`.

    A loop, since a program may be as deep as it is long.
    """
    done: set[Op] = set()
    waiting = [op]
    while waiting:
        producers = (
            graph.producers.get(argument)
            for arguments in waiting[-1].inputs.values()
            for argument in arguments
            if isinstance(argument, Value)
        )
        before = [producer for producer in producers if producer and producer not in done]
        if before:
            waiting += before
        elif (ready := waiting.pop()) not in done:
            done.add(ready)
            yield ready
