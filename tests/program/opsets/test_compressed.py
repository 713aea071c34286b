"""Compressed weights of iOS16 and 17 in iOS18: coremltools decodes the same values of them."""

from __future__ import annotations

import warnings
from dataclasses import replace

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.optimize import coreml as cto

from mlpass import UnsupportedOpError
from mlpass.program.mlpackage import Package
from mlpass.program.opsets.building import Refused
from mlpass.program.opsets.changes import raised
from mlpass.program.opsets.raising import Facts
from tests import peer
from tests.program.opsets.raised import check, package_of, raise_to
from tests.program.packages import MODEL, WEIGHTS, edit_spec, operations

rng = np.random.default_rng(0)
SHAPE = (24, 20)
X = rng.standard_normal((2, 20)).astype(np.float32)
FORMS = {
    "constexpr_affine_dequantize": "constexpr_blockwise_shift_scale",
    "constexpr_lut_to_dense": "constexpr_lut_to_dense",
    "constexpr_sparse_to_dense": "constexpr_sparse_to_dense",
    "constexpr_cast": "constexpr_cast",
}


def table(bits, size=SHAPE, dtype=np.float32):
    count = int(np.prod(size))
    packed = np.packbits(
        np.unpackbits(rng.integers(0, 2**bits, count, np.uint8)[:, None], axis=1, count=bits,
                      bitorder="little"),
        bitorder="little",
    )  # fmt: skip
    return mb.constexpr_lut_to_dense(
        indices=packed,
        lut=rng.standard_normal(2**bits).astype(dtype),
        shape=np.array(size, np.uint32),
        name="w",
    )


def sparse(size=SHAPE):
    keep = rng.uniform(size=size) < 0.4
    return mb.constexpr_sparse_to_dense(
        nonzero_data=rng.standard_normal(np.count_nonzero(keep)).astype(np.float32),
        mask=np.packbits(keep.reshape(-1), bitorder="little"),
        shape=np.array(size, np.uint32),
        name="w",
    )


def affine(dtype, zero, scale, axis=0):
    low, high = (0, 256) if dtype == np.uint8 else (-128, 128)
    return mb.constexpr_affine_dequantize(
        quantized_data=rng.integers(low, high, SHAPE).astype(dtype),
        zero_point=zero,
        scale=scale,
        axis=axis,
        name="w",
    )


ROWS = rng.uniform(0.1, 1, 24).astype(np.float32)
I8, U8, F32 = np.int8, np.uint8, np.float32
MAKERS = {
    **{f"table of {bits} bits": (lambda bits=bits: table(bits)) for bits in (1, 2, 4, 6, 8)},
    "sparse": sparse,
    "one scale": lambda: affine(I8, I8(0), F32(0.3)),
    "a scale each": lambda: affine(I8, np.zeros(24, I8), ROWS),
    "a scale each, of the last axis": lambda: affine(U8, np.arange(20, dtype=U8), ROWS[:20], -1),
    "one offset": lambda: affine(U8, U8(128), F32(0.3)),
    "an offset each": lambda: affine(U8, rng.integers(0, 255, 24).astype(U8), ROWS),
    "one offset, a scale each": lambda: affine(U8, U8(7), ROWS),
    "one scale, an offset each": lambda: affine(I8, np.arange(24, dtype=I8), F32(0.3)),
    "an offset of another type": lambda: affine(U8, I8(5), ROWS),
    "an offset beyond the type": lambda: affine(U8, I8(-5), F32(0.3)),
    "a float offset": lambda: affine(U8, F32(3.5), ROWS),
    "a float offset that is whole": lambda: affine(I8, np.full(24, 3, F32), ROWS),
    "a float offset that fp32 alone holds": lambda: affine(I8, F32(0.1), F32(0.3)),
    "cast": lambda: mb.constexpr_cast(
        source_val=rng.standard_normal(SHAPE).astype(np.float16), output_dtype="fp32", name="w"
    ),
}


@pytest.mark.slow_but_every(6)
@pytest.mark.parametrize("opset", [16, 17])
@pytest.mark.parametrize("maker", MAKERS)
def test_values_and_bytes_are_those_of_before(maker, opset, tmp_path):
    old = package_of(
        tmp_path,
        lambda x: mb.linear(x=x, weight=MAKERS[maker](), name="y"),
        [mb.TensorSpec((2, 20))],
        opset,
    )
    check(old, {"x": X})
    new = tmp_path / "raised18.mlpackage"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (before,), (after,) = (
            [op for op in peer.all_ops(peer.load_programs(path)) if op.name == "w"]
            for path in (old, new)
        )
    assert after.op_type == FORMS[before.op_type]
    assert after.name == before.name == "w"
    assert after.opset_version == ct.target.iOS18
    got, wanted = peer.value_of(after), peer.value_of(before)
    if "float" in maker or "beyond" in maker:  # coremltools rounds the difference otherwise
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(got, wanted)
    sizes = [(path / WEIGHTS).stat().st_size for path in (old, new) if (path / WEIGHTS).exists()]
    spread = "one scale, an offset each", "one offset, a scale each", "an offset of another type"
    assert maker in spread or sizes[1:] <= sizes[:1]


def test_an_offset_of_zeros_is_left_out(tmp_path):
    def build(x):
        return mb.linear(x=x, weight=affine(I8, np.zeros(24, I8), ROWS), name="y")

    old = package_of(tmp_path, build, [mb.TensorSpec((2, 20))], 16)
    with Package(raise_to(old, tmp_path / "new.mlpackage", 18)) as package:
        (made,) = [op for op in package.programs[0].functions["main"].block.ops if op.name == "w"]
    assert set(made.inputs) == {"data", "scale"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["palettize", "prune", "quantize"])
def test_what_coremltools_compresses_is_raised(form, tmp_path):
    def build(x):
        weight = rng.standard_normal((64, 40)).astype(np.float32)
        return mb.linear(x=x, weight=mb.const(val=weight, name="w"), name="y")

    plain = package_of(tmp_path, build, [mb.TensorSpec((2, 40))], 16)
    config = {
        "palettize": cto.OpPalettizerConfig(mode="uniform", nbits=4, weight_threshold=1),
        "prune": cto.OpMagnitudePrunerConfig(target_sparsity=0.6, weight_threshold=1),
        "quantize": cto.OpLinearQuantizerConfig(mode="linear", weight_threshold=1),
    }[form]
    change = {
        "palettize": cto.palettize_weights,
        "prune": cto.prune_weights,
        "quantize": cto.linear_quantize_weights,
    }[form]
    model = ct.models.MLModel(str(plain), skip_model_load=True)
    old = tmp_path / "compressed.mlpackage"
    change(model, cto.OptimizationConfig(global_config=config)).save(str(old))
    x = rng.standard_normal((2, 40)).astype(np.float32)
    found = check(old, {"x": x})
    assert len([one for one in found if one.startswith("constexpr")]) == 1
    new = tmp_path / "raised18.mlpackage"
    assert (new / WEIGHTS).stat().st_size <= (old / WEIGHTS).stat().st_size


def test_functions_go_on_sharing_their_weights(tmp_path):
    old = package_of(
        tmp_path,
        lambda x: mb.linear(x=x, weight=table(6), name="y"),
        [mb.TensorSpec((2, 20))],
        16,
    )

    def edit(spec):
        main = spec.mlProgram.functions["main"]
        spec.mlProgram.functions["other"].CopyFrom(main)
        for name in ("main", "other"):
            named = spec.description.functions.add(name=name)
            named.input.extend(spec.description.input)
            named.output.extend(spec.description.output)
        del spec.description.input[:]
        del spec.description.output[:]
        spec.description.defaultFunctionName = "main"

    edit_spec(old, edit)
    new = raise_to(old, tmp_path / "new.mlpackage", 18)
    assert (new / WEIGHTS).stat().st_size == (old / WEIGHTS).stat().st_size
    with Package(new) as package:
        assert {len(part.blobs) for _, part in package.parts} == {6}  # 2 of 3: indices, lut, bias
        assert len({one.storage for _, part in package.parts for one in part.blobs}) == 3


def test_raised_twice_is_raised_once(tmp_path):
    old = package_of(
        tmp_path,
        lambda x: mb.gather(
            x=mb.linear(x=x, weight=table(4)), indices=np.array([-1], np.int32), axis=1, name="y"
        ),
        [mb.TensorSpec((2, 20))],
        16,
    )
    from mlpass.program.opsets.packages import raise_package

    once = raise_to(old, tmp_path / "once.mlpackage", 18)
    with Package(old) as package:
        for opset in (16, 17, 17, 18, 18):
            raise_package(package, opset)
        with package.rewrite(tmp_path / "twice.mlpackage"):
            pass
    for name in (WEIGHTS,):
        assert (once / name).read_bytes() == (tmp_path / "twice.mlpackage" / name).read_bytes()
    assert (once / MODEL).stat().st_size == (tmp_path / "twice.mlpackage" / MODEL).stat().st_size


def break_shape(spec, sizes):
    (op,) = [one for one in operations(spec) if one.type.startswith("constexpr")]
    value = op.attributes["shape"]
    value.type.tensorType.dimensions[0].constant.size = len(sizes)
    value.immediateValue.tensor.bytes.values = np.array(sizes, np.uint32).tobytes()


@pytest.mark.parametrize(
    ("maker", "sizes", "text"),
    [
        ("table of 4 bits", (24, 21), "240 bytes of indices into 16 values do not fit it"),
        ("sparse", (24, 2), "a mask of 60 bytes does not fit its shape"),
        ("sparse", (), "it makes a single value"),
    ],
)
def test_what_does_not_fit_is_refused(maker, sizes, text, tmp_path):
    old = package_of(
        tmp_path,
        lambda x: mb.linear(x=x, weight=MAKERS[maker](), name="y"),
        [mb.TensorSpec((2, 20))],
        16,
    )
    edit_spec(old, lambda spec: break_shape(spec, sizes))
    with pytest.raises(UnsupportedOpError, match=f"constexpr_[a-z_]+ 'w': {text}"):
        raise_to(old, tmp_path / "new.mlpackage", 18)


def test_parts_that_are_not_stated_are_refused(tmp_path):
    old = package_of(
        tmp_path, lambda x: mb.linear(x=x, weight=sparse()), [mb.TensorSpec((2, 20))], 16
    )
    with Package(old) as package:
        function = package.programs[0].functions["main"]
        (op,) = [one for one in function.block.ops if one.name == "w"]
        computed = replace(op, inputs={**op.inputs, "mask": function.block.inputs})
        with pytest.raises(Refused, match="its mask is computed"):
            raised(computed, Facts.of(function), 16, 18)
