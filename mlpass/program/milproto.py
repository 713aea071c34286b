"""A MIL program's message, with the graph that is decoded from it, and new ops put back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from mlpass.program import ir
from mlpass.program.decode import BlobReader, decode
from mlpass.program.folding import fold_program
from mlpass.program.messages import encode_op
from mlpass.program.names import names_in, with_free_names
from mlpass.program.reads import constants_of, values_of

if TYPE_CHECKING:
    from mlpass.program.proto import Message


class MilProto:
    """A MIL program message, with the graph decoded from it and the way back to the message.

    Attributes:
        message: the message.
        program: the graph.
        blobs: every constant of the graph that is stored in a weight file, with its message.
        sparse: the functions that got ops which are not plain constants.
    """

    def __init__(
        self,
        message: Message,
        name: str,
        open_blobs: Callable[[str], BlobReader],
        prefix: str = "",
    ) -> None:
        """Decodes `message`, a MIL.proto Program.

        Raises:
            ModelFormatError: the message is not a program that can be read; nothing is half-read.
        """
        self.message = message
        self._functions, self._blocks, self._places, self.blobs = decode(
            message, open_blobs, prefix
        )
        opset = max((function.opset for function in self._functions.values()), default=0)
        self.program, self._origins = fold_program(ir.Program(name, self._functions, opset))
        for new, old in self._origins.items():
            self._places[new] = self._places[old]
        self._stand_ins = {old: new for new, old in self._origins.items()}
        self._halves: set[ir.Value] = set()
        self.sparse: set[str] = set()

    def owns(self, op: ir.Op) -> bool:
        """Returns whether `op` is one of this program's, and not replaced yet."""
        return op in self._places

    def replace(
        self,
        op: ir.Op,
        new_ops: Sequence[ir.Op],
        store: Callable[[ir.Constant], tuple[str, int]],
        opset: int | None = None,
    ) -> None:
        """Puts `new_ops` in the place of `op`, of this program.

        Args:
            op: what it makes keeps its names, as the last new op does; what only it reads goes.
            new_ops: in order of execution; all else about them gets names that are free.
            store: writes a constant to a weight file and returns (file name, offset).
            opset: that they are written for; None for the function's own.
        """
        listed, number, message, function = self._places.pop(op)
        for constant in constants_of(op):
            self.blobs.pop(constant, None)
        self._readers.update(_reads(new_ops))
        self._let_go(self._origins.get(op, op))
        if any(new.type != "const" for new in new_ops):
            self.sparse.add(function)
        opset = opset or self.program.functions[function].opset
        named = with_free_names(new_ops, self._names[function], op.outputs)
        *before, last = (encode_op(new, opset, store) for new in named)
        listed.insert_before(number, before)
        message.CopyFrom(last)

    def other_halves(self) -> list[tuple[ir.Op, ir.Constant]]:
        """Returns what still reads weights of which other parts were replaced, and what it makes.

        Stored by themselves, such slices take no more than they do in the whole.
        """
        found = []
        for op, origin in self._origins.items():
            (made,) = op.inputs.get("val", (None,))
            half = not self._halves.isdisjoint(values_of(origin))
            if isinstance(made, ir.Constant) and op in self._places and half:
                found += [(op, made)] if made.nbytes <= made.stored_nbytes else []
        return found

    @cached_property
    def _names(self) -> dict[str, set[str]]:
        """Those that are taken, by function; the first edit asks for them, and adds its own."""
        return {name: names_in(blocks) for name, blocks in self._blocks.items()}

    @cached_property
    def _makers(self) -> dict[ir.Value, ir.Op]:
        """Who makes each value."""
        ops = (op for function in self._functions.values() for op in function.block.walk())
        return {value: op for op in ops for value in op.outputs}

    @cached_property
    def _readers(self) -> Counter[ir.Value]:
        """How many read each value; every edit keeps count."""
        readers: Counter[ir.Value] = Counter()
        for function in self._functions.values():
            readers.update(_reads(function.block.walk()))
            for nested in function.block.walk_blocks():
                readers.update(nested.outputs)
        return readers

    def _let_go(self, op: ir.Op) -> None:
        """Takes what an op that was replaced reads out of the message, where nothing else does."""
        waiting = [op]
        while waiting:
            given = waiting.pop()
            for constant in constants_of(given):
                self.blobs.pop(constant, None)
            for value in values_of(given):
                self._readers[value] -= 1
                if getattr(value.type, "dtype", "").startswith("fp"):
                    self._halves.add(value)
                maker = self._makers.get(value)
                if maker in self._places and not any(map(self._readers.get, maker.outputs)):
                    place = self._places.pop(maker)
                    self._places.pop(self._stand_ins.get(maker, maker), None)
                    place.ops.remove(place.number)
                    waiting.append(maker)


def _reads(ops: Iterable[ir.Op]) -> Iterator[ir.Value]:
    """Yields the values that ops read, each as often as they do."""
    return (value for op in ops for value in values_of(op))
