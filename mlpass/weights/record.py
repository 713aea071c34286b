"""The records of a model as it is: its functions, and each weight with what it takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from mlpass.program.ir import Constant, Op, Program, TensorType
from mlpass.report.records import FunctionRecord, LayerRecord
from mlpass.weights.reading import zeros_of
from mlpass.weights.sites import Site

# Parameters of constexpr ops that say how their parts are read.
ATTRIBUTES = frozenset({"shape", "axis", "vector_axis", "output_dtype"})
WITH_OUTLIERS = " + outliers"
# What a report calls a form, by the ops that are in it.
_ENCODINGS = {
    "sparse": ("constexpr_sparse_to_dense",),
    "quantized": (
        "constexpr_affine_dequantize",
        "constexpr_blockwise_shift_scale",
        "constexpr_sparse_blockwise_shift_scale",
    ),
    "palettized": ("constexpr_lut_to_dense", "constexpr_lut_to_sparse"),
    "cast": ("constexpr_cast",),
}


def function_records(programs: Sequence[Program]) -> tuple[FunctionRecord, ...]:
    """Returns a record for each function of `programs`."""
    return tuple(
        FunctionRecord(
            program.name,
            function.name,
            function.opset,
            dict(Counter(op.type for op in function.block.walk() if op.type != "const")),
        )
        for program in programs
        for function in program.functions.values()
    )


def untouched_record(
    site: Site, skipped: str | None = None, *, counted: bool = True
) -> LayerRecord:
    """Returns the record of a site as it is.

    Args:
        site: the site.
        skipped: why it is left so.
        counted: whether to read the weight and count its zeros.
    """
    nbytes = stored_bytes(site)
    zeros = zeros_of(site) if counted else None
    return LayerRecord(
        name=site.name,
        op_type=site.uses[0].op.type,
        parameter=site.uses[0].parameter,
        shape=site.shape,
        dtype=site.dtype,
        mode=None,
        method=None,
        zeros=zeros,
        sparsity=None if zeros is None else zeros / max(1, int(np.prod(site.shape))),
        encoding=encoding_of_site(site),
        bytes_before=nbytes,
        bytes_after=nbytes,
        skipped=skipped,
        functions=site.functions,
    )


def stored_bytes(*forms: Site) -> int:
    """Returns the stored bytes of all that a weight is made from, what is shared counted once.

    Args:
        forms: that it has, one of each, where functions of different opsets share it.
    """
    first = forms[0]
    if first.constant is not None:
        return first.constant.stored_nbytes
    parts = (part for site in forms for part in site.every_part)
    return nbytes_of(parts, computed=first.is_computed)


def stored_sizes(site: Site) -> tuple[int, ...]:
    """Returns the stored bytes of each constant that a weight is made from."""
    if site.constant is not None:
        return (site.constant.stored_nbytes,)
    return tuple(one.nbytes for one in _constants(site.every_part, site.is_computed))


def nbytes_of(ops: Iterable[Op], *, computed: bool = False) -> int:
    """Returns the stored bytes of the constants that ops make a weight from, each counted once.

    Args:
        ops: that make it.
        computed: whether the model makes it as it runs, by ops that have settings as well.
    """
    return sum(constant.nbytes for constant in _constants(ops, computed))


def _constants(ops: Iterable[Op], computed: bool) -> Iterable[Constant]:
    constants = {
        constant.storage or constant: constant
        for op in ops
        for parameter, arguments in op.inputs.items()
        for constant in arguments
        if isinstance(constant, Constant)
        and parameter not in ATTRIBUTES
        and not (computed and _is_setting(constant))
    }
    return constants.values()


def _is_setting(constant: Constant) -> bool:
    """Returns whether a constant says how an op works (axes, text), rather than holds a weight."""
    if not isinstance(constant.type, TensorType):
        return True
    return constant.dtype.name in ("int32", "bool", "string")


def encoding_of_site(site: Site) -> str:
    """Returns how a weight is stored, and whether it has outliers."""
    return encoding_of(site.parts) + (WITH_OUTLIERS if site.apart is not None else "")


def encoding_of(parts: Iterable[Op]) -> str:
    """Returns how a weight is stored, by the ops that make it: "sparse + quantized", "dense"."""
    types = {op.type for op in parts}
    found = [word for word, kinds in _ENCODINGS.items() if not types.isdisjoint(kinds)]
    return " + ".join(found) or "dense"
