"""A pymil program edited in place: what it holds afterwards, with coremltools as the judge."""

from __future__ import annotations

from operator import attrgetter

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
from coremltools.converters.mil.mil.scope import ScopeInfo, ScopeSource

import mlpass
from mlpass import NM, Block, Percentile
from mlpass.errors import ConfigError, ModelFormatError
from mlpass.program.mlpackage import Package
from mlpass.program.pymil import read_program
from mlpass.program.text import program_text
from tests import peer
from tests.runtime.programs import convert, program

FIXTURES = [
    "branches",
    "multifunction_lm",
    "palettized_digits",
    "quantized_digits",
    "silero_vad",
    "stateful_lm",
    "tiny_lm",
]
WEIGHT = np.random.default_rng(0).standard_normal((64, 64), np.float32)


def linear(x):
    return mb.linear(x=x, weight=WEIGHT, name="y")


def live(build=linear, opset=ct.target.iOS18):
    return program(build, (1, 64), opset=opset)


def ops_of(source, op_type):
    return [op for op in peer.all_ops([source]) if op.op_type == op_type]


def unread_constants(source):
    return {
        op.name
        for op in ops_of(source, "const")
        if not (op.outputs[0].child_ops or op.outputs[0].consuming_blocks)
    }


def validate(source):
    source.validate(check_essential_scope=True)
    source._check_early_error_out_for_invalid_program()


CASES = [
    (name, config, False)
    for name in FIXTURES
    for config in (Percentile(0.6), NM(2, 4), Block(0.5, 2))
] + [(name, Percentile(0.6), True) for name in ("palettized_digits", "quantized_digits")]


@pytest.mark.slow_but_every(7)
@pytest.mark.parametrize(("name", "config", "joint"), CASES, ids=str)
def test_a_program_is_pruned_as_its_package_is(fixtures, tmp_path, name, config, joint):
    path, out = fixtures / f"{name}.mlpackage", tmp_path / "out.mlpackage"
    (source,) = peer.load_programs(path)
    if name == "multifunction_lm":
        deduplicate(source)
    unread = unread_constants(source)
    report = mlpass.prune(source, config, joint_compression=joint)
    assert unread_constants(source) == unread
    of_file = mlpass.prune(path, out, config, joint_compression=joint)
    key = attrgetter("name")  # the functions of a package have no order
    assert sorted(report.layers, key=key) == sorted(of_file.layers, key=key)
    validate(source)
    (theirs,) = peer.load_programs(out)
    before, after = (
        peer.running_ops(
            [op for _, function in sorted(one.functions.items()) for op in peer.walk(function)]
        )
        for one in (theirs, source)
    )
    for old, new in zip(before, after, strict=True):
        assert peer.described(new) == peer.described(old)
        for (parameter, was), (_, now) in zip(peer.inputs(old), peer.inputs(new), strict=True):
            assert now.name == was.name
            if peer.is_constant(was):
                assert now.op.op_type == was.op.op_type
                assert peer.same(peer.value_of(was.op), peer.value_of(now.op)), parameter


def deduplicate(source):
    PASS_REGISTRY["common::const_deduplication"]._deduplicate_const_across_functions(source)


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("name", FIXTURES)
def test_the_graph_of_a_pruned_program_is_that_of_the_package(fixtures, tmp_path, name):
    path, out = fixtures / f"{name}.mlpackage", tmp_path / "out.mlpackage"
    (source,) = peer.load_programs(path)
    mlpass.prune(source, Percentile(0.6))
    mlpass.prune(path, out, Percentile(0.6))
    with Package(out) as package:
        stored = {line.strip() for line in program_text(package.programs[0]).splitlines()}
    compressed = [
        line.strip()
        for line in program_text(read_program(source)).splitlines()
        if " = constexpr_" in line
    ]
    assert compressed
    assert set(compressed) <= stored


def test_the_report_tells_bytes_and_that_it_was_done_in_place():
    source = live(opset=ct.target.iOS16)
    report = mlpass.prune(source, Percentile(0.75))
    assert report.bytes_before == 4 * (64 * 64 + 64)
    assert report.bytes_after == 64 * 64 // 8 + 64 * 64 + 4 * 64
    assert "1 of 1 weights pruned" in str(report)
    assert str(report).endswith("program, in place")


def test_nothing_of_the_dense_weight_is_left():
    source = live()
    mlpass.prune(source, config=Percentile(0.75))
    assert sorted(op.op_type for op in peer.all_ops([source])) == [
        "const",
        "const",
        "const",
        "constexpr_sparse_to_dense",
        "linear",
    ]
    assert max(op.outputs[0].val.nbytes for op in ops_of(source, "const")) == 64 * 64  # the mask


@pytest.mark.parametrize("opset", [ct.target.iOS16, ct.target.iOS18])
def test_names_that_are_taken_are_left_alone(opset):
    def build(x):
        taken = mb.const(val=np.ones((1, 64), np.float32), name="weight_mask")
        weight = mb.const(val=WEIGHT, name="weight")
        return mb.linear(x=mb.add(x=x, y=taken), weight=weight, name="y")

    source = live(build, opset)
    mlpass.prune(source, Percentile(0.75))
    (made,) = ops_of(source, "constexpr_sparse_to_dense")
    assert made.name == made.outputs[0].name == "weight"
    assert made.inputs["mask"].name == "weight_mask_1"
    model = convert(source, minimum_deployment_target=opset, pass_pipeline=ct.PassPipeline.EMPTY)
    x = np.random.default_rng(1).random((1, 64), np.float32)
    wanted = (x + 1) @ made.materialized_val_inference().T
    (given,) = (feature.name for feature in mlpass.Interpreter(model).inputs)
    (result,) = mlpass.Interpreter(model).predict({given: x}).values()
    np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-5)


def two_functions(*, ids):
    source = live()
    source.add_function("other", live().functions["main"])
    if ids:
        deduplicate(source)
    return source


def storages(source):
    return [
        {name: op.inputs[name].op.weight_id for name in ("mask", "nonzero_data")}
        for op in ops_of(source, "constexpr_sparse_to_dense")
    ]


def test_weights_shared_by_functions_are_decided_once_and_stay_shared():
    source = two_functions(ids=True)
    report = mlpass.prune(source, Percentile(0.5))
    assert len(report.layers) == 1
    first, second = storages(source)
    assert first == second
    assert None not in first.values()
    assert len(set(first.values())) == 2


def test_dense_weights_shared_by_functions_stay_shared():
    source = two_functions(ids=True)
    (layer,) = mlpass.prune(source, Percentile(0.01)).layers
    assert layer.encoding == "dense"
    ids = [op.inputs["weight"].op.weight_id for op in ops_of(source, "linear")]
    assert ids[0] == ids[1] is not None


def test_weights_of_functions_that_do_not_say_so_are_not_shared():
    source = two_functions(ids=False)
    assert len(mlpass.prune(source, Percentile(0.5)).layers) == 2
    assert storages(source) == [{"mask": None, "nonzero_data": None}] * 2


def test_two_names_of_one_function():
    source = live()
    source.add_function("other", source.functions["main"])
    (layer,) = mlpass.prune(source, Percentile(0.5)).layers
    assert layer.encoding == "sparse"
    validate(source)
    assert len(ops_of(source, "linear")) == 2
    assert len({id(op) for op in ops_of(source, "constexpr_sparse_to_dense")}) == 1


def test_new_ops_tell_where_in_the_source_they_come_from():
    def build(x):
        with mb.scope(ScopeInfo(source=ScopeSource.TORCHSCRIPT_MODULE_NAME, data=["head"])):
            return linear(x)

    source = live(build)
    source._add_essential_scope_source(ScopeSource.TORCHSCRIPT_MODULE_NAME)
    mlpass.prune(source, Percentile(0.5))
    validate(source)
    (made,) = ops_of(source, "constexpr_sparse_to_dense")
    assert made.scopes[ScopeSource.TORCHSCRIPT_MODULE_NAME] == ["head"]
    assert made.scopes[ScopeSource.COREMLTOOLS_GRAPH_PASS] == ["mlpass"]


def test_pruning_twice_changes_nothing():
    source = live()
    mlpass.prune(source, Percentile(0.5))
    text = program_text(read_program(source))
    (layer,) = mlpass.prune(source, Percentile(0.5)).layers
    assert layer.skipped == "Percentile(0.5) zeroes nothing more in it"
    assert program_text(read_program(source)) == text


@pytest.mark.parametrize("opset", [ct.target.iOS15, ct.target.iOS13])
def test_programs_below_ios16_are_refused(opset):
    text = f"the program is for {opset.name}, and sparse weights begin with iOS16: convert with mi"
    with pytest.raises(ModelFormatError, match=text):
        mlpass.prune(live(opset=opset), Percentile(0.5))


def test_joint_compression_needs_ios18():
    with pytest.raises(ModelFormatError, match="joint_compression needs an iOS18 model, this is"):
        mlpass.prune(live(opset=ct.target.iOS17), Percentile(0.5), joint_compression=True)


def test_a_config_that_names_nothing_changes_nothing():
    source = live()
    with pytest.raises(ConfigError, match="no weight or op is named 'nothing'"):
        mlpass.prune(source, {"op_name_configs": {"nothing": None}})
    assert [op.op_type for op in peer.all_ops([source])].count("const") == 2


def test_constants_that_are_parts_of_compressed_ones_and_outputs():
    source = live()
    mlpass.prune(source, Percentile(0.5))
    (made,) = ops_of(source, "constexpr_sparse_to_dense")
    function = source.functions["main"]
    function.set_outputs([*function.outputs, made.inputs["nonzero_data"]])
    graph = read_program(source).functions["main"]
    assert [value.name for value in graph.block.outputs] == ["y", made.inputs["nonzero_data"].name]


def test_an_mlmodel_of_several_functions_is_pruned_as_its_package(fixtures, tmp_path):
    path = fixtures / "multifunction_lm.mlpackage"
    model = ct.models.MLModel(str(path), skip_model_load=True)
    mlpass.prune(model, tmp_path / "a.mlpackage", Percentile(0.5))
    mlpass.prune(path, tmp_path / "b.mlpackage", Percentile(0.5))
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    ours, theirs = ((tmp_path / f"{name}.mlpackage" / weights).read_bytes() for name in "ab")
    assert ours == theirs


def test_where_to_write_is_told_for_packages_alone(fixtures, tmp_path):
    with pytest.raises(
        ConfigError, match="output: a Program is pruned in place; call prune_program"
    ):
        mlpass.prune(live(), tmp_path / "out.mlpackage", Percentile(0.5))
    with pytest.raises(ConfigError, match="output: name the package to write, prune"):
        mlpass.prune(fixtures / "tiny_lm.mlpackage", Percentile(0.5))
