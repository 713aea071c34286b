"""The weight sites of a program: which constants its ops read as weights, and which only seem so.

A site is one stored constant with every use of it, in every function of every program that shares
its storage: it is decided once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from mlpass.collector import paused_collector
from mlpass.program.encode import form_of
from mlpass.program.ir import Block, Constant, Op, Program, TensorType, Value
from mlpass.program.reads import constants_of, values_of
from mlpass.runtime.ops import is_constant
from mlpass.weights.adapters import find_adapters
from mlpass.weights.apart import is_sum, joined
from mlpass.weights.computed import computed_values
from mlpass.weights.last import last_readers
from mlpass.weights.ops.record import WEIGHT_OPS
from mlpass.weights.site import Site, Use

__all__ = ["Site", "Use", "find_sites", "gather_sites"]


@paused_collector()
def find_sites(
    programs: Iterable[Program], parameters: Mapping[str, Collection[str]] = WEIGHT_OPS
) -> list[Site]:
    """Returns the weight sites of `programs`, in the order in which they are first made.

    Args:
        programs: of one model.
        parameters: those that hold what is looked for, by op type.
    """
    programs = [*programs]
    sites = gather_sites(programs, parameters)
    readers = Counter(use.op for site in sites for use in site.uses)
    last, adapters = last_readers(programs, readers), find_adapters(programs, sites)
    return [
        replace(
            site,
            is_last=any(use.op in last for use in site.uses),
            adds_up=all(is_sum(use) and readers[use.op] == 1 for use in site.uses),
            is_adapter=site in adapters,
        )
        for site in sites
    ]


@paused_collector()
def gather_sites(
    programs: Iterable[Program], parameters: Mapping[str, Collection[str]] = WEIGHT_OPS
) -> list[Site]:
    """Returns the same sites as they are stored: what they are to the model is left open.

    Args:
        programs: of one model.
        parameters: those that hold what is looked for, by op type.
    """
    graph, programs = _Graph(), [*programs]
    for program in programs:
        for function in program.functions.values():
            place = "/".join(filter(None, (program.name, function.name)))
            _gather(function.block, function.opset, place, graph, parameters)
    _leave_what_makes_weights(graph)
    sites = []
    for makers in graph.makers.values():
        outputs = [maker.outputs[-1] for maker in makers]
        uses = [use for value in outputs for use in graph.readings.get(value, ())]
        if uses:
            others = [graph.others[value] for value in outputs if value in graph.others]
            # What nobody reads is behind ops that are folded, which have sites of their own.
            read = [
                maker
                for maker, value in zip(makers, outputs, strict=True)
                if value in graph.readings or value in graph.others
            ]
            sites.append(_site(read, uses, others[0] if others else None, graph))
    counts = Counter(site.name for site in sites)
    found = [
        replace(site, name=f"{graph.places[site.makers[0]]}/{site.name}")
        if counts[site.name] > 1
        else site
        for site in sites
    ]
    return joined(programs, found)


@dataclass
class _Graph:
    """What is gathered over all programs.

    Attributes:
        makers: the const and constexpr ops, by what they make: those of one storage together;
            compressed ones where their opsets have the same forms.
        producers: the same ops by the value they make.
        firsts: for each of them, the first that makes the same.
        opsets: the opset of the function that each of them is in.
        places: the part of a pipeline and the function that each of them is in, as text.
        constants: what const ops make.
        computed: the values that other ops make of constants, see `computed_values`.
        readings: who reads a value as a weight.
        others: who reads it as something else, or that it is an output: as a reason.
    """

    makers: dict[Hashable, list[Op]] = field(default_factory=dict)
    producers: dict[Value, Op] = field(default_factory=dict)
    firsts: dict[Op, Op] = field(default_factory=dict)
    opsets: dict[Op, int] = field(default_factory=dict)
    places: dict[Op, str] = field(default_factory=dict)
    constants: dict[Value, Constant] = field(default_factory=dict)
    computed: dict[Value, Op] = field(default_factory=dict)
    readings: dict[Value, list[Use]] = field(default_factory=dict)
    others: dict[Value, str] = field(default_factory=dict)


def _gather(
    block: Block,
    opset: int,
    place: str,
    graph: _Graph,
    parameters: Mapping[str, Collection[str]],
) -> None:
    computed = computed_values(block)
    graph.computed.update(computed)
    graph.producers.update(computed)
    for op in block.walk():
        if is_constant(op):
            _note_maker(op, opset, graph)
            graph.places[op] = place
            continue
        wanted = parameters.get(op.type, ())
        settings = _settings(op, graph.constants) if wanted else {}
        for parameter, arguments in op.inputs.items():
            for position, value in enumerate(arguments):
                if not isinstance(value, Value):
                    continue
                if parameter in wanted:
                    _note_computed(value, opset, place, graph)
                    use = Use(op, parameter, position, settings)
                    graph.readings.setdefault(value, []).append(use)
                else:
                    graph.others[value] = (
                        f"it is also read by {op.type} ({parameter}), not as a weight"
                    )
    for nested in block.walk_blocks():
        for value in nested.outputs:
            graph.others[value] = "it is also an output"


def _leave_what_makes_weights(graph: _Graph) -> None:
    """Notes what ops read that make a weight of constants: that weight's own site tells of it."""
    computed = [
        op for op in graph.firsts if op.type != "const" and op.outputs[-1] in graph.computed
    ]
    made = {value for op in computed for part in _parts(op, graph) for value in part.outputs}
    for value, uses in graph.readings.items():
        for use in uses:
            if not made.isdisjoint(use.op.outputs):
                graph.others.setdefault(value, f"a weight is made of it, by {use.op.type}")


def _note_maker(op: Op, opset: int, graph: _Graph) -> None:
    output = op.outputs[-1]
    if not isinstance(output.type, TensorType):
        return
    graph.opsets[op], form = opset, None
    if op.type == "const":
        for constant in constants_of(op):
            graph.constants[output] = constant
    else:
        form = form_of(opset)
    makers = graph.makers.setdefault((form, _identity(op, graph)), [])
    makers.append(op)
    for value in op.outputs:
        graph.producers[value] = op
    graph.firsts[op] = makers[0]


def _note_computed(value: Value, opset: int, place: str, graph: _Graph) -> None:
    """Notes the op that makes a weight of constants, if it is one."""
    op = graph.computed.get(value)
    if op is None or op in graph.firsts or not isinstance(value.type, TensorType):
        return
    graph.makers[op] = [op]
    graph.firsts[op], graph.opsets[op], graph.places[op] = op, opset, place


def _identity(op: Op, graph: _Graph) -> Hashable:
    """Returns a key that is equal for two ops that make one stored weight."""
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


def _settings(op: Op, known: Mapping[Value, Constant]) -> dict[str, object]:
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
    opsets = tuple(graph.opsets[maker] for maker in makers)
    functions = tuple(sorted({graph.places[maker] for maker in makers}))
    return Site(
        names[0],
        names,
        tuple(makers),
        parts,
        constant,
        tuple(uses),
        opsets,
        other_use,
        functions=functions,
    )


def _parts(op: Op, graph: _Graph) -> Iterator[Op]:
    """Yields the ops that `op` builds on, each once and after those it builds on, then `op`.

    A loop, since a program may be as deep as it is long.
    """
    done: set[Op] = set()
    waiting = [op]
    while waiting:
        producers = map(graph.producers.get, values_of(waiting[-1]))
        before = [producer for producer in producers if producer and producer not in done]
        if before:
            waiting += before
        elif (ready := waiting.pop()) not in done:
            done.add(ready)
            yield ready
