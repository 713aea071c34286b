"""Pruned and quantized or palettized in one solve: what the codes stand for is the weight."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil.mil.ops.defs.iOS18 import compression

from mlpass.errors import ConfigError, NotApplicable
from mlpass.solvers.admm import ADMM
from mlpass.solvers.solve import solve
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.solvers.wanda import Wanda
from mlpass.sparsity.layout import matrix_layout
from mlpass.sparsity.modes import NM, Block, Channel, Kernel, Percentile
from mlpass.storage.normal_float import normal_float
from mlpass.storage.palette import Palette
from mlpass.storage.quantized import Quantized
from mlpass.weights.ops.convolutions import conv_layout
from mlpass.weights.ops.record import layout_of

from .layers import GROUPED, exact_error, fits, layer, stored

METHODS = [SparseGPT(), SparseGPT(refit=True), ADMM(), Wanda()]
LAYOUTS = [
    matrix_layout(32, 48),
    conv_layout((16, 24, 3, 3), 1),
    conv_layout((16, 12, 5), 2),
    layout_of("conv_transpose", "weight", 0, (24, 8, 3), {"groups": 2}),
    layout_of("matmul", "y", 0, (48, 20), {}),
]
QUANTIZATIONS = [
    Quantized("int8"),
    Quantized("int4", block_size=4),
    Quantized("uint8", block_size=12),
    Quantized("uint4"),
]


def spread(small, shape):
    """Returns one value for each element: each axis repeated as the op does it."""
    for axis, (have, want) in enumerate(zip(small.shape, shape, strict=True)):
        small = np.repeat(small, want // have, axis=axis)
    return small


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: str(layout.shape))
def test_codes_stand_for_the_weight(layout, quantization, method, dtype):
    weight, gram = stored(layout)
    weight = weight.astype(dtype)
    found = solve(weight, gram, Percentile(0.5), storage=quantization, method=method, layout=layout)
    assert found.parts["codes"].dtype == (np.int8 if quantization.symmetric else np.uint8)
    assert quantization.limits[0] <= found.parts["codes"].min()
    assert found.parts["codes"].max() <= quantization.limits[1]
    assert found.parts["scale"].dtype == dtype and found.parts["scale"].ndim == weight.ndim
    assert ("offset" not in found.parts) == quantization.symmetric
    assert np.count_nonzero(~found.keep) == weight.size // 2
    assert not found.weight[~found.keep].any()
    codes = found.parts["codes"].astype(np.float32)
    if "offset" in found.parts:
        codes -= spread(found.parts["offset"], weight.shape)
    assert not codes[~found.keep].any()
    decoded = (codes * spread(found.parts["scale"], weight.shape).astype(np.float32)).astype(dtype)
    assert np.array_equal(decoded, found.weight)
    wanted = exact_error(weight, found.weight, gram, layout)
    assert found.error == pytest.approx(wanted, rel=0.02 if dtype == np.float16 else 1e-3)


@pytest.mark.parametrize("size", [3e-7, 2e-5, 1.0, 65504.0])
@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=str)
def test_coremltools_makes_the_weight_of_the_codes(quantization, size):
    weight, inputs = layer(16, 24)
    weight = (weight / np.abs(weight).max() * np.float32(size)).astype(np.float16)
    gram = inputs.T @ inputs
    found = solve(weight, gram, NM(2, 4), storage=quantization, method=Wanda())
    decode = compression.constexpr_blockwise_shift_scale.decompress
    parts = found.parts
    decoded = decode(parts["codes"], parts["scale"], parts.get("offset"))
    made = np.where(found.keep, decoded, 0)
    assert made.dtype == np.float16 and np.isfinite(made).all()
    assert np.array_equal(made, found.weight)


@pytest.mark.parametrize("mode", [Percentile(0.5), NM(2, 4)], ids=str)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_rounding_in_the_sweep_beats_rounding_after_it(method, mode):
    weight, inputs = layer(64, 128)
    gram = inputs.T @ inputs
    found = solve(weight, gram, mode, storage=Quantized("int4"), method=method)
    plain = solve(weight, gram, mode, method=method)
    scale = np.abs(plain.weight).max(axis=1, keepdims=True) / 7
    after = np.rint(plain.weight / scale) * scale
    assert found.error < exact_error(weight, after, gram, matrix_layout(64, 128))
    fine = solve(weight, gram, mode, storage=Quantized("int8"), method=method)
    assert fine.error < 1.05 * plain.error


def test_admm_in_four_bits_is_better_than_sparsegpt_in_float():
    weight, inputs = layer(128, 256)
    gram = inputs.T @ inputs
    joint = solve(weight, gram, Percentile(0.5), storage=Quantized("int4", 32), method=ADMM())
    assert joint.error < solve(weight, gram, Percentile(0.5), method=SparseGPT()).error


ROUNDED = [Quantized("int8"), Quantized("int4"), Palette(bits=4)]
ROUNDED_CASES = [
    (mode, layout)
    for mode in (Percentile(0.5), NM(1, 3), NM(2, 4, dim=0), Block(0.5, 4), Kernel(0.5))
    for layout in LAYOUTS[:3] + GROUPED
    if fits(mode, layout)
]


@pytest.mark.slow_but_every(36)
@pytest.mark.parametrize("samples", [0.1, 4])
@pytest.mark.parametrize("storage", ROUNDED, ids=str)
@pytest.mark.parametrize(("mode", "layout"), ROUNDED_CASES, ids=str)
def test_rounded_admm_is_no_worse_than_rounded_sparsegpt_with_refit(mode, layout, storage, samples):
    weight, gram = stored(layout, samples=samples, decay=3.0, loudness=2)
    base, found = (
        solve(weight, gram, mode, storage=storage, method=method, layout=layout)
        for method in (SparseGPT(refit=True), ADMM())
    )
    error = exact_error(weight, found.weight, gram, layout)
    assert error <= exact_error(weight, base.weight, gram, layout) * 1.001 + 1e-9
    assert not found.weight[~found.keep].any()
    if "scale" in found.parts:  # what is told is what is stored
        steps = found.parts["codes"] * spread(found.parts["scale"], weight.shape)
        assert np.array_equal(np.where(found.keep, steps, 0), found.weight)


@pytest.mark.slow_but_every(7)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize(
    "palettization",
    [Palette(), Palette(group_size=4), Palette(group_size=2, table="normal_float")],
    ids=str,
)
@pytest.mark.parametrize("layout", LAYOUTS[:3], ids=lambda layout: str(layout.shape))
def test_table_entries_are_the_weight(layout, palettization, method, dtype):
    weight, gram = stored(layout)
    weight = weight.astype(dtype)
    found = solve(weight, gram, NM(2, 4), storage=palettization, method=method, layout=layout)
    rows = weight.shape[0]
    size = palettization.rows_a_table(layout)
    assert found.parts["tables"].shape == (rows // size, 16)
    assert found.parts["tables"].dtype == dtype
    assert np.all(np.diff(found.parts["tables"].astype(np.float64), axis=1) >= 0)
    assert found.parts["codes"].dtype == np.uint8 and found.parts["codes"].max() < 16
    tables = np.repeat(found.parts["tables"], rows // len(found.parts["tables"]), axis=0)
    entries = np.take_along_axis(
        tables, found.parts["codes"].reshape(rows, -1).astype(np.intp), axis=1
    )
    decoded = np.where(found.keep, entries.reshape(weight.shape), 0)
    assert np.array_equal(decoded, found.weight)
    wanted = exact_error(weight, found.weight, gram, layout)
    assert found.error == pytest.approx(wanted, rel=0.02 if dtype == np.float16 else 1e-3)
    assert found.error < 0.5


def test_fitted_tables_beat_the_fixed_one():
    weight, inputs = layer(64, 128)
    gram = inputs.T @ inputs
    fitted, fixed = (
        solve(weight, gram, Percentile(0.5), storage=Palette(table=table), method=ADMM()).error
        for table in ("kmeans", "normal_float")
    )
    assert fitted < fixed


def test_the_normal_float_table_is_coremltools_own():
    from coremltools.optimize.torch.layerwise_compression import _quant

    assert np.array_equal(normal_float(16), _quant._normal_float_palette[4].numpy())


@pytest.mark.parametrize("rows", [1, 8])
def test_few_or_no_values_make_a_table_too(rows):
    gram = np.eye(4, dtype=np.float32)
    weight = np.ones((rows, 4), np.float32)
    for mode in (Channel(1.0), Percentile(0.5), Percentile(0.0)):
        for table in ("kmeans", "normal_float"):
            found = solve(weight, gram, mode, storage=Palette(table=table), method=Wanda())
            assert np.allclose(found.weight, weight * found.keep)
        for dtype in ("int4", "uint4"):
            found = solve(weight, gram, mode, storage=Quantized(dtype), method=Wanda())
            assert np.allclose(found.weight, weight * found.keep, atol=0.02)


def test_a_dead_layer_is_rounded_all_the_same():
    weight = layer(16, 32)[0]
    gram = np.zeros((32, 32), np.float32)
    for method in METHODS:
        first = solve(weight, gram, NM(2, 4), storage=Quantized("int8"), method=method)
        second = solve(weight, gram, NM(2, 4), storage=Palette(), method=method)
        assert first.error == second.error == 0
        assert np.allclose(first.weight, weight * first.keep, atol=0.02)
        assert np.allclose(second.weight, weight * second.keep, atol=0.2)


def test_wrong_options_say_which_and_why():
    with pytest.raises(ConfigError, match="must be one of int8, int4, uint8, uint4. Got 'i'"):
        Quantized("i")
    with pytest.raises(ConfigError, match="block_size: must be an int of 1 or more. Got 0"):
        Quantized("int8", 0)
    with pytest.raises(ConfigError, match='table: must be "kmeans" or "normal_float". Got 3'):
        Palette(table=3)
    with pytest.raises(ConfigError, match="group_size: must be an int of 0 or more. Got -1"):
        Palette(group_size=-1)
    with pytest.raises(ConfigError, match="bits: must be 1, 2, 3, 4, 6 or 8. Got 5"):
        Palette(5)


@pytest.mark.parametrize(
    ("storage", "size", "reason"),
    [
        (
            Quantized("int8", 5),
            (4, 12),
            "a scale for 4 input channels: its 12 channels do not",
        ),
        (
            Quantized("int4", 6),
            (4, 13),
            "a scale for each row: its 13 channels do not",
        ),
        (Quantized("int8", 32), (4, 12), None),
        (
            Palette(group_size=4),
            (6, 4),
            "a table for 3 rows: its 6 rows do not divide",
        ),
        (Palette(group_size=8), (17, 4), "one table: its 17 rows do not divide into groups of 8"),
        (Palette(group_size=8), (6, 4), None),
        (Palette(group_size=None), (6, 4), None),
    ],
    ids=str,
)
def test_groups_that_do_not_divide_are_made_smaller_and_said(storage, size, reason):
    gram = np.diag(np.arange(1, size[1] + 1, dtype=np.float32)) + 0.1
    found = solve(layer(*size)[0], gram, NM(2, 4), storage=storage, method=Wanda())
    if reason is None:
        assert found.reason is None
    else:
        assert found.reason.startswith(reason)


def test_blocks_need_input_channels_of_one_axis():
    layout = layout_of("einsum", "values", 1, (2, 3, 4), {"equation": "nab,abu->nu"})
    assert layout.reduced(1).shape == (1, 1, 4)
    with pytest.raises(NotApplicable, match="its input channels are several axes"):
        layout.reduced(2)
