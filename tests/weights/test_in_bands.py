"""Large weights get a storage some rows at a time: the very bytes of a whole, in little memory."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

import mlpass
from mlpass import Config, OpConfig, Palette, Percentile, Quantized
from mlpass.sparsity import packing, pieces
from mlpass.storage import kmeans
from mlpass.weights import in_bands, in_pieces, rows
from tests.runtime.programs import convert
from tests.weights.test_in_pieces import contents
from tests.weights.test_lossless import VALUES

SHAPES = {
    "linear": (47, 61),
    "matmul": (61, 47),
    "grouped": (30, 30, 3),
    "transpose": (60, 7, 3),
    "batched": (6, 61, 47),
    "table": (203, 23),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A package whose weights have rows along, across and in blocks, of sizes that are odd."""
    rng = np.random.default_rng(5)
    weights = {
        name: np.round(rng.standard_normal(shape), 2).astype(np.float32)
        for name, shape in SHAPES.items()
    }
    weights["table"] += np.float32(3)  # nothing is zero
    return saved(tmp_path_factory.mktemp("bands") / "in.mlpackage", weights)


def saved(path, weights):
    """The path of a package with a weight of each of `SHAPES`."""
    specs = [
        mb.TensorSpec((1, 8, 61)),
        mb.TensorSpec((6, 5, 61)),
        mb.TensorSpec((1, 60, 8)),
        mb.TensorSpec((4,), dtype=types.int32),
    ]

    @mb.program(input_specs=specs, opset_version=ct.target.iOS18)
    def program(x, cube, signal, ids):
        return (
            mb.linear(x=x, weight=weights["linear"]),
            mb.matmul(x=x, y=weights["matmul"]),
            mb.conv(x=signal, weight=weights["grouped"], groups=2),
            mb.conv_transpose(x=signal, weight=weights["transpose"], groups=2),
            mb.matmul(x=cube, y=weights["batched"]),
            mb.gather(x=weights["table"], indices=ids, axis=0, validate_indices=False),
        )

    convert(program, minimum_deployment_target=ct.target.iOS18).save(str(path))
    return path


@pytest.fixture
def in_parts(monkeypatch):
    """Returns what makes every weight a large one."""

    def divide():
        monkeypatch.setattr(pieces, "SLAB", 1000)
        monkeypatch.setattr(packing, "SLAB", 320)
        monkeypatch.setattr(in_pieces, "WHOLE", 1000)
        monkeypatch.setattr(in_bands, "SLAB", 320)
        monkeypatch.setattr(rows, "SLAB", 320)

    return divide


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize(
    ("storage", "sparsity"),
    [
        (Quantized("int4", block_size=4), 0.0),
        (Quantized("uint8"), 0.5),
        (Palette(2, group_size=3), 0.1),
        (Palette(4, group_size=0), 0.5),
        (Palette(4, group_size=0, table="normal_float"), 0.5),
        (Palette(3, group_size=23), 0.0),
    ],
    ids=str,
)
def test_bands_make_the_same_package(source, in_parts, storage, sparsity, tmp_path, monkeypatch):
    """Tables are put in order, counted together, and counted in pieces."""
    monkeypatch.setattr(kmeans, "_MOST", 64)
    monkeypatch.setattr(kmeans, "_AT_ONCE", 512)
    config = Config(OpConfig(Percentile(sparsity), storage), weight_threshold=0)
    whole = mlpass.prune(source, tmp_path / "whole.mlpackage", config)
    in_parts()
    held = []
    monkeypatch.setattr("mlpass.pruning.data_free.weight_of", held.append)
    parted = mlpass.prune(source, tmp_path / "parted.mlpackage", config)
    assert not held  # no weight was read as a whole
    assert parted.layers == whole.layers
    assert all(layer.skipped is None for layer in parted.layers)
    assert contents(tmp_path / "parted.mlpackage") == contents(tmp_path / "whole.mlpackage")


@pytest.mark.slow_but_every(28)
@pytest.mark.parametrize("sparsity", [0.0, 0.5])
@pytest.mark.parametrize("kind", [*VALUES, "noise", "blocks of tables", "pairs of rows"])
def test_the_smallest_exact_form_is_the_same_in_bands(kind, sparsity, in_parts, tmp_path):
    rng = np.random.default_rng(3)
    weights = {
        name: made(kind, rng, shape).astype(np.float16).astype(np.float32)
        for name, shape in SHAPES.items()
    }
    source = saved(tmp_path / "in.mlpackage", weights)
    mode = Percentile(sparsity) if sparsity else None
    config = Config(OpConfig(mode, mlpass.Lossless()), weight_threshold=0)
    whole = mlpass.prune(source, tmp_path / "whole.mlpackage", config)
    in_parts()
    parted = mlpass.prune(source, tmp_path / "parted.mlpackage", config)
    assert parted.layers == whole.layers
    assert contents(tmp_path / "parted.mlpackage") == contents(tmp_path / "whole.mlpackage")


def made(kind, rng, shape):
    """Values of a kind in a shape."""
    if kind == "noise":
        return rng.standard_normal(shape)
    if kind == "blocks of tables":
        runs = rng.choice(rng.standard_normal(200), (np.prod(shape[:-1]), shape[-1]))
        runs[:, : shape[-1] // 2] = np.round(runs[:, : shape[-1] // 2])
        return runs.reshape(shape)
    if kind == "pairs of rows":
        values = rng.standard_normal((-(-shape[0] // 2), 3))
        rows = [rng.choice(values[row // 2], shape[1:]) for row in range(shape[0])]
        return np.stack(rows)
    return VALUES[kind](shape)


@pytest.mark.slow_but_every(5)
@pytest.mark.parametrize(
    ("storage", "sparsity"),
    [
        (Quantized("int8", outliers=0.05), 0.0),
        (Quantized("uint4", block_size=4, outliers=0.01), 0.5),
        (Palette(2, group_size=3, outliers=0.02), 0.1),
        (Palette(4, group_size=0, outliers=0.5), 0.5),
        (Palette(3, group_size=0, outliers=0.01), 0.0),
        (Palette(4, group_size=0, table="normal_float", outliers=0.03), 0.9),
        (Palette(4, group_size=8, outliers=1e-5), 0.0),
    ],
    ids=str,
)
def test_outliers_are_the_same_in_bands(source, in_parts, storage, sparsity, tmp_path, monkeypatch):
    """They are found among all rows; at two decimals many errors are equal."""
    monkeypatch.setattr(kmeans, "_MOST", 64)
    monkeypatch.setattr(kmeans, "_AT_ONCE", 512)
    spared = {"gather": None, "conv_transpose": None}
    config = Config(OpConfig(Percentile(sparsity), storage), spared, weight_threshold=0)
    whole = mlpass.prune(source, tmp_path / "whole.mlpackage", config)
    in_parts()
    held = []
    monkeypatch.setattr("mlpass.pruning.data_free.weight_of", held.append)
    parted = mlpass.prune(source, tmp_path / "parted.mlpackage", config)
    assert not held
    assert parted.layers == whole.layers
    assert contents(tmp_path / "parted.mlpackage") == contents(tmp_path / "whole.mlpackage")


def test_bits_of_rows_that_are_padded_are_one_run_again(monkeypatch):
    monkeypatch.setattr(in_bands, "SLAB", 100)
    rng = np.random.default_rng(0)
    mask = rng.random((37, 13)) < 0.5
    padded = np.packbits(mask, axis=1, bitorder="little")
    found = in_bands._unpadded(padded, 13, mask.size)
    assert np.array_equal(found, np.packbits(mask, bitorder="little"))
