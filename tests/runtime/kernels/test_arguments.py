"""A kernel's annotations say how its arguments are given: attributes as Python values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb
from programs import program

import mlpass
from mlpass.arrays import Array
from mlpass.errors import ExecutionError
from mlpass.runtime.kernels.arguments import kinds_of, read
from mlpass.runtime.kernels.registry import find_kinds

pytestmark = pytest.mark.usefixtures("forget_kernels")

FORMS = [np.asarray, torch.asarray]


def every(
    xp: Any,
    *,
    x: Array,
    axes: tuple[int, ...] | None = None,
    axis: int = 0,
    epsilon: float = 1.0,
    keep_dims: bool = False,
    mask: tuple[bool, ...] = (),
    pads: tuple[tuple[int, int], ...] = (),
    sizes: Sequence[int] = (),
    values: Sequence[Array] = (),
    plain=None,
    mode: str = "",
) -> None: ...


@pytest.mark.parametrize("make", FORMS)
def test_attributes_are_read_as_they_are_annotated(make: Callable[[Any], Any]) -> None:
    given = {
        "x": make([1.0]),
        "axes": make([0, 2]),
        "axis": make(-1),
        "epsilon": make(0.5),
        "keep_dims": make(True),
        "mask": make([True, False]),
        "pads": make([[1, 2], [3, 4]]),
        "sizes": (make(3), make([4])),
        "values": (make([1.0]), make([2.0])),
        "plain": make([1]),
    }
    found = read(kinds_of(every), given)
    assert found["axes"] == (0, 2)
    assert type(found["axis"]) is int
    assert found["axis"] == -1
    assert type(found["epsilon"]) is float
    assert found["keep_dims"] is True
    assert found["mask"] == (True, False)
    assert found["pads"] == ((1, 2), (3, 4))
    assert found["sizes"] == (3, 4)
    for name in ("x", "values", "plain"):
        assert found[name] is given[name]


def test_types_that_are_no_text_say_the_same() -> None:
    def annotated(xp, *, x, axes, values, mode): ...

    annotated.__annotations__ = {"axes": tuple[int, ...] | None, "values": Sequence[Array]}
    kinds = kinds_of(annotated)
    assert list(kinds.attributes) == ["axes"]
    assert kinds.variadic == {"values"}


def test_what_a_user_does_not_annotate_is_as_in_our_own_kernel() -> None:
    @mlpass.kernel("reduce_sum")
    def reduce_sum(xp, *, x, axes=None, keep_dims: Array = False): ...

    assert list(find_kinds("reduce_sum", 18).attributes) == ["axes"]

    @mlpass.kernel("concat")
    def concat(xp, **arguments): ...

    assert find_kinds("concat", 18).variadic == {"values"}
    assert set(find_kinds("concat", 18).attributes) == {"axis", "interleave"}


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_attributes_that_the_program_computes_are_python_values_too(backend: str) -> None:
    seen: list[Any] = []

    @mlpass.kernel("slice_by_size")
    def slice_by_size(xp, *, x: Array, begin: tuple[int, ...], size: tuple[int, ...]) -> Array:
        seen.append((begin, size))
        return x[begin[0] : begin[0] + size[0]]

    def build(x: Any) -> Any:
        begin = mb.cast(x=mb.slice_by_index(x=x, begin=[0], end=[1]), dtype="int32")
        return mb.slice_by_size(x=x, begin=begin, size=[2], name="out")

    source = program(build, (5,), opset=ct.target.iOS17)
    made = mlpass.Interpreter(source, backend=backend).predict({"x": np.arange(2.0, 7.0)})
    assert made["out"].tolist() == [4, 5]
    assert seen == [((2,), (2,))]


def test_an_attribute_of_another_form_is_an_error_that_names_it() -> None:
    @mlpass.kernel("reduce_sum")
    def reduce_sum(xp, *, x: Array, axes: int, keep_dims: bool = False) -> Array: ...

    source = program(lambda x: mb.reduce_sum(x=x, axes=[0, 1], name="out"), (2, 2))
    with pytest.raises(ExecutionError, match=r"reduce_sum 'out': axes: too many values"):
        mlpass.Interpreter(source).predict({"x": np.ones((2, 2))})
