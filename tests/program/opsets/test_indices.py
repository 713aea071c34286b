"""Gathers and scatters of iOS15 and 16 in iOS17 and 18: an index from the end stays one."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import get_new_symbol, types

from mlpass import UnsupportedOpError
from mlpass.program.mlpackage import Package
from tests.program.opsets.raised import check, package_of, raise_to

rng = np.random.default_rng(0)
X = rng.standard_normal((3, 4, 5)).astype(np.float32)
SPEC = mb.TensorSpec((3, 4, 5))
WRAPS = ["greater_equal", "add", "select"]


def table(*shape):
    return rng.standard_normal(shape).astype(np.float32)


# What each op reads, and places of its axis from the end.
OPS = {
    "gather": lambda x, i: mb.gather(x=x, indices=i, axis=-2),
    "gather_along_axis": lambda x, i: mb.gather_along_axis(
        x=x, indices=mb.tile(x=mb.reshape(x=i, shape=[1, 3, 1]), reps=[3, 1, 5]), axis=1
    ),
    "gather_nd": lambda x, i: mb.gather_nd(x=x, indices=mb.reshape(x=i, shape=[1, 3])),
    "scatter": lambda x, i: mb.scatter(data=x, indices=i, updates=table(3, 3, 5), axis=1),
    "scatter_along_axis": lambda x, i: mb.scatter_along_axis(
        data=x,
        indices=mb.tile(x=mb.reshape(x=i, shape=[1, 3, 1]), reps=[3, 1, 5]),
        updates=table(3, 3, 5),
        axis=-2,
        mode="update",
    ),
    "scatter_nd": lambda x, i: mb.scatter_nd(
        data=x, indices=mb.reshape(x=i, shape=[1, 3]), updates=table(1), mode="mul"
    ),
}


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("opset", [15, 16])
@pytest.mark.parametrize("op_type", OPS)
def test_indices_that_are_computed_are_counted_from_the_end(op_type, opset, tmp_path):
    old = package_of(
        tmp_path,
        lambda x, i: mb.identity(x=OPS[op_type](x, i), name="y"),
        [SPEC, mb.TensorSpec((3,), types.int32)],
        opset,
    )
    for raised in (17, 18):
        found = check(old, {"x": X, "i": np.array([-1, 2, -3], np.int32)}, raised)
        assert [one for one in found if one in WRAPS] == WRAPS


@pytest.mark.parametrize("op_type", OPS)
def test_indices_that_are_never_negative_need_nothing(op_type, tmp_path):
    def build(x, i):
        return mb.identity(x=OPS[op_type](x, mb.reduce_argmax(x=i, axis=0)), name="y")

    old = package_of(tmp_path, build, [SPEC, mb.TensorSpec((4, 3))], 15)
    found = check(old, {"x": X, "i": rng.permutation(12).reshape(4, 3).astype(np.float32) % 3})
    assert not set(found) & {"greater_equal", "select"}


@pytest.mark.parametrize("opset", [15, 16])
@pytest.mark.parametrize("places", [[-1, 0, -4], [3, 0]])
def test_indices_that_are_stated_are_counted_as_they_are_written(places, opset, tmp_path):
    def build(x):
        return mb.gather(x=x, indices=np.array(places, np.int32), axis=1, name="y")

    old = package_of(tmp_path, build, [SPEC], opset)
    assert check(old, {"x": X}) == ["gather"]
    with Package(tmp_path / "raised18.mlpackage") as package:
        (function,) = package.programs[0].functions.values()
        stated = {
            op.name: op.inputs["val"][0].read().tolist()
            for op in function.block.ops
            if op.type == "const"
        }
    assert [places != one for one in stated.values()].count(False) == (min(places) >= 0)
    assert [place % 4 for place in places] in stated.values()
    assert False in stated.values()  # validate_indices, which coremltools states, too


def test_indices_that_nothing_reads_any_more_go(tmp_path):
    def build(x):
        places = mb.const(val=np.array([-1, 2], np.int32), name="places")
        return (
            mb.gather(x=x, indices=places, axis=0, name="y"),
            mb.gather(x=mb.square(x=x), indices=places, axis=1, name="z"),
        )

    old = package_of(tmp_path, build, [SPEC], 16)
    assert check(old, {"x": X}).count("gather") == 2
    with Package(tmp_path / "raised18.mlpackage") as package:
        (function,) = package.programs[0].functions.values()
        assert "y" in {op.name for op in function.block.ops}
    assert "places" not in {op.name for op in function.block.ops}


def test_indices_that_others_read_stay(tmp_path):
    def build(x):
        places = mb.const(val=np.array([-1, 2], np.int32), name="places")
        picked = mb.gather(x=x, indices=places, axis=0, name="y")
        return picked, mb.cond(
            pred=mb.greater(x=mb.reduce_sum(x=x), y=0.0),
            _true_fn=lambda: mb.identity(x=places),
            _false_fn=lambda: mb.add(x=places, y=places),
        )

    check(package_of(tmp_path, build, [SPEC], 16), {"x": X})


@pytest.mark.parametrize("op_type", ["gather", "gather_nd"])
def test_sizes_that_are_not_known_are_asked_for(op_type, tmp_path):
    import coremltools as ct

    def build(x, i):
        if op_type == "gather":
            return mb.gather(x=x, indices=i, axis=1, name="y")
        return mb.gather_nd(x=x, indices=mb.reshape(x=i, shape=[1, 3]), name="y")

    symbol = get_new_symbol()
    specs = [mb.TensorSpec((3, symbol, 5)), mb.TensorSpec((3,), types.int32)]
    shape = ct.Shape((3, ct.RangeDim(2, 9, 4), 5))
    inputs = [ct.TensorType("x", shape=shape), ct.TensorType("i", shape=(3,), dtype=np.int32)]
    old = package_of(tmp_path, build, specs, 15, inputs=inputs)
    found = check(old, {"x": X, "i": np.array([-1, 0, -2], np.int32)})
    assert found.count("shape") == 1


@pytest.mark.parametrize("dtype", [types.int16, types.uint16])
def test_short_indices(dtype, tmp_path):
    def build(x, i):
        short = mb.const(val=np.array([-1, 3], np.int16), name="short")
        if dtype == types.uint16:
            short = mb.const(val=np.array([1, 3], np.uint16), name="short")
        return mb.gather(x=x, indices=short, axis=i.shape[0], name="y")

    old = package_of(tmp_path, build, [SPEC, mb.TensorSpec((1,))], 16)
    found = check(old, {"x": X, "i": np.zeros(1, np.float32)})
    assert found.count("gather") == 1


def test_a_depth_that_is_not_known_is_refused(tmp_path):
    from tests.program.packages import edit_spec

    def build(x, i):
        return mb.gather_nd(x=x, indices=i, name="y")

    out = tmp_path / "new.mlpackage"
    old = package_of(tmp_path, build, [SPEC, mb.TensorSpec((1, 3), types.int32)], 15)

    def edit(spec):
        for function in spec.mlProgram.functions.values():
            (named,) = [one for one in function.inputs if one.name == "i"]
            named.type.tensorType.dimensions[1].unknown.SetInParent()

    edit_spec(old, edit)
    text = "gather_nd 'y': how many axes its indices choose is not known"
    with pytest.raises(UnsupportedOpError, match=text):
        raise_to(old, out, 17)
    with Package(raise_to(old, out, 16)) as package:
        assert package.programs[0].opset == 16
