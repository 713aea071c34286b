"""What weights take in a weight file, with the header and the padding of each blob."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence

from mlpass.program.blobs import FILE_HEADER_NBYTES, blob_nbytes
from mlpass.program.ir import Constant, Op, Program
from mlpass.program.reads import constants_of


def footprint(ops: Iterable[Op]) -> int:
    """Returns what the constants of some ops take in weight files, each counted once."""
    return sum(blob_nbytes(each.nbytes) for each in _in_files(ops).values())


def rest_of_files(programs: Sequence[Program], replaced: Collection[Op]) -> int:
    """Returns what the weight files of programs hold besides the constants of some of their ops."""
    ops = [
        op
        for program in programs
        for function in program.functions.values()
        for op in function.block.walk()
    ]
    every, others = _in_files(ops), _in_files(op for op in ops if op not in replaced)
    own = _in_files(replaced).keys() - others.keys()
    files = {storage[0] for storage in every if isinstance(storage, tuple)}
    rest = sum(blob_nbytes(each.nbytes) for place, each in every.items() if place not in own)
    return len(files) * FILE_HEADER_NBYTES + rest


def _in_files(ops: Iterable[Op]) -> dict[Hashable, Constant]:
    """Returns the constants of ops that weight files hold, by where they are."""
    return {
        constant.storage: constant
        for op in ops
        for constant in constants_of(op)
        if constant.in_file
    }
