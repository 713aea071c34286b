"""Lossless storage: coremltools decodes what is written to the very same values, in fewer bytes."""

from __future__ import annotations

import warnings

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass.errors import ConfigError, NotApplicable
from mlpass.program.mlpackage import Package
from mlpass.weights.lossless import check_decoded
from mlpass.weights.sites import find_sites
from tests import peer
from tests.weights.test_storing import DTYPES, SHAPES, build

RANDOM = np.random.default_rng(5)


def table(shape, count=12):
    return RANDOM.choice(RANDOM.standard_normal(count).astype(np.float32), shape)


def rows_of_tables(shape):
    return np.stack([table(shape[1:], 3) for _ in range(shape[0])])


def zeroed(values):
    return np.where(RANDOM.random(values.shape) < 0.7, 0, values)


def grid(shape, low, high, size):
    """Integers times a scale for each row of `size` columns of the first two axes."""
    codes = RANDOM.integers(low, high, shape)
    scale = RANDOM.uniform(0.01, 0.1, (shape[0], -(-shape[1] // size)))
    scale = np.repeat(scale.astype(np.float16), size, axis=1)[:, : shape[1]]
    return codes * scale.astype(np.float32).reshape(*scale.shape, *[1] * (len(shape) - 2))


VALUES = {
    "table": table,
    "tables": rows_of_tables,
    "sparse table": lambda shape: zeroed(table(shape)),
    "sparse tables": lambda shape: zeroed(rows_of_tables(shape)),
    "sparse": lambda shape: zeroed(RANDOM.standard_normal(shape)),
    "int4": lambda shape: grid(shape, -8, 8, 16),
    "int8": lambda shape: grid(shape, -128, 128, 1 << 10),
    "uint4": lambda shape: grid(shape, 0, 16, 16),
    "sparse int4": lambda shape: zeroed(grid(shape, -8, 8, 16)),
    "minus zero": lambda shape: zeroed(table(shape)) * -1,
    "zeros": np.zeros,
}


def save(program, path, target, dtype="fp16"):
    precision = ct.precision.FLOAT16 if dtype == "fp16" else ct.precision.FLOAT32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # coremltools leaves a directory behind
        model = ct.convert(
            program,
            convert_to="mlprogram",
            compute_precision=precision,
            minimum_deployment_target=target,
            skip_model_load=True,
        )
        model.save(str(path))
        del model


def weights_of(path):
    """The weights that ops read, as coremltools decodes them."""
    found = []
    for op in peer.all_ops(peer.load_programs(path)):
        if op.op_type in ("linear", "conv", "conv_transpose", "matmul"):
            variable = op.inputs["y" if op.op_type == "matmul" else "weight"]
            found.append(peer.value_of(variable.op))
    return found


def lossless(source, target, **options):
    """The report of a lossless package, whose weights coremltools finds equal to its source's."""
    report = mlpass.prune(source, target, storage=mlpass.Lossless(), **options)
    for ours, wanted in zip(weights_of(target), weights_of(source), strict=True):
        # -0 is not kept: it is 0 beside a mask and in a table
        assert peer.same(ours + ours.dtype.type(0), wanted + wanted.dtype.type(0))
    return report


@pytest.mark.slow_but_every(10)
@pytest.mark.parametrize(("dtype", "opset"), [("fp16", 18), ("fp32", 18), ("fp16", 16)])
@pytest.mark.parametrize("kind", VALUES)
def test_values_are_the_same_in_fewer_bytes(tmp_path, kind, dtype, opset):
    source, target = tmp_path / "a.mlpackage", tmp_path / "b.mlpackage"
    values = {name: VALUES[kind](shape).astype(DTYPES[dtype]) for name, shape in SHAPES.items()}
    weights = {name: each.astype(np.float32) for name, each in values.items()}
    aim = getattr(ct.target, f"iOS{opset}")
    save(build(weights, aim), source, aim, dtype)
    report = lossless(source, target)
    assert report.bytes_after <= report.bytes_before
    assert all(layer.bytes_after <= layer.bytes_before for layer in report.layers)
    if kind in ("table", "sparse table", "minus zero", "zeros"):
        large = [layer for layer in report.layers if np.prod(layer.shape) > 2048]
        assert large
        assert all(layer.bytes_after < layer.bytes_before / 2 for layer in large)


@pytest.mark.parametrize(
    ("kind", "encoding", "bits"),
    [
        ("table", "palettized", 4.3),
        ("sparse table", "sparse + palettized", 2.7),
        ("int4", "quantized", 5.1),
        ("int8", "quantized", 8.3),
        ("sparse", "sparse", 6.2),
    ],
)
def test_the_form_is_the_one_that_the_values_come_from(tmp_path, kind, encoding, bits):
    weight = VALUES[kind]((64, 64)).astype(np.float16)
    report = lossless(linear(tmp_path, weight), tmp_path / "b.mlpackage")
    (layer,) = report.layers
    assert layer.encoding == encoding
    assert 8 * layer.bytes_after / weight.size < bits


def linear(folder, weight, target=ct.target.iOS18):
    """The path of a package with one linear layer."""

    @mb.program(input_specs=[mb.TensorSpec((1, weight.shape[1]))], opset_version=target)
    def program(x):
        return mb.linear(x=x, weight=weight.astype(np.float32))

    folder.mkdir(exist_ok=True)
    path = folder / "source.mlpackage"
    save(program, path, target)
    return path


def test_values_of_blocks_on_a_grid_with_a_float_offset_get_a_table_for_each_block(tmp_path):
    codes = RANDOM.integers(0, 16, (64, 2, 32))
    scale, low = RANDOM.uniform(0.01, 0.02, (64, 2, 1)), RANDOM.standard_normal((64, 2, 1)) / 8
    weight = (codes * scale + low).astype(np.float16).reshape(64, 64)
    (layer,) = lossless(linear(tmp_path, weight), tmp_path / "b.mlpackage").layers
    assert (layer.encoding, layer.bytes_after) == ("palettized", 64 * 64 * 12 // 8)


def test_a_weight_without_pattern_stays_as_it_is_with_its_reason(tmp_path):
    weight = RANDOM.standard_normal((64, 64)).astype(np.float16)
    (layer,) = lossless(linear(tmp_path, weight), tmp_path / "b.mlpackage").layers
    assert layer.skipped == "no form of the same values takes less than its 8192 bytes"
    weight[0, 0] = np.inf
    broken = linear(tmp_path / "broken", weight)
    report = mlpass.prune(broken, tmp_path / "c.mlpackage", storage="lossless")
    assert report.layers[0].skipped == "it holds NaN or inf"


@pytest.mark.parametrize(
    "compress",
    [
        lambda model: cto.palettize_weights(
            model, optimized(cto.OpPalettizerConfig, mode="uniform", nbits=8)
        ),
        lambda model: cto.linear_quantize_weights(
            model, optimized(cto.OpLinearQuantizerConfig, dtype="int8")
        ),
        lambda model: cto.prune_weights(
            model, optimized(cto.OpMagnitudePrunerConfig, target_sparsity=0.3)
        ),
        lambda model: cto.palettize_weights(
            cto.prune_weights(model, optimized(cto.OpMagnitudePrunerConfig, target_sparsity=0.3)),
            optimized(cto.OpPalettizerConfig, mode="uniform", nbits=8),
            joint_compression=True,
        ),
    ],
    ids=["palettized", "quantized", "sparse", "joint"],
)
def test_what_coremltools_compressed_is_decoded_and_stored_in_less(tmp_path, compress):
    weight = (RANDOM.integers(-3, 4, (64, 64)) / 16).astype(np.float16)
    linear(tmp_path, weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # as above
        model = ct.models.MLModel(str(tmp_path / "source.mlpackage"), skip_model_load=True)
        model = compress(model)
        model.save(str(tmp_path / "compressed.mlpackage"))
        del model
    report = lossless(tmp_path / "compressed.mlpackage", tmp_path / "b.mlpackage")
    (layer,) = report.layers
    assert layer.bytes_after < layer.bytes_before
    assert report.bytes_after < report.bytes_before
    types = [op.op_type for op in peer.all_ops(peer.load_programs(tmp_path / "b.mlpackage"))]
    assert sum(each.startswith("constexpr_") for each in types) <= 2  # the old ones are gone


def optimized(kind, **options):
    return cto.OptimizationConfig(kind(weight_threshold=0, **options))


def test_a_mode_and_lossless_prune_first(tmp_path):
    source = linear(tmp_path, table((64, 64)).astype(np.float16))
    report = mlpass.prune(
        source, tmp_path / "b.mlpackage", mlpass.Percentile(0.75), storage=mlpass.Lossless()
    )
    (layer,) = report.layers
    assert (layer.zeros, layer.encoding) == (64 * 64 * 3 // 4, "sparse + palettized")
    (written,), (dense,) = weights_of(tmp_path / "b.mlpackage"), weights_of(source)
    assert np.array_equal(written[written != 0], dense[written != 0])


def test_samples_solve_and_values_are_stored_as_they_come_out(tmp_path):
    source = linear(tmp_path, table((64, 64)).astype(np.float16))
    loud = np.linspace(0.1, 3, 64, dtype=np.float32)
    samples = [{"x": RANDOM.standard_normal((1, 64), np.float32) * loud} for _ in range(300)]
    report = mlpass.prune(source, tmp_path / "b.mlpackage", storage="lossless", sample_data=samples)
    assert report.layers[0].encoding == "palettized"
    pruned = mlpass.prune(
        source,
        tmp_path / "c.mlpackage",
        mlpass.Percentile(0.5),
        storage="lossless",
        sample_data=samples,
    )
    assert pruned.layers[0].encoding == "sparse"


def test_a_sparse_weight_is_rounded_beside_its_zeros(tmp_path):
    weight = zeroed(RANDOM.standard_normal((64, 64))).astype(np.float16)
    source = linear(tmp_path, weight)
    sparse = tmp_path / "sparse.mlpackage"
    assert lossless(source, sparse).layers[0].encoding == "sparse"
    report = mlpass.prune(sparse, tmp_path / "c.mlpackage", storage=mlpass.Palette(4))
    assert report.layers[0].encoding == "sparse + palettized"
    (written,) = weights_of(tmp_path / "c.mlpackage")
    assert np.array_equal(written == 0, weight == 0)
    samples = [{"x": RANDOM.standard_normal((1, 64)).astype(np.float32)} for _ in range(80)]
    kept = mlpass.prune(
        sparse, tmp_path / "d.mlpackage", storage=mlpass.Palette(4), sample_data=samples
    )
    assert kept.layers[0].encoding == "sparse + palettized"
    (written,) = weights_of(tmp_path / "d.mlpackage")
    assert np.array_equal(written == 0, weight == 0)


def test_float_offsets_are_left_alone(tmp_path):
    data = np.zeros((64, 64), np.uint8)
    scale, offset = np.ones((64, 1), np.float16), np.full((64, 1), 0.1, np.float16)

    @mb.program(input_specs=[mb.TensorSpec((1, 64))], opset_version=ct.target.iOS18)
    def program(x):
        weight = mb.constexpr_blockwise_shift_scale(data=data, scale=scale, offset=offset)
        return mb.linear(x=mb.cast(x=x, dtype="fp16"), weight=weight)

    save(program, tmp_path / "source.mlpackage", ct.target.iOS18)
    with Package(tmp_path / "source.mlpackage") as package:
        (site,) = find_sites(package.programs)
        with pytest.raises(NotApplicable, match="its offsets are floats, and whether"):
            check_decoded(site)


def test_lossless_goes_with_no_other_storage():
    with pytest.raises(ConfigError, match="quantize: does not go with lossless; choose one"):
        mlpass.prune("a", "b", {"storage": "lossless", "quantize": "int8"})
