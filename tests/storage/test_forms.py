"""Every storage, with a mask and without, solved and not: what is written is what was said."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest

from mlpass.errors import NotApplicable
from mlpass.program.mlpackage import Package
from mlpass.solvers.nearest import nearest
from mlpass.solvers.solve import solve
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.sparsity.modes import Percentile
from mlpass.storage.palette import Palette
from mlpass.storage.quantized import Quantized
from mlpass.weights.reading import layout_of_site, weight_of
from mlpass.weights.sites import find_sites
from mlpass.weights.storing import encode_stored
from tests.weights.test_storing import DTYPES, SHAPES, check_decoded, rewrite, write_source

STORAGES = [
    *(Palette(bits) for bits in (1, 2, 3, 4, 6, 8)),
    *(Palette(bits, 0) for bits in (1, 3, 8)),
    Palette(2, 8, "normal_float"),
    Palette(4, 0, "normal_float"),
    *(Quantized(dtype) for dtype in ("int8", "int4", "uint8", "uint4")),
    *(Quantized(dtype, 16) for dtype in ("int8", "int4", "uint8", "uint4")),
]
OLD = [
    *(Palette(bits, 0) for bits in (1, 2, 4, 6, 8)),
    Palette(4, 0, "normal_float"),
    Quantized("int8"),
    Quantized("uint8"),
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Packages with one weight of each kind, by element type and opset."""
    folder = tmp_path_factory.mktemp("forms")
    found = {}
    for dtype, opset in [("fp16", 18), ("fp32", 18), ("fp16", 16), ("fp32", 17)]:
        found[dtype, opset] = folder / f"{dtype}_{opset}.mlpackage"
        write_source(found[dtype, opset], dtype, getattr(ct.target, f"iOS{opset}"))
    return found


def words(storage, masked):
    found = "palettized" if isinstance(storage, Palette) else "quantized"
    return f"sparse + {found}" if masked else found


def solved(storage, sparsity):
    def find(weight, gram, layout):
        return (
            solve(
                weight,
                gram,
                Percentile(sparsity),
                storage=storage,
                method=SparseGPT(),
                layout=layout,
            ),
            storage,
        )

    return find


def rounded(storage, sparsity):
    def find(weight, gram, layout):
        keep = Percentile(sparsity).keep(np.abs(weight))
        return nearest(weight, keep, storage, layout), storage

    return find


def check_said(written, storage, opset, zeros):
    """Fails where a weight takes other bytes than were worked out from its shape."""
    for site, solution, encoded in written.values():
        layout = layout_of_site(site)
        kept = np.count_nonzero(solution.weight) if zeros else None
        dtype = DTYPES[site.dtype]
        assert encoded.nbytes == storage.nbytes(layout, dtype, kept, opset)
        bits = storage.bits_per_weight(layout, dtype, kept, opset)
        assert bits == 8 * encoded.nbytes / solution.weight.size


@pytest.mark.slow_but_every(28)
@pytest.mark.parametrize(("dtype", "find"), [("fp16", solved), ("fp32", rounded)])
@pytest.mark.parametrize("storage", STORAGES, ids=str)
def test_without_zeros_there_is_no_mask(sources, tmp_path, storage, dtype, find):
    written = rewrite(sources[dtype, 18], tmp_path / "out.mlpackage", find(storage, 0.0))
    assert len(written) == len(SHAPES)
    check_decoded(tmp_path / "out.mlpackage", written, words(storage, False))
    check_said(written, storage, 18, zeros=False)
    assert all(solution.keep.all() for _, solution, _ in written.values())
    form = "lut_to_dense" if isinstance(storage, Palette) else "blockwise_shift_scale"
    for _, _, encoded in written.values():
        assert [op.type for op in encoded.replacements[0][1]] == [f"constexpr_{form}"]


@pytest.mark.slow_but_every(40)
@pytest.mark.parametrize(("sparsity", "find"), [(0.1, rounded), (0.1, solved), (0.75, solved)])
@pytest.mark.parametrize("storage", STORAGES, ids=str)
def test_zeros_take_a_mask_where_it_is_smaller(sources, tmp_path, storage, sparsity, find):
    written = rewrite(sources["fp16", 18], tmp_path / "out.mlpackage", find(storage, sparsity))
    check_said(written, storage, 18, zeros=True)
    bits = storage.code_bits
    for _, solution, encoded in written.values():
        size, kept = solution.weight.size, np.count_nonzero(solution.weight)
        assert np.count_nonzero(~solution.keep) == int(sparsity * size)
        smaller = -(-size // 8) - (-kept * bits // 8) < -(-size * bits // 8)
        assert encoded.encoding == words(storage, smaller or bits == 1)
    for encoding in {encoded.encoding for *_, encoded in written.values()}:
        check_decoded(tmp_path / "out.mlpackage", written, encoding, only=True)


@pytest.mark.slow_but_every(28)
@pytest.mark.parametrize("find", [solved, rounded])
@pytest.mark.parametrize("storage", OLD, ids=str)
@pytest.mark.parametrize(("dtype", "opset"), [("fp16", 16), ("fp32", 17)])
def test_forms_of_older_opsets(sources, tmp_path, storage, dtype, opset, find):
    def fits(weight, gram, layout):
        several = layout.sizes[0] > 1 and layout.shape[0] != layout.sizes[0] * layout.sizes[1]
        how = Palette(8, 0) if several and isinstance(storage, Quantized) else storage
        return find(how, 0.0)(weight, gram, layout)

    target = tmp_path / "out.mlpackage"
    written = rewrite(sources[dtype, opset], target, fits)
    assert len(written) == len(SHAPES)
    for name, (site, solution, encoded) in written.items():
        palette = encoded.encoding == "palettized"
        how = storage if palette == isinstance(storage, Palette) else Palette(8, 0)
        check_said({name: (site, solution, encoded)}, how, opset, zeros=False)
        form = "lut_to_dense" if palette else "affine_dequantize"
        (op,) = encoded.replacements[0][1]
        assert op.type == f"constexpr_{form}"
    encodings = {encoded.encoding for _, _, encoded in written.values()}
    assert words(storage, False) in encodings
    for encoding in encodings:
        check_decoded(target, written, encoding, only=True)


def test_rows_on_several_axes_have_no_older_form(sources):
    with Package(sources["fp16", 16]) as package:
        for site in find_sites(package.programs):
            if site.shape not in (SHAPES["transpose"], SHAPES["batched"]):
                continue
            layout = layout_of_site(site)
            weight = weight_of(site)
            found = nearest(weight, np.ones(weight.shape, bool), Quantized(), layout)
            with pytest.raises(
                NotApplicable, match="of rows on several axes, needs iOS18: minimum"
            ):
                encode_stored(site, found, Quantized())


def test_an_older_form_has_one_table_of_no_3_bits(sources):
    with Package(sources["fp16", 16]) as package:
        layout = layout_of_site(find_sites(package.programs)[0])
    tables = {"tables": np.zeros((2, 8), np.float16)}
    with pytest.raises(NotApplicable, match="a palette of 3 bits needs iOS18"):
        Palette(3, 0).stored(tables, layout, 17)
    with pytest.raises(NotApplicable, match="a palette of 2 tables needs iOS18"):
        Palette(4, 0).stored(tables, layout, 17)
    with pytest.raises(NotApplicable, match="int4 needs iOS18"):
        Quantized("int4").stored({"scale": np.ones((4, 1))}, layout, 17)


def test_the_check_of_sizes_can_fail(sources, tmp_path):
    written = rewrite(
        sources["fp16", 18], tmp_path / "out.mlpackage", solved(Quantized("int4"), 0.0)
    )
    with pytest.raises(AssertionError):
        check_said(written, Quantized("int8"), 18, zeros=False)
