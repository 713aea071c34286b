"""Outliers in a package: two parts of a weight for coremltools, one weight for mlpass."""

from __future__ import annotations

import re
import warnings

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import NM, Config, OpConfig, Palette, Percentile, Quantized
from mlpass.errors import ConfigError
from mlpass.program.mlpackage import Package
from mlpass.weights.reading import layout_to_solve, weight_of
from mlpass.weights.record import stored_bytes
from mlpass.weights.sites import find_sites
from tests import peer

GENERATOR = np.random.default_rng(5)
SHAPES = {
    "linear": (24, 64),
    "left": (12, 8),
    "right": (64, 24),
    "conv": (16, 64, 2, 2),
    "grouped": (16, 32, 3),
    "transpose": (64, 8, 3),
    "batched": (8, 64, 24),
    "einsum": (64, 8, 16),
    "table": (50, 16),
}
STORAGES = [
    Palette(4, 8, outliers=0.02),
    Palette(1, 8, outliers=0.05),
    Palette(3, 0, "normal_float", outliers=0.02),
    Quantized("int4", 16, outliers=0.02),
    Quantized("uint4", outliers=0.02),
    Quantized("int8", outliers=0.02),
]


def heavy(shape):
    """Returns a weight with tails."""
    return (GENERATOR.standard_t(3, shape) / 16).astype(np.float32)


WEIGHTS = {name: heavy(shape) for name, shape in SHAPES.items()}
BIAS = GENERATOR.standard_normal(24).astype(np.float32)
WIDE = GENERATOR.standard_normal(16).astype(np.float32)
INPUTS = {
    "signal": (1, 64, 8),
    "image": (1, 64, 8, 4),
    "cube": (8, 5, 64),
    "ids": (1, 6),
}


def build(target, dtype="fp16"):
    """Returns a model with one weight of each kind."""
    specs = [
        mb.TensorSpec(shape, ct.converters.mil.mil.types.int32 if name == "ids" else None)
        if name == "ids"
        else mb.TensorSpec(shape)
        for name, shape in INPUTS.items()
    ]

    @mb.program(input_specs=specs, opset_version=target)
    def program(signal, image, cube, ids):
        rows = mb.transpose(x=signal, perm=[0, 2, 1])
        return (
            mb.linear(x=rows, weight=WEIGHTS["linear"], bias=BIAS),
            mb.matmul(x=WEIGHTS["left"], y=rows),
            mb.matmul(x=rows, y=WEIGHTS["right"]),
            mb.conv(x=image, weight=WEIGHTS["conv"], bias=WIDE, pad_type="same"),
            mb.conv(x=signal, weight=WEIGHTS["grouped"], groups=2, strides=[2], bias=WIDE),
            mb.conv_transpose(x=signal, weight=WEIGHTS["transpose"], groups=2, bias=WIDE),
            mb.matmul(x=cube, y=WEIGHTS["batched"]),
            mb.einsum(values=(rows, WEIGHTS["einsum"]), equation="abc,cbd->abd"),
            mb.gather(x=WEIGHTS["table"], indices=ids, axis=0),
        )

    precision = ct.precision.FLOAT16 if dtype == "fp16" else ct.precision.FLOAT32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # coremltools leaves a directory behind
        return ct.convert(
            program,
            convert_to="mlprogram",
            compute_precision=precision,
            minimum_deployment_target=target,
            skip_model_load=True,
        )


def inputs(seed, generator=None):
    generator = np.random.default_rng(seed)
    return {
        name: generator.integers(0, 50, shape).astype(np.int32)
        if name == "ids"
        else generator.standard_normal(shape).astype(np.float32)
        for name, shape in INPUTS.items()
    }


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Packages with one weight of each kind, by opset and element type."""
    folder = tmp_path_factory.mktemp("apart")
    found = {}
    for opset, dtype in [(18, "fp16"), (18, "fp32"), (16, "fp16")]:
        found[opset, dtype] = folder / f"{opset}_{dtype}.mlpackage"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            build(getattr(ct.target, f"iOS{opset}"), dtype).save(str(found[opset, dtype]))
    return found


def config(storage, mode=None):
    return Config(OpConfig(mode, storage), weight_threshold=0)


def rests_of(path):
    """Returns, by name, what coremltools decodes of codes and of the rest beside them."""
    makers = {op.outputs[-1].name: op for op in peer.all_ops(peer.load_programs(path))}
    return {
        name: (peer.value_of(op), peer.value_of(makers[f"{name}_rest"]))
        for name, op in makers.items()
        if f"{name}_rest" in makers and op.op_type.startswith("constexpr_")
    }


def check(source, out, report, share):
    """Fails where the two parts are not the weight, or anything else is not as said."""
    parts = rests_of(out)
    records = {layer.name: layer for layer in report.layers}
    with Package(source) as before, Package(out) as after:
        sites = {site.name: site for site in find_sites(after.programs)}
        assert set(sites) == set(records) == set(parts)
        for old in find_sites(before.programs):
            codes, rest = (each.astype(np.float32) for each in parts[old.name])
            site, record, weight = sites[old.name], records[old.name], weight_of(old)
            assert np.count_nonzero(rest) <= int(share * weight.size)
            assert np.count_nonzero(rest) >= int(share * weight.size) - 2  # some are on the grid
            assert peer.same(weight_of(site), (codes + rest).astype(weight.dtype))
            assert record.encoding.endswith(" + outliers") and record.skipped is None
            assert record.bytes_after == stored_bytes(site)
            assert record.zeros == np.count_nonzero(codes + rest == 0)


@pytest.mark.slow_but_every(12)
@pytest.mark.parametrize("samples", [None, 6], ids=["data-free", "solved"])
@pytest.mark.parametrize("mode", [None, Percentile(0.5)], ids=str)
@pytest.mark.parametrize("storage", STORAGES, ids=str)
def test_the_parts_add_up_to_the_weight(sources, tmp_path, storage, mode, samples):
    source, out = sources[18, "fp16"], tmp_path / "out.mlpackage"
    given = None if samples is None else [inputs(seed) for seed in range(samples)]
    report = mlpass.prune(source, out, config(storage, mode), sample_data=given)
    check(source, out, report, storage.outliers)
    with Package(source) as package:
        records = {layer.name: layer for layer in report.layers}
        for site in find_sites(package.programs):
            record = records[site.name]
            kept = None if mode is None else int(np.prod(record.shape)) - record.zeros
            said = storage.nbytes(layout_to_solve(site), np.float16, kept, 18)
            assert record.bytes_after == said


def test_outputs_are_those_of_the_weights(sources, tmp_path):
    """The sums, the bias once among them, make what one op makes of the whole weight."""
    source, out, whole = (tmp_path / f"{each}.mlpackage" for each in ("a", "b", "c"))
    source = sources[18, "fp32"]
    mlpass.prune(source, out, config(Palette(4, 8, outliers=0.02)))
    model = ct.models.MLModel(str(source), skip_model_load=True)
    with Package(out) as package:
        weights = {site.name: weight_of(site) for site in find_sites(package.programs)}
    with Package(source) as package, package.rewrite(whole) as rewriter:
        from mlpass.program import encode
        from mlpass.program.ir import Constant

        for site in find_sites(package.programs):
            new = Constant.of(weights[site.name], site.constant)
            rewriter.replace(site.makers[0], [encode.dense(site.makers[0], new)])
    del model
    sample = inputs(9)
    found, wanted = (mlpass.Interpreter(each).predict(sample) for each in (out, whole))
    assert found.keys() == wanted.keys()
    for name, each in wanted.items():
        np.testing.assert_allclose(found[name], each, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("opset", "dtype"), [(16, "fp16"), (18, "fp32")])
@pytest.mark.parametrize(
    "storage", [Palette(4, 0, outliers=0.02), Quantized("int8", outliers=0.01)], ids=str
)
def test_older_forms_and_fp32(sources, tmp_path, opset, dtype, storage):
    source, out = sources[opset, dtype], tmp_path / "out.mlpackage"
    several = {
        "conv_transpose": None,
        "matmul": None,
        "einsum": None,
    }  # rows on several axes are newer
    given = Config(OpConfig(None, storage), several, weight_threshold=0)
    report = mlpass.prune(source, out, given)
    for layer in report.layers:
        assert (layer.op_type in several) == ("outliers" not in layer.encoding)
    for codes, rest in rests_of(out).values():
        assert np.count_nonzero(rest) and np.count_nonzero(codes)


def test_pruning_again_leaves_both_parts(sources, tmp_path):
    source, once = sources[18, "fp16"], tmp_path / "once.mlpackage"
    report = mlpass.prune(source, once, config(Palette(4, 8, outliers=0.02)))
    for number, (given, options) in enumerate(
        [
            (config(Palette(2, 8, outliers=0.02)), {}),
            (config(None, Percentile(0.9)), {}),
            (config(None, Percentile(0.9)), {"joint_compression": True}),
            (config("lossless"), {}),
        ]
    ):
        again = tmp_path / f"{number}.mlpackage"
        second = mlpass.prune(once, again, given, **options)
        assert all(layer.skipped for layer in second.layers)
        assert [layer.bytes_after for layer in second.layers] == [
            layer.bytes_after for layer in report.layers
        ]
        for found, wanted in zip(rests_of(again).values(), rests_of(once).values(), strict=True):
            assert all(peer.same(*each) for each in zip(found, wanted, strict=True))
    reasons = {layer.skipped for layer in second.layers}
    assert all(re.match(r"its outliers are kept apart, in '\w+_rest'", each) for each in reasons)


def test_inspect_and_explain_show_one_weight(sources, tmp_path):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(sources[18, "fp16"], out, config(Quantized("int4", outliers=0.02)))
    said = {layer.name: (layer.encoding, layer.bytes_after) for layer in report.layers}
    seen = {layer.name: (layer.encoding, layer.bytes_after) for layer in mlpass.inspect(out).layers}
    costs = {each.name: (each.encoding, each.nbytes) for each in mlpass.explain(out).weights}
    assert said == seen == costs
    assert {encoding for encoding, _ in said.values()} == {"quantized + outliers"}
    compared = mlpass.compare(sources[18, "fp16"], out, [inputs(3)])
    assert all(each.snr > 10 for each in compared.outputs)


@pytest.mark.slow
def test_outliers_lower_the_error(sources, tmp_path):
    samples = [inputs(seed) for seed in range(8)]
    errors = []
    for number, share in enumerate((0.0, 0.005, 0.02)):
        report = mlpass.prune(
            sources[18, "fp16"],
            tmp_path / f"{number}.mlpackage",
            config(Palette(3, 8, outliers=share)),
            sample_data=samples,
        )
        errors.append([layer.error for layer in report.layers])
    less, least = np.array(errors[1]) / errors[0], np.array(errors[2]) / errors[0]
    assert (least < 0.9).all() and (less < 1.02).all() and less.mean() < 0.95


def test_names_are_free_in_the_whole_function(tmp_path):
    weight = WEIGHTS["linear"]

    @mb.program(input_specs=[mb.TensorSpec((3, 64))], opset_version=ct.target.iOS18)
    def program(x):
        held = mb.const(val=weight, name="w")
        y = mb.linear(x=x, weight=held, bias=BIAS, name="y")
        other = mb.relu(x=y, name="y_codes")
        third = mb.relu(x=other, name="w_rest")
        return mb.add(x=mb.linear(x=x, weight=held, name="z"), y=third, name="y_rest")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        ct.convert(
            program,
            convert_to="mlprogram",
            compute_precision=ct.precision.FLOAT32,
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        ).save(str(tmp_path / "in.mlpackage"))
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(tmp_path / "in.mlpackage", out, config(Palette(4, 8, outliers=0.02)))
    ops = peer.all_ops(peer.load_programs(out))
    names = [value.name for op in ops for value in op.outputs]
    assert len(names) == len(set(names))
    assert {"y", "y_codes", "w_rest", "y_rest", "z"} <= set(names)
    (layer,) = report.layers
    with Package(out) as package:
        (site,) = find_sites(package.programs)
        assert stored_bytes(site) == layer.bytes_after  # both uses share mask and values
        assert len(site.uses) == 2


def test_recurrent_weights_cannot_have_them(tmp_path):
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((64, 16)).astype(np.float32)

    @mb.program(input_specs=[mb.TensorSpec((5, 1, 16))], opset_version=ct.target.iOS18)
    def program(x):
        zero = np.zeros((1, 16), np.float32)
        return mb.lstm(x=x, initial_h=zero, initial_c=zero, weight_ih=weight, weight_hh=weight + 1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        ).save(str(tmp_path / "in.mlpackage"))
    with pytest.raises(ConfigError, match="outliers: lstm is not a sum over the parts of its w"):
        mlpass.prune(
            tmp_path / "in.mlpackage",
            tmp_path / "out.mlpackage",
            config(Palette(4, 8, outliers=0.01)),
        )
    assert not (tmp_path / "out.mlpackage").exists()


def test_factors_of_a_weight_have_none(tmp_path):
    @mb.program(input_specs=[mb.TensorSpec((3, 24))], opset_version=ct.target.iOS18)
    def program(x):
        made = mb.matmul(x=mb.const(val=WEIGHTS["linear"]), y=mb.const(val=WEIGHTS["right"]))
        return mb.matmul(x=x, y=made)

    given = config(Quantized("int4", outliers=0.01))
    report = mlpass.prune_program(program, given)
    reasons = [layer.skipped for layer in report.layers if layer.shape in ((24, 64), (64, 24))]
    assert reasons == ["a weight is made of it, by matmul"] * 2


def test_a_program_in_place(tmp_path):
    @mb.program(input_specs=[mb.TensorSpec((1, 8, 64))], opset_version=ct.target.iOS18)
    def program(x):
        y = mb.linear(x=x, weight=WEIGHTS["linear"], bias=BIAS, name="y")
        return y, mb.einsum(values=(x, WEIGHTS["einsum"]), equation="abc,cbd->abd", name="z")

    sample = {"x": np.random.default_rng(1).standard_normal((1, 8, 64)).astype(np.float32)}
    before = mlpass.Interpreter(program).predict(sample)
    report = mlpass.prune_program(program, config(Quantized("int8", outliers=0.02)))
    after = mlpass.Interpreter(program).predict(sample)
    assert [layer.encoding for layer in report.layers] == ["quantized + outliers"] * 2
    types = [op.op_type for op in peer.walk(program.functions["main"])]
    assert types.count("linear") == types.count("einsum") == types.count("add") == 2
    assert before.keys() == after.keys()
    for name, each in before.items():
        assert np.abs(after[name] - each).max() < 0.02 * np.abs(each).max()


def test_a_mode_whose_mask_is_shaped(sources, tmp_path):
    out, storage = tmp_path / "out.mlpackage", Palette(4, 8, outliers=0.02)
    given = Config(op_type_configs={"linear": OpConfig(NM(2, 4), storage)}, weight_threshold=0)
    samples = [inputs(seed) for seed in range(4)]
    report = mlpass.prune(sources[18, "fp16"], out, given, sample_data=samples)
    (layer,) = [each for each in report.layers if each.op_type == "linear"]
    assert layer.encoding == "sparse + palettized + outliers"
    ((codes, rest),) = rests_of(out).values()
    zeros = (codes.astype(np.float32) + rest == 0).reshape(24, 16, 4).sum(axis=2)
    assert (zeros >= 2).all() and np.count_nonzero(rest) == int(0.02 * codes.size)


def test_no_share_of_a_small_weight_is_one_outlier(sources, tmp_path):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(sources[18, "fp16"], out, config(Palette(4, 8, outliers=0.002)))
    for layer in report.layers:
        has = int(0.002 * np.prod(layer.shape)) > 0
        assert layer.encoding == ("palettized + outliers" if has else "palettized")
