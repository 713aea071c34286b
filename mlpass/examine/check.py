"""What will go wrong with a model before it is shipped: in its values, program and files."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlpass.errors import ConfigError
from mlpass.examine.latency import latency_estimates
from mlpass.examine.processors import check_processor
from mlpass.examine.ranges import range_hazards
from mlpass.literals import Runner
from mlpass.program.ir import Constant, Function, Op, StateType, TensorType, Value, ValueType
from mlpass.program.mlmodel import open_package
from mlpass.program.mlpackage import Package
from mlpass.program.opsets.targets import specification_version
from mlpass.program.reads import constants_of, values_of
from mlpass.report.check import SEVERITIES, Check, Hazard
from mlpass.report.gathered import gathered
from mlpass.runtime.functions import runner_of
from mlpass.runtime.given import warn_of_each
from mlpass.runtime.ops import is_constant, is_float, label_of
from mlpass.runtime.samples import SampleData, functions_in, load_samples
from mlpass.weights.sites import find_sites

if TYPE_CHECKING:
    from mlpass.program.mlmodel import ModelLike

_MOST_AXES = 5
_MOST_BYTES = 1 << 31  # of a weight file
_LONGEST_AXIS = 1 << 14  # on the Neural Engine
_STATE_WIDTH = 32  # of which a state's last axis is a multiple there
_SHAPED = ("constexpr_lut_to_dense", "constexpr_sparse_to_dense")  # stated a shape before iOS18
_DUPLICATE = 4096  # bytes of a constant: fewer are not worth a word


def check(
    model: ModelLike,
    sample_data: SampleData | None = None,
    *,
    processor: str | None = None,
    backend: Runner = "numpy",
) -> Check:
    """Returns what will go wrong with a model, with the op that it comes from and the cure.

    Args:
        model: path of an `.mlpackage`, or an `MLModel`; or a list of them that run in a row.
        sample_data: as for calibration, of several functions, too; without it the values of the
            model are not looked at.
        processor: "ane", "cpu" or "gpu", to leave out what is about the others.
        backend: of the Interpreter: "numpy" or "torch".

    Raises:
        CalibrationError: there are no samples in what is given.
        ConfigError: there is no such processor, or the backend does not show values.
        ExecutionError: an op failed.
        InputError: a sample does not fit the model.
        ModelFormatError: the model cannot be read.
        UnsupportedOpError: it has ops that cannot be run.
        OSError: it cannot be read.
    """
    check_processor(processor)
    if backend == "coreml":
        raise ConfigError("backend: Core ML does not show what ops make; use numpy or torch")
    samples = [] if sample_data is None else load_samples(sample_data, functions=True)
    with open_package(model) as package:
        found = [each for chunk in package.chunks for each in _static(chunk)]
        name = package.name
        sites = find_sites(package.programs)
        estimates = tuple(latency_estimates(package.programs, sites, processor))
    if samples:
        interpreter = runner_of(model, functions_in(samples), backend=backend)
        warn_of_each(interpreter, samples)
        found += range_hazards(interpreter, samples)
    hazards = list(gathered(found, "places", processor))
    hazards.sort(key=lambda each: SEVERITIES.index(each.severity))
    return Check(name, len(samples), tuple(hazards), estimates)


def _static(package: Package) -> Iterator[Hazard]:
    """Yields what is to be seen without running anything."""
    for path in package.weight_paths:
        if (size := path.stat().st_size) > _MOST_BYTES:
            text = f"the weight file has {size:,} bytes, more than 2 GiB: loading it may fail"
            cure = "make it smaller (mlpass prune --quantize int8), or divide the model"
            source = "coremltools issue 1807 and pull request 2593"
            yield Hazard("warning", "size", None, text, cure, source, (path.name,))
    functions = [each for program in package.programs for each in program.functions.values()]
    newest, stated = max(each.opset for each in functions), package.spec.specificationVersion
    if stated < specification_version(newest):
        text = (
            f"the package states specification version {stated}, and holds a program of "
            f"iOS{newest}, whose version is {specification_version(newest)}: older systems take it "
            "and fail"
        )
        yield Hazard("warning", "age", None, text, None, "coremltools' versions", (package.name,))
    for function in functions:
        yield from _of_function(function)
        yield from _of_shapes(function)
    yield from _of_constants(functions)


def _of_function(function: Function) -> Iterator[Hazard]:
    ops = [op for op in function.block.walk() if not is_constant(op)]
    for op in ops:
        ranks = [len(one.type.shape) for one in op.outputs if isinstance(one.type, TensorType)]
        if max(ranks, default=0) > _MOST_AXES:
            text = f"{op.type} makes an array of {max(ranks)} axes; Core ML takes up to 5"
            source = "coremltools, which refuses to write more"
            yield Hazard("warning", "rank", None, text, None, source, (label_of(op),))
    floats = [op for op in ops if any(is_float(one.type) for one in op.outputs)]
    wide = [op for op in floats if op.type != "cast" and any(map(_is_fp32, op.outputs))]
    if wide:
        text = (
            f"{len(wide)} of {len(floats)} float ops are in fp32, which runs on CPU and GPU alone"
        )
        cure = "convert with compute_precision=ct.precision.FLOAT16 where its range is enough"
        source = "coremltools' guide, Typed Execution"
        names = tuple(label_of(op) for op in wide)
        yield Hazard("note", "fp32", "ane", text, cure, source, names)

    newer = [op for op in function.block.walk() if _form_age(op) > function.opset]
    if newer:
        age = max(map(_form_age, newer))
        text = f"weights are stored in forms of iOS{age}, in a function of iOS{function.opset}"
        cure = f"convert with minimum_deployment_target=ct.target.iOS{age}, and compress that"
        names = tuple(label_of(op) for op in newer)
        yield Hazard("error", "form", None, text, cure, "coremltools' op sets", names)


def _form_age(op: Op) -> int:
    """Returns the iOS version from which on a stored form is known; 0 where an op is not one."""
    if not op.type.startswith("constexpr_"):
        return 0
    since_16 = op.type in ("constexpr_affine_dequantize", "constexpr_cast")
    return 16 if since_16 or (op.type in _SHAPED and "shape" in op.inputs) else 18


def _of_shapes(function: Function) -> Iterator[Hazard]:
    """Yields what the Neural Engine does not take of the shapes of values and states."""
    made = [one for op in function.block.walk() if not is_constant(op) for one in op.outputs]
    values = [*function.block.inputs, *made]
    odd = {one.name: one.type for one in values if _state_width(one.type) % _STATE_WIDTH}
    if odd:
        widths = " and ".join(map(str, sorted({_state_width(each) for each in odd.values()})))
        text = f"the last axis of states is {widths}, not a multiple of {_STATE_WIDTH}"
        cure = "make it wider in the source model, or run it on CPU and GPU"
        yield Hazard("warning", "state", "ane", text, cure, "coremltools issue 2631", tuple(odd))
    long = {one.name: _longest_axis(one.type) for one in values}
    long = {name: size for name, size in long.items() if size > _LONGEST_AXIS}
    if long:
        text = f"axes of up to {max(long.values()):,}: past {_LONGEST_AXIS:,}, ops run elsewhere"
        cure = "divide what makes them, as a layer over a vocabulary, into several"
        source = "coremltools issue 1003, and ONNX Runtime, which leaves such to the CPU"
        yield Hazard("note", "long axis", "ane", text, cure, source, tuple(long))


def _state_width(kind: ValueType) -> int:
    """Returns the size of a state's last axis; 0 of what is not a state of known width."""
    inner = kind.tensor if isinstance(kind, StateType) else None
    return (inner.shape[-1:] or (0,))[0] or 0 if isinstance(inner, TensorType) else 0


def _longest_axis(kind: ValueType) -> int:
    sizes = kind.shape if isinstance(kind, TensorType) else ()
    return max((size or 0 for size in sizes), default=0)


def _of_constants(functions: list[Function]) -> Iterator[Hazard]:
    """Yields weights that nothing reads, and those that are stored more than once."""
    stored: dict[object, tuple[str, Constant]] = {}
    unread: dict[object, tuple[str, Constant]] = {}
    for function in functions:
        used = _used(function)
        for op in function.block.walk():
            read = not op.outputs or used.intersection(op.outputs)
            for one in constants_of(op):
                if one.in_file:
                    (stored if read else unread).setdefault(one.storage, (label_of(op), one))
    for storage, (name, constant) in unread.items():
        if storage not in stored:
            text = f"nothing reads it: {constant.stored_nbytes:,} bytes in the file for nothing"
            yield Hazard("warning", "unused", None, text, None, "the program", (name,))
    alike: defaultdict[tuple[int, bytes], list[str]] = defaultdict(list)
    for name, constant in stored.values():
        if constant.stored_nbytes >= _DUPLICATE:
            digest = hashlib.sha256(memoryview(constant.load()).cast("B")).digest()
            alike[constant.stored_nbytes, digest].append(name)
    for (size, _), names in alike.items():
        if len(names) > 1:
            text = f"the same {size:,} bytes are stored {len(names)} times"
            cure = "convert again with the pass common::const_deduplication"
            yield Hazard("warning", "duplicate", None, text, cure, "the weight file", tuple(names))


def _used(function: Function) -> set[Value]:
    """Returns the values that an op or an output of any block reads."""
    used = {value for block in function.block.walk_blocks() for value in block.outputs}
    for op in function.block.walk():
        used.update(values_of(op))
    return used


def _is_fp32(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.dtype == "fp32"
