"""Large weights are pruned in pieces: the very bytes of one piece, in little memory."""

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

import mlpass
from mlpass import NM, Block, Channel, Config, Kernel, OpConfig, Percentile, Quantized, Threshold
from mlpass.sparsity import packing, pieces
from mlpass.weights import in_pieces
from tests.runtime.programs import convert
from tests.runtime.programs import program as program_of

MODES = [
    Threshold(0.5, 0.3),
    Percentile(0.5),
    Percentile(0.03),
    Percentile(0.5, scope="global"),
    NM(2, 4),
    NM(3, 7),
    NM(2, 4, dim=0),
    Block(0.5, 4),
    Block(0.4, 2),
    Block(0.3, 3, dim=1),
    Channel(0.4),
    Percentile(0.4, scope="row"),
]


def save(path, *weights):
    dtype = types.fp16 if weights[0].dtype == np.float16 else types.fp32

    @mb.program(
        input_specs=[mb.TensorSpec(shape=(1, weights[0].shape[1]), dtype=dtype)],
        opset_version=ct.target.iOS17,
    )
    def program(x):
        for weight in weights:
            x = mb.linear(x=x, weight=weight)
        return x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # coremltools leaves a directory behind
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS17,
            pass_pipeline=ct.PassPipeline.EMPTY,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
        model.save(str(path))
        del model


def contents(package):
    return next(package.rglob("weight.bin")).read_bytes(), next(
        package.rglob("*.mlmodel")
    ).read_bytes()


@pytest.mark.slow_but_every(22)
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_pieces_make_the_same_package(mode, dtype, tmp_path, monkeypatch):
    """Odd sizes, last groups that are not full, and ties across pieces."""
    rng = np.random.default_rng(0)
    weights = [np.round(rng.standard_normal((83, 83)), 1).astype(dtype) for _ in range(2)]
    save(tmp_path / "in.mlpackage", *weights)
    whole = mlpass.prune(tmp_path / "in.mlpackage", tmp_path / "whole.mlpackage", mode)
    monkeypatch.setattr(pieces, "SLAB", 1000)
    monkeypatch.setattr(packing, "SLAB", 320)
    monkeypatch.setattr(in_pieces, "WHOLE", 1000)
    parted = mlpass.prune(tmp_path / "in.mlpackage", tmp_path / "parted.mlpackage", mode)
    assert contents(tmp_path / "parted.mlpackage") == contents(tmp_path / "whole.mlpackage")
    assert parted.layers == whole.layers


@pytest.mark.parametrize("storage", [None, Quantized("int8")], ids=str)
@pytest.mark.parametrize("mode", [Percentile(0.7), NM(3, 4), Threshold(0.9)], ids=str)
def test_a_sparse_weight_gets_more_zeros_in_pieces(mode, storage, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    save(tmp_path / "dense.mlpackage", rng.standard_normal((84, 84)).astype(np.float16))
    mlpass.prune(tmp_path / "dense.mlpackage", tmp_path / "in.mlpackage", NM(2, 4))
    config, options = Config(OpConfig(mode, storage)), {"minimum_deployment_target": "iOS18"}
    whole = mlpass.prune(tmp_path / "in.mlpackage", tmp_path / "whole.mlpackage", config, **options)
    monkeypatch.setattr(pieces, "SLAB", 1000)
    monkeypatch.setattr(packing, "SLAB", 320)
    monkeypatch.setattr(in_pieces, "WHOLE", 1000)
    parted = mlpass.prune(
        tmp_path / "in.mlpackage", tmp_path / "parted.mlpackage", config, **options
    )
    assert contents(tmp_path / "parted.mlpackage") == contents(tmp_path / "whole.mlpackage")
    assert parted.layers == whole.layers
    assert parted.layers[0].skipped is None
    before, after = (
        mlpass.inspect(tmp_path / name).layers[0].sparsity
        for name in ("in.mlpackage", "parted.mlpackage")
    )
    assert after > before


@pytest.mark.parametrize(
    ("mode", "weight", "reason"),
    [
        (Threshold(1e-9, 0.5), np.ones((40, 60)), "sparsity 0.0000 would be below"),
        (Percentile(0.0), np.ones((40, 60)), "zeroes nothing in it"),
        (Percentile(0.5), np.full((40, 60), np.inf), "it holds NaN or inf"),
        (NM(2, 64), np.ones((40, 60)), "fewer than m"),
    ],
)
def test_pieces_are_refused_alike(mode, weight, reason, tmp_path, monkeypatch):
    save(tmp_path / "in.mlpackage", weight.astype(np.float32))
    monkeypatch.setattr(pieces, "SLAB", 1000)
    monkeypatch.setattr(packing, "SLAB", 320)
    monkeypatch.setattr(in_pieces, "WHOLE", 1000)
    report = mlpass.prune(tmp_path / "in.mlpackage", tmp_path / "out.mlpackage", mode)
    assert reason in report.layers[0].skipped


MEASURE = """
import sys
from pathlib import Path
import mlpass, mlpass.pruning.prune
from mlpass import *

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024

mlpass.prune
Path("/proc/self/clear_refs").write_text("5")
before = peak()
given = dict(minimum_deployment_target="iOS18", force=True) | eval(f"dict({sys.argv[3]})")
mlpass.prune(sys.argv[1], sys.argv[2], **given)
print(peak() - before)
"""


def peak_of(source, target, given):
    """The memory that pruning takes in a process of its own, in bytes."""
    command = [sys.executable, "-c", MEASURE, source, target, given]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_memory_is_at_most_1_2_times_the_weight(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4096, 8192), np.float32).astype(np.float16)
    save(tmp_path / "in.mlpackage", weight)
    for source, given in (
        ("in", "config=Threshold(0.5, 0.3)"),
        ("in", "config=Threshold(1e-3, 0.5)"),  # which leaves it as it is
        ("in", "config=Percentile(0.5, scope='global')"),
        ("in", "config=NM(2, 4)"),
        ("in", "config=Block(0.5, 4)"),
        ("in", "config=Block(0.5, 2)"),
        ("in", "storage=Palette(4, group_size=0)"),
        ("in", "config=Percentile(0.5), storage=Quantized('uint4', block_size=32)"),
        ("in", "storage='lossless'"),  # which leaves it as it is
        ("in", "storage=Quantized('int8')"),
        ("out", "storage='lossless'"),
        ("in", "storage=Quantized('int8')"),
        ("out", "config=Percentile(0.6), joint_compression=True"),
        ("in", "config=Percentile(0.5)"),
        ("out", "storage=Quantized('int8')"),
    ):
        paths = [str(tmp_path / f"{name}.mlpackage") for name in (source, "new")]
        assert peak_of(*paths, given) <= 1.2 * weight.nbytes, (source, given)
        shutil.rmtree(tmp_path / "out.mlpackage", ignore_errors=True)
        (tmp_path / "new.mlpackage").rename(tmp_path / "out.mlpackage")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    "storage",
    ["Quantized('int4', block_size=32, outliers=0.01)", "Palette(3, group_size=16, outliers=0.01)"],
)
def test_memory_with_outliers_is_at_most_1_7_times_the_weight(storage, tmp_path):
    """Of 64 MB: what threads work on at once is most of what it takes beyond 1.2 times."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4096, 8192), np.float32).astype(np.float16)
    save(tmp_path / "in.mlpackage", weight)
    paths = str(tmp_path / "in.mlpackage"), str(tmp_path / "out.mlpackage")
    assert peak_of(*paths, f"storage={storage}") <= 1.7 * weight.nbytes


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_memory_of_what_looks_like_a_transform_is_at_most_1_7_times_the_weight(tmp_path):
    """It is read whole to be told from one: no negative elements, or few numbers at its start."""
    rng = np.random.default_rng(0)
    weight = np.abs(rng.standard_normal((4096, 8192), np.float32)).astype(np.float16)
    save(tmp_path / "in.mlpackage", weight)
    paths = str(tmp_path / "in.mlpackage"), str(tmp_path / "out.mlpackage")
    assert peak_of(*paths, "config=Percentile(0.5)") <= 1.7 * weight.nbytes


@pytest.mark.parametrize(
    "mode",
    [
        Kernel(0.5),
        Channel(0.3),
        Percentile(0.4, scope="row"),
        NM(2, 4),
        NM(2, 4, dim=0),
        Block(0.5, 4),
        Block(0.5, 2, dim=1),
    ],
    ids=str,
)
def test_kernels_of_convolutions_in_pieces(mode, tmp_path, monkeypatch):
    weight = np.round(np.random.default_rng(0).standard_normal((20, 12, 3, 5)), 1)

    def conv(x):
        made = mb.conv(x=x, weight=weight.astype(np.float32), pad_type="same")
        return mb.linear(x=made, weight=np.ones((1, 8), np.float32))

    source = tmp_path / "in.mlpackage"
    convert(program_of(conv, (1, 12, 8, 8), opset=ct.target.iOS17)).save(str(source))
    whole = mlpass.prune(source, tmp_path / "whole.mlpackage", mode)
    monkeypatch.setattr(pieces, "SLAB", 700)
    monkeypatch.setattr(packing, "SLAB", 320)
    monkeypatch.setattr(in_pieces, "WHOLE", 1000)
    parted = mlpass.prune(source, tmp_path / "parted.mlpackage", mode)
    assert parted.layers == whole.layers
    assert parted.layers[0].skipped is None
    assert contents(tmp_path / "parted.mlpackage") == contents(tmp_path / "whole.mlpackage")
