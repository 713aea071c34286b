"""How weights follow from their stored floats: against decoding them, and finite differences."""

import numpy as np
import pytest
import torch

from mlpass.finetune import to_stored_module
from mlpass.finetune.places import Places, floats_of, places_of, slots_of, with_constant
from mlpass.program.dtypes import BY_NAME, pack_elements
from mlpass.program.ir import Constant, Op, TensorType, Value
from mlpass.runtime.materialize import materialize
from mlpass.weights.reading import weight_of
from mlpass.weights.sites import Site
from tests.finetune.compressed import FORMS, compressed

RANDOM = np.random.default_rng(3)


def decode(site, floats, values):
    new = Constant.of(values.astype(np.float32).reshape(floats.shape))
    return materialize([with_constant(op, floats, new) for op in site.parts], site.opset)


def slopes(site, floats, picked, direction):
    """Slopes of sum(direction * weight) in single floats, by differences of what is decoded."""
    values = np.array(floats.read(), np.float64).reshape(-1)
    found = []
    for number in picked:
        step = np.zeros_like(values)
        step[number] = 2.0**-4
        ends = [decode(site, floats, values + sign * step).astype(np.float64) for sign in (1, -1)]
        found.append(float((direction * (ends[0] - ends[1])).sum() / 2.0**-3))
    return found


@pytest.mark.parametrize(
    ("levels", "places", "count", "wanted"),
    [
        ([0, 1, 0, 1], [0, 1, 0, 0], 2, [3, 1]),
        (None, [1, 0], 2, None),  # all are floats
        ([0, 1, 1, 1], [0, 1, 0, 0], 2, None),  # one makes two elements
        ([0, 1, 0, 1], [0, 1, 0, 1], 2, None),  # and another none
        ([0, 2, 0, 1], [0, 1, 0, 0], 2, None),  # multiplied
    ],
)
def test_slots_are_where_floats_and_zeros_are_all(levels, places, count, wanted):
    levels = None if levels is None else np.array(levels, np.float32)
    found = slots_of(Places(levels, np.array(places, np.int32)), count)
    assert (found is None) == (wanted is None)
    assert found is None or found.tolist() == wanted


@pytest.mark.slow_but_every(21)
@pytest.mark.parametrize("form", FORMS)
def test_weights_and_their_gradients(form, tmp_path):
    module = to_stored_module(compressed(form, tmp_path))
    assert len(module.sites) >= 3
    for name, site in module.sites.items():
        wanted = torch.from_numpy(np.array(weight_of(site), np.float32))
        assert torch.equal(module.eval().weight(name).detach(), wanted), name
        made = module.train().weight(name)
        torch.testing.assert_close(made.detach(), wanted, rtol=2**-10, atol=0)
        if site.constant is not None:
            continue
        floats = floats_of(site)
        direction = RANDOM.standard_normal(site.shape)
        module.zero_grad()
        (made * torch.from_numpy(direction.astype(np.float32))).sum().backward()
        parameter = module.get_parameter(module.parameter_of(name))
        grad = parameter.grad.reshape(-1).numpy()
        moving = np.flatnonzero(parameter.detach().reshape(-1).numpy())
        picked = RANDOM.choice(moving, min(3, len(moving)), replace=False)
        found = slopes(site, floats, picked, direction)
        np.testing.assert_allclose(grad[picked], found, rtol=2e-3, atol=2e-3 * abs(grad).max())


def site_of(*parts, opset=18):
    return Site("w", ("w",), (parts[-1],), parts, None, (), (opset,), None)


def constant(array, element=None):
    if element is None:
        return Constant.of(array)
    return Constant.packed(pack_elements(array, BY_NAME[element]), element, array.shape)


def value(name, dtype, shape):
    return Value(name, TensorType(dtype, shape))


def test_a_palette_of_vectors():
    codes = constant(RANDOM.integers(0, 4, (6, 5)).astype(np.uint8), "uint2")
    table = constant(RANDOM.standard_normal((3, 1, 4, 2)).astype(np.float16))
    inputs = {"indices": (codes,), "lut": (table,), "vector_axis": (constant(np.int32(1)),)}
    site = site_of(Op("constexpr_lut_to_dense", "w", inputs, (value("w", "fp16", (6, 10)),)))
    assert floats_of(site) is table
    levels, places = places_of(site, table)
    assert levels is None
    np.testing.assert_array_equal(
        table.read().reshape(-1)[places].reshape(6, 10), materialize(site.parts, 18)
    )


def test_a_table_that_is_quantized_itself():
    codes = constant(RANDOM.integers(0, 16, (6, 5)).astype(np.uint8), "uint4")
    entries = constant(RANDOM.integers(-128, 128, (3, 1, 16, 1)).astype(np.int8))
    scale = constant(RANDOM.random((3, 1, 1, 1)).astype(np.float16))
    table = value("t", "fp16", (3, 1, 16, 1))
    inner = Op(
        "constexpr_blockwise_shift_scale", "t", {"data": (entries,), "scale": (scale,)}, (table,)
    )
    outer = Op(
        "constexpr_lut_to_dense",
        "w",
        {"indices": (codes,), "lut": (table,)},
        (value("w", "fp16", (6, 5)),),
    )
    site = site_of(inner, outer)
    assert floats_of(site) is scale
    levels, places = places_of(site, scale)
    made = (levels * scale.read().astype(np.float32).reshape(-1)[places].reshape(6, 5)).astype("f2")
    np.testing.assert_array_equal(made, materialize(site.parts, 18))


def test_more_floats_than_a_digit_counts():
    count = 70_000
    kept = RANDOM.standard_normal(count).astype(np.float32)
    mask = np.zeros(2 * count, np.uint8)
    mask[RANDOM.permutation(2 * count)[:count]] = 1
    nonzero = constant(kept)
    inputs = {"nonzero_data": (nonzero,), "mask": (constant(mask, "uint1"),)}
    made = (value("w", "fp32", mask.shape),)
    levels, places = places_of(site_of(Op("constexpr_sparse_to_dense", "w", inputs, made)), nonzero)
    np.testing.assert_array_equal(levels, mask)
    np.testing.assert_array_equal(places[mask == 1], np.arange(count))


def test_what_is_stated_beside_and_what_holds_no_floats():
    source = constant(RANDOM.standard_normal(12).astype(np.float16))
    stated = value("s", "fp16", (12,))
    parts = (
        Op("const", "s", {"val": (source,)}, (stated,)),
        Op(
            "constexpr_cast",
            "w",
            {
                "source_val": (stated,),
                "output_dtype": (Constant(TensorType("string", ()), lambda: "fp32"),),
            },
            (value("w", "fp32", (12,)),),
        ),
    )
    site = site_of(*parts, opset=16)
    assert floats_of(site) is source
    levels, places = places_of(site, source)
    assert levels is None
    assert places.tolist() == list(range(12))
    codes = Op(
        "const", "w", {"val": (constant(np.zeros(3, np.int32)),)}, (value("w", "fp16", (3,)),)
    )
    assert floats_of(site_of(codes)) is None
