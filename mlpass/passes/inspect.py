"""What is in a model: its functions and ops, and what each weight is and costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import ModelFormatError
from mlpass.program.ir import Constant, Op, Program, TensorType
from mlpass.program.mlmodel import open_package
from mlpass.program.sites import Site, find_sites
from mlpass.report.records import FunctionRecord, LayerRecord, Report
from mlpass.runtime.materialize import materialize

# Parameters of constexpr ops that say how their parts are read, and are none themselves.
_STEERING = frozenset({"shape", "axis", "vector_axis", "output_dtype"})


def inspect(source: Any) -> Report:
    """Returns a report of a model as it is: nothing is changed or written.

    Args:
        source: path of an `.mlpackage`, or an `MLModel`.

    Raises:
        ModelFormatError: it is no package with an ML Program, or a broken one.
        OSError: it cannot be read.
    """
    with open_package(source) as package:
        nbytes = package.nbytes
        layers = tuple(untouched_record(site) for site in find_sites(package.programs))
        functions = function_records(package.programs)
        return Report(str(package.path), None, nbytes, nbytes, functions, layers)


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
        encoding=encoding_of(site.parts),
        bytes_before=nbytes,
        bytes_after=nbytes,
        skipped=skipped,
    )


def stored_bytes(site: Site) -> int:
    """Returns the stored bytes of all that a weight is made from, what is shared counted once."""
    if site.constant is not None:
        return site.constant.stored_nbytes
    constants = {
        constant.storage or constant: constant
        for op in site.parts
        for parameter, arguments in op.inputs.items()
        for constant in arguments
        if isinstance(constant, Constant)
        and parameter not in _STEERING
        and not (site.is_computed and _is_setting(constant))
    }
    return sum(constant.nbytes for constant in constants.values())


def _is_setting(constant: Constant) -> bool:
    """Returns whether a constant says how an op works (axes, text), rather than holds a weight."""
    if not isinstance(constant.type, TensorType):
        return True
    return constant.dtype.name in ("int32", "bool", "string")


def encoding_of(parts: Iterable[Op]) -> str:
    """Returns how a weight is stored, by the ops that make it: "sparse + quantized", "dense"."""
    types = {op.type for op in parts}
    words = {
        "sparse": ("constexpr_sparse_to_dense",),
        "quantized": (
            "constexpr_affine_dequantize",
            "constexpr_blockwise_shift_scale",
            "constexpr_sparse_blockwise_shift_scale",
        ),
        "palettized": ("constexpr_lut_to_dense", "constexpr_lut_to_sparse"),
        "cast": ("constexpr_cast",),
    }
    found = [word for word, kinds in words.items() if types.intersection(kinds)]
    return " + ".join(found) or "dense"


def zeros_of(site: Site) -> int | None:
    """Returns how many elements of a weight are zero; None where its values cannot be read."""
    try:
        weight = weight_of(site)
    except ModelFormatError:
        return None
    return weight.size - count_nonzero(weight)


def weight_of(site: Site) -> NDArray[Any]:
    """Returns a site's weight as the ops read it.

    Raises:
        ModelFormatError: it is broken, or of a type without array form.
    """
    if site.constant is not None:
        return np.asarray(site.constant.read())
    if site.is_computed:
        raise ModelFormatError(f"{site.name}: the model makes it as it runs")
    return materialize(site.parts, site.opset)


def count_nonzero(weight: NDArray[Any]) -> int:
    """Returns how many elements are not zero; floats by their bits, which is faster."""
    if weight.dtype.kind != "f":
        return int(np.count_nonzero(weight))
    bits = weight.reshape(-1).view(f"u{weight.dtype.itemsize}")
    return int(np.count_nonzero(bits << bits.dtype.type(1)))  # without the sign
