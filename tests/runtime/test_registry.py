"""Every op of coremltools' registry has a kernel, whose signature is the op's schema."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

import coremltools.converters.mil.mil.ops.defs.coreml_dialect  # noqa: F401  (registers its op)
from coremltools.converters.mil.mil.input_type import InternalInputType, PyFunctionInputType
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

from mlpass.runtime.backends.base import open_backend
from mlpass.runtime.control import CONTROL
from mlpass.runtime.kernels.registry import find_kernel, row_parameter

# `const` states a value: the program holds it, nothing computes it. `_const_symbolic` is of
# coremltools, for a size that is still unknown while it converts; no file has it.
NO_KERNEL = {"const", "_const_symbolic"}


def schemas() -> Iterator[tuple[str, int, Any]]:
    """Yields (op type, iOS version, op class) for every op and the opsets that have it."""
    for op_type, versions in sorted(SSAOpRegistry.core_ops.items()):
        if op_type not in NO_KERNEL:
            for target, definition in versions.items():
                yield op_type, int(target.name.removeprefix("iOS")), definition
    for op_type, definition in SSAOpRegistry.dialect_ops.items():
        if op_type.startswith("coreml_"):
            yield op_type, 18, definition


def parameters_of(definition: Any) -> dict[str, bool]:
    """Returns an op class's parameters, and for each whether it may be left out."""
    return {
        name: kind.optional
        for name, kind in definition.input_spec.input_types.items()
        if not isinstance(kind, InternalInputType | PyFunctionInputType)
    }


def kernel_of(op_type: str, opset: int, backend: str) -> Callable[..., Any] | None:
    return CONTROL.get(op_type) or find_kernel(op_type, opset, backend)


@pytest.fixture(params=["numpy", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "torch":
        pytest.importorskip("torch")
    open_backend(request.param)
    return str(request.param)


def test_registry_is_walked() -> None:
    listed = list(schemas())
    assert len({op_type for op_type, _, _ in listed}) > 150
    assert {opset for _, opset, _ in listed} == {13, 14, 15, 16, 17, 18}


def test_every_op_has_a_kernel(backend: str) -> None:
    missing = {
        op_type for op_type, opset, _ in schemas() if kernel_of(op_type, opset, backend) is None
    }
    assert sorted(missing) == []


def test_every_signature_is_the_schema(backend: str) -> None:
    wrong = []
    for op_type, opset, definition in schemas():
        function = kernel_of(op_type, opset, backend)
        if function is None:
            continue  # test_every_op_has_a_kernel says so
        _, *parameters = inspect.signature(function).parameters.values()
        made = {item.name: item.default is not item.empty for item in parameters}
        wanted = parameters_of(definition)
        if made != wanted:
            wrong.append(f"{op_type} iOS{opset}: {sorted(made.items() ^ wanted.items())}")
        if any(item.kind is not item.KEYWORD_ONLY for item in parameters):
            wrong.append(f"{op_type} iOS{opset}: takes parameters by position")
    assert not wrong, "\n".join(wrong)


class _Anything:
    """Stands in for an op: whatever its default inputs ask of it is there."""

    def __getattr__(self, name: str) -> Any:
        return _Anything()

    def __mul__(self, other: Any) -> Any:
        raise TypeError


def test_every_default_is_the_schemas(backend: str) -> None:
    wrong, compared = [], 0
    for op_type, opset, definition in schemas():
        function = kernel_of(op_type, opset, backend)
        try:
            defaults = definition.default_inputs(_Anything()).items()
        except Exception:  # defaults that follow from the op's other inputs
            continue
        for name, value in defaults if function is not None else ():
            parameter = inspect.signature(function).parameters.get(name)
            plain = isinstance(value, bool | int | float | str | list | tuple | np.generic)
            if parameter is None or not plain or parameter.default is parameter.empty:
                continue
            if parameter.default is None:
                continue  # a kernel may take None for a default that depends on its arguments
            compared += 1
            if not np.array_equal(np.asarray(parameter.default), np.asarray(value)):
                wrong.append(f"{op_type} iOS{opset}: {name}={parameter.default!r}, not {value!r}")
    assert not wrong, "\n".join(wrong)
    assert compared > 100


def test_const_has_no_kernel() -> None:
    assert find_kernel("const", 18) is None


def test_kernels_that_see_rows_alone_do(backend: str) -> None:
    function = find_kernel("linear", 18, backend)
    assert function is not None
    assert row_parameter(function) == "x"
    assert row_parameter(find_kernel("softmax", 18, backend)) is None  # type: ignore[arg-type]
    opened = open_backend(backend)
    draw = np.random.default_rng(0)
    rows, weight = (draw.standard_normal(shape).astype(np.float32) for shape in ((6, 8), (4, 8)))
    given = {"weight": opened.from_numpy(weight)}
    together = function(opened.xp, x=opened.from_numpy(rows), **given)
    apart = [function(opened.xp, x=opened.from_numpy(rows[[row]]), **given) for row in range(6)]
    found = np.concatenate([opened.to_numpy(one) for one in apart])
    np.testing.assert_allclose(opened.to_numpy(together), found, rtol=1e-5, atol=1e-6)
