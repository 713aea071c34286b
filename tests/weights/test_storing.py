"""Joint results as they are stored: coremltools and our runtime decode them to the solution."""

from __future__ import annotations

import functools
import re
import warnings

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

from mlpass.errors import ModelFormatError, NotApplicable
from mlpass.program.mlpackage import Package
from mlpass.solvers.solve import solve
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.solvers.wanda import Wanda
from mlpass.sparsity.modes import NM, Percentile
from mlpass.storage.palette import Palette
from mlpass.storage.quantized import Quantized
from mlpass.weights.reading import layout_of_site, weight_of
from mlpass.weights.record import encoding_of, stored_bytes
from mlpass.weights.sites import find_sites
from mlpass.weights.storing import encode_stored
from tests import peer
from tests.conftest import FIXTURES
from tests.solvers.layers import stored

SHAPES = {
    "linear": (24, 64),
    "matmul": (64, 24),
    "conv": (16, 64, 2, 2),
    "grouped": (16, 32, 3),
    "depthwise": (64, 1, 3),
    "transpose": (64, 8, 3),
    "batched": (8, 64, 24),
    "narrow": (8, 64),
}
DTYPES = {"fp16": np.float16, "fp32": np.float32}


def build(weights, target=ct.target.iOS18):
    """Returns a program with one op for each of the weights."""
    specs = [mb.TensorSpec((1, 64, 8)), mb.TensorSpec((1, 64, 8, 4)), mb.TensorSpec((8, 5, 64))]

    @mb.program(input_specs=specs, opset_version=target)
    def program(signal, image, cube):
        rows = mb.transpose(x=signal, perm=[0, 2, 1])
        return (
            mb.linear(x=rows, weight=weights["linear"]),
            mb.matmul(x=rows, y=weights["matmul"]),
            mb.conv(x=image, weight=weights["conv"]),
            mb.conv(x=signal, weight=weights["grouped"], groups=2),
            mb.conv(x=signal, weight=weights["depthwise"], groups=64),
            mb.conv_transpose(x=signal, weight=weights["transpose"], groups=2),
            mb.matmul(x=cube, y=weights["batched"]),
            mb.linear(x=rows, weight=weights["narrow"]),
        )

    return program


@pytest.fixture(scope="module", params=DTYPES)
def source(request, tmp_path_factory):
    """A package with one weight of each kind, iOS18."""
    path = tmp_path_factory.mktemp("joint") / "source.mlpackage"
    write_source(path, request.param, ct.target.iOS18)
    return path


def write_source(path, dtype, target):
    """Writes a package with one weight of each kind."""
    generator = np.random.default_rng(3)
    weights = {
        name: generator.standard_normal(shape, np.float32) / 8 for name, shape in SHAPES.items()
    }
    precision = ct.precision.FLOAT16 if dtype == "fp16" else ct.precision.FLOAT32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # coremltools leaves a directory behind
        model = ct.convert(
            build(weights, target),
            convert_to="mlprogram",
            compute_precision=precision,
            minimum_deployment_target=target,
            skip_model_load=True,
        )
        model.save(str(path))


@functools.cache
def gram_of(layout):
    return stored(layout)[1]


def rewrite(source, target, find):
    """Returns, by weight, its solution and how it is stored, having written them to `target`.

    Args:
        find: given a weight, its Gram and its layout, returns a solution and its storage.
    """
    written = {}
    with Package(source) as package, package.rewrite(target) as rewriter:
        for site in find_sites(package.programs):
            layout = layout_of_site(site)
            solution, storage = find(weight_of(site), gram_of(layout), layout)
            encoded = encode_stored(site, solution, storage)
            for old, new in encoded.replacements:
                rewriter.replace(old, new)
            written[site.name] = site, solution, encoded
    return written


def check_decoded(target, written, encoding, *, only=False):
    """Fails where what is stored is not the solution, or not what was said of it.

    Args:
        target: the package.
        written: by weight, its site, solution and how it was said to be stored.
        encoding: that all of them have.
        only: whether to leave those out that have another.
    """
    ops = {op.outputs[-1].name: op for op in peer.all_ops(peer.load_programs(target))}
    with Package(target) as package:
        found = {site.name: site for site in find_sites(package.programs)}
        assert set(found) == set(written)
        for name, (site, solution, encoded) in written.items():
            if only and encoded.encoding != encoding:
                continue
            wanted = solution.weight + 0  # a zero has no sign once it is not stored
            assert wanted.dtype == DTYPES[site.dtype]
            assert peer.same(peer.value_of(ops[name]), wanted)
            assert peer.same(weight_of(found[name]), wanted)
            assert not wanted[~solution.keep].any()
            assert encoded.zeros == np.count_nonzero(wanted == 0)
            assert encoded.encoding == encoding_of(found[name].parts) == encoding
            assert encoded.nbytes == stored_bytes(found[name])


@pytest.mark.slow_but_every(5)
@pytest.mark.parametrize(
    ("dtype", "block_size"),
    [("int4", None), ("int4", 32), ("int8", None), ("uint4", None), ("uint8", 16)],
)
def test_quantized_weights_decode_to_the_solution(source, tmp_path, dtype, block_size):
    def find(weight, gram, layout):
        block = None if layout.sizes[2] == 1 else block_size  # depthwise has one input channel
        how = Quantized(dtype, block)
        return solve(
            weight, gram, Percentile(0.5), storage=how, method=SparseGPT(), layout=layout
        ), how

    written = rewrite(source, tmp_path / "out.mlpackage", find)
    assert len(written) == len(SHAPES)
    check_decoded(tmp_path / "out.mlpackage", written, "sparse + quantized")
    before = sum(site.constant.size * 2 for site, *_ in written.values())
    after = sum(encoded.nbytes for *_, encoded in written.values())
    if dtype.endswith("4") and next(iter(written.values()))[0].dtype == "fp16":
        assert after <= before / 4
    for _, _, encoded in written.values():
        (op, to_dense) = encoded.replacements[0][1]
        assert op.type == "constexpr_sparse_blockwise_shift_scale"
        assert to_dense.type == "constexpr_sparse_to_dense"
        assert op.inputs["nonzero_data"][0].dtype.name == dtype
        assert ("offset" in op.inputs) == dtype.startswith("uint")


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize(
    ("table", "group_size"),
    [("kmeans", None), ("kmeans", 4), ("normal_float", None), ("normal_float", 8)],
)
def test_palettized_weights_decode_to_the_solution(source, tmp_path, table, group_size):
    def find(weight, gram, layout):
        rows = layout.sizes[0] * layout.sizes[1]
        how = Palette(4, group_size and min(group_size, rows), table)
        return solve(
            weight, gram, Percentile(0.5), storage=how, method=SparseGPT(), layout=layout
        ), how

    written = rewrite(source, tmp_path / "out.mlpackage", find)
    assert len(written) == len(SHAPES)
    check_decoded(tmp_path / "out.mlpackage", written, "sparse + palettized")
    for site, solution, encoded in written.values():
        (op, _) = encoded.replacements[0][1]
        assert op.type == "constexpr_lut_to_sparse"
        (lut,) = op.inputs["lut"]
        assert lut.shape[-2:] == (16, 1) and len(lut.shape) == len(site.shape) + 2
        assert lut.size == solution.parts["tables"].size


def site_of(package, name):
    return next(site for site in find_sites(package.programs) if site.shape == SHAPES[name])


@pytest.mark.parametrize("kept", [0, 1])
def test_hardly_anything_kept(source, tmp_path, kept):
    def find(weight, gram, layout):
        mode = Percentile(1 - kept / weight.size)
        how = Quantized("int8")
        return solve(weight, gram, mode, storage=how, method=Wanda(), layout=layout), how

    written = rewrite(source, tmp_path / "out.mlpackage", find)
    assert all(np.count_nonzero(found.weight) == kept for _, found, _ in written.values())
    check_decoded(tmp_path / "out.mlpackage", written, "sparse + quantized")


def test_small_constants_are_stated_in_the_program(source):
    with Package(source) as package:
        for name, in_file in [("linear", True), ("narrow", False)]:
            weight = weight_of(site := site_of(package, name))
            gram = gram_of(layout_of_site(site))[0]
            how = Quantized("int4")
            found = solve(weight, gram, NM(2, 4), storage=how, method=Wanda())
            encoded = encode_stored(site, found, how)
            ((op, _),) = (new for _, new in encoded.replacements)
            assert op.inputs["scale"][0].in_file == in_file
            assert op.inputs["nonzero_data"][0].in_file and op.inputs["data_mask"][0].in_file
            assert encoded.nbytes == sum(op.inputs[part][0].nbytes for part in op.inputs)


def test_older_models_say_what_to_do():
    with Package(FIXTURES / "tiny_lm.mlpackage") as package:
        site = find_sites(package.programs)[0]
        cure = 'needs iOS18: minimum_deployment_target="iOS18"'
        for storage, text in [
            (Quantized("int4"), f"quantize: int4 {cure}"),
            (Quantized("uint8", 32), f"quantize: block_size=32 {cure}"),
            (Palette(), f"palettize: group_size=8 {cure}"),
            (Palette(3, 0), f"palettize: bits=3 {cure}"),
        ]:
            with pytest.raises(ModelFormatError, match=re.escape(text)) as raised:
                encode_stored(site, None, storage)
            assert "this model is iOS17. Or ask for " in str(raised.value)
        zeroed = solve(
            np.ones((4, 8), np.float32),
            np.eye(8, dtype=np.float32),
            NM(2, 4),
            storage=Quantized(),
            method=Wanda(),
        )
        with pytest.raises(ModelFormatError, match="quantize: a mask, which zeros take, needs"):
            encode_stored(site, zeroed, Quantized())


def test_what_is_compressed_is_left():
    with Package(FIXTURES / "quantized_digits.mlpackage") as package:
        site = next(site for site in find_sites(package.programs) if site.constant is None)
        weight, gram = np.ones((4, 8), np.float32), np.eye(8, dtype=np.float32)
        solution = solve(weight, gram, NM(2, 4), storage=Quantized(), method=Wanda())
        with pytest.raises(NotApplicable, match="it is already compressed, by constexpr_blockwise"):
            encode_stored(site, solution, Quantized())


def test_the_check_of_what_is_decoded_can_fail(source, tmp_path):
    def find(weight, gram, layout):
        how = Quantized("int8")
        return solve(weight, gram, Percentile(0.5), storage=how, method=Wanda(), layout=layout), how

    written = rewrite(source, tmp_path / "out.mlpackage", find)
    for _, solution, _ in written.values():
        solution.weight[solution.weight != 0] *= 2
    with pytest.raises(AssertionError):
        check_decoded(tmp_path / "out.mlpackage", written, "sparse + quantized")
