"""Converting with our passes in the pipeline gives what converting and then pruning gives."""

from __future__ import annotations

from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools import PassPipeline
from coremltools.converters.mil.mil import Builder as mb

import mlpass
import mlpass.plugin
from mlpass import NM, Block, Channel, Config, Kernel, Percentile, SparseGPT, Threshold
from tests import peer
from tests.plugin.torch_models import KINDS, converted, source_of
from tests.runtime.programs import convert

TARGETS = [ct.target.iOS16, ct.target.iOS17, ct.target.iOS18]
PRECISIONS = [ct.precision.FLOAT16, ct.precision.FLOAT32]
BY_PASS = [
    (
        "threshold",
        {"threshold": "0.7", "minimum_sparsity_percentile": "0.25"},
        Threshold(0.7, 0.25),
    ),
    ("percentile", {"target_sparsity": "0.75"}, Percentile(0.75)),
    ("nm", {"n_m_ratio": "2:4", "dim": "1"}, NM(2, 4)),
    ("block", {"target_sparsity": "0.5", "block_size": "4"}, Block(0.5, 4)),
    ("prune", {"config": {"op_type_configs": {"conv": {"target_sparsity": 0.3}}}}, None),
]
OTHER_MODES = [
    Percentile(0.5, scope="global"),
    Percentile(0.5, scope="row"),
    NM(3, 4, dim=0),
    Kernel(0.5),
    Channel(0.5),
    Percentile(0.03),  # stays dense
]


def program(target):
    """A program with weights of several kinds, one of them with two readers."""
    generator = np.random.default_rng(0)
    table = generator.standard_normal((64, 48), np.float32)

    @mb.program(input_specs=[mb.TensorSpec((1, 8, 6, 6))], opset_version=target)
    def built(x):
        weight = generator.standard_normal((32, 8, 3, 3), np.float32)
        y = mb.reshape(x=mb.relu(x=mb.conv(x=x, weight=weight)), shape=(1, -1))
        y = mb.linear(x=y, weight=generator.standard_normal((64, 512), np.float32) / 16)
        tied = mb.const(val=table, name="tied.table")
        return mb.linear(x=mb.matmul(x=y, y=tied), weight=tied, name="out")

    return built


SAMPLE = {"x": np.random.default_rng(1).random((1, 8, 6, 6), np.float32)}


def convert_program(target, precision, pipeline=None):
    return convert(
        program(target),
        compute_precision=precision,
        minimum_deployment_target=target,
        pass_pipeline=pipeline,
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Returns the package of a target and precision, without pruning; made once."""
    made = {}

    def package(target, precision):
        if (target, precision) not in made:
            path = tmp_path_factory.mktemp("plain") / "model.mlpackage"
            convert_program(target, precision).save(str(path))
            made[target, precision] = path
        return made[target, precision]

    return package


def assert_same(model, original, config, sample, folder, *, at_least=1, **options):
    """Checks a model that was pruned as it was converted against a package pruned afterwards."""
    ours, theirs = folder / "pipeline.mlpackage", folder / "pruned.mlpackage"
    model.save(str(ours))
    report = mlpass.prune(original, theirs, config, **options)
    assert sum(layer.mode is not None for layer in report.layers) >= at_least
    before = peer.running_ops(peer.all_ops(peer.load_programs(theirs)))
    after = peer.running_ops(peer.all_ops(peer.load_programs(ours)))
    assert [op.op_type for op in after] == [op.op_type for op in before]
    for old, new in zip(before, after, strict=True):
        for (parameter, was), (_, now) in zip(peer.inputs(old), peer.inputs(new), strict=True):
            if peer.is_constant(was):
                assert now.op.op_type == was.op.op_type, (old.name, parameter)
                assert peer.same(peer.value_of(was.op), peer.value_of(now.op)), parameter
    # Names are left out: a converter does not number constants alike each time.
    kept = [(layer.zeros, layer.encoding) for layer in mlpass.inspect(ours).layers]
    assert kept == [(layer.zeros, layer.encoding) for layer in report.layers]
    assert weight_bytes(ours) <= weight_bytes(theirs)  # so no dense copy is left
    wanted, made = (outputs_of(path, sample) for path in (theirs, ours))
    assert wanted.keys() == made.keys()
    for name in wanted:
        np.testing.assert_array_equal(made[name], wanted[name])


def weight_bytes(package: Path) -> int:
    return (package / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size


def outputs_of(package, sample):
    interpreter = mlpass.Interpreter(package)
    state = interpreter.make_state() if interpreter.states else None
    return interpreter.predict(sample, state)


@pytest.fixture(scope="module")
def _installed():
    mlpass.plugin.install()
    yield
    mlpass.plugin.uninstall()


@pytest.mark.slow_but_every(6)
@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda one: one.value)
@pytest.mark.parametrize("target", TARGETS, ids=lambda one: one.name)
@pytest.mark.parametrize(("name", "options", "mode"), BY_PASS, ids=[row[0] for row in BY_PASS])
def test_each_pass(plain, tmp_path, name, options, mode, target, precision):
    pipeline = PassPipeline.get_pipeline(f"mlpass_{name}")
    pass_name = "mlpass::prune" if name == "prune" else f"mlpass::prune_{name}"
    pipeline.set_options(pass_name, options)
    model = convert_program(target, precision, pipeline)
    config = mode or options["config"]
    assert_same(model, plain(target, precision), config, SAMPLE, tmp_path)


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("mode", OTHER_MODES, ids=str)
def test_each_other_mode(plain, tmp_path, mode):
    number = OTHER_MODES.index(mode)  # all targets and precisions have their turn
    target, precision = TARGETS[number % 3], PRECISIONS[number % 2]
    model = convert_program(target, precision, mlpass.pipeline(mode))
    assert_same(model, plain(target, precision), mode, SAMPLE, tmp_path)


def samples_like(sample, count=48):
    """More samples of the shapes and types of one."""
    generator = np.random.default_rng(3)

    def like(array):
        if array.dtype.kind == "f":
            return generator.random(array.shape, np.float32)
        return generator.integers(0, 90, array.shape).astype(array.dtype)

    return [{name: like(array) for name, array in sample.items()} for _ in range(count)]


@pytest.mark.slow_but_every(10)
@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda one: one.value)
@pytest.mark.parametrize("target", TARGETS, ids=lambda one: one.name)
@pytest.mark.parametrize("mode", [Percentile(0.5), NM(2, 4)], ids=str)
def test_solving_on_samples(plain, tmp_path, mode, target, precision):
    options = {"method": SparseGPT(), "sample_data": samples_like(SAMPLE)}
    model = convert_program(target, precision, mlpass.pipeline(mode, **options))
    assert_same(model, plain(target, precision), mode, SAMPLE, tmp_path, **options)


@pytest.mark.slow_but_every(4)
@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda one: one.value)
@pytest.mark.parametrize(
    "joint", [{"storage": "int4"}, {"storage": {"palettize": 4, "group_size": 4}}], ids=str
)
def test_joint_results(plain, tmp_path, joint, precision):
    target = ct.target.iOS18
    options = {"sample_data": samples_like(SAMPLE), **joint}
    model = convert_program(target, precision, mlpass.pipeline(NM(2, 4), **options))
    assert_same(model, plain(target, precision), NM(2, 4), SAMPLE, tmp_path, **options)


@pytest.mark.slow_but_every(6)
@pytest.mark.conversion
@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_model_on_samples(tmp_path, name):
    source = source_of(name)
    config = Config(Percentile(0.6), weight_threshold=800)
    converted(name, source).save(str(tmp_path / "plain.mlpackage"))
    (given,) = (f.name for f in mlpass.Interpreter(tmp_path / "plain.mlpackage").inputs)
    sample = {given: KINDS[name].sample}
    options = {"method": SparseGPT(), "sample_data": samples_like(sample)}
    model = converted(name, source, pass_pipeline=mlpass.pipeline(config, **options))
    original = tmp_path / "plain.mlpackage"
    assert_same(model, original, config, sample, tmp_path, at_least=2, **options)


def test_the_comparison_can_fail(plain, tmp_path):
    target, precision = TARGETS[0], PRECISIONS[0]
    model = convert_program(target, precision, mlpass.pipeline(Percentile(0.75)))
    with pytest.raises(AssertionError):
        assert_same(model, plain(target, precision), Percentile(0.74), SAMPLE, tmp_path)


def test_configs_go_by_the_names_of_the_finished_package(plain, tmp_path):
    target, precision = TARGETS[1], PRECISIONS[0]
    config = Config(Percentile(0.5), op_name_configs={"tied_table_to_fp16": Percentile(0.9)})
    model = convert_program(target, precision, mlpass.pipeline(config))
    assert_same(model, plain(target, precision), config, SAMPLE, tmp_path, at_least=3)


FORMS = [(name, export) for name, kind in KINDS.items() for export in (False, kind.exported)]


@pytest.mark.slow_but_every(6)
@pytest.mark.conversion
@pytest.mark.parametrize(
    ("name", "export"),
    list(dict.fromkeys(FORMS)),
    ids=lambda value: value if isinstance(value, str) else ("export" if value else "trace"),
)
def test_each_kind_of_model(tmp_path, name, export):
    source = source_of(name, export=export)
    config = Config(Percentile(0.6), weight_threshold=800)
    converted(name, source).save(str(tmp_path / "plain.mlpackage"))
    model = converted(name, source, pass_pipeline=mlpass.pipeline(config))
    (given,) = (feature.name for feature in mlpass.Interpreter(model).inputs)
    sample = {given: KINDS[name].sample}
    assert_same(model, tmp_path / "plain.mlpackage", config, sample, tmp_path, at_least=2)


@pytest.mark.conversion
def test_tied_weights_are_stored_once(tmp_path):
    source = source_of("transformer")
    model = converted("transformer", source, pass_pipeline=mlpass.pipeline(Percentile(0.6)))
    layers = {layer.name: layer for layer in mlpass.inspect(model).layers}
    (tied,) = (layer for layer in layers.values() if layer.shape == (100, 48))
    assert tied.encoding == "sparse"
    model.save(str(tmp_path / "tied.mlpackage"))
    readers = [
        op.op_type
        for op in peer.all_ops(peer.load_programs(tmp_path / "tied.mlpackage"))
        for _, value in peer.inputs(op)
        if value.name == tied.name
    ]
    assert sorted(readers) == ["gather", "linear"]


@pytest.mark.slow_but_every(2)
@pytest.mark.conversion
@pytest.mark.parametrize("export", [False, True], ids=["trace", "export"])
def test_weights_that_training_made_sparse_are_encoded_exactly(export):
    torch.manual_seed(3)
    module = KINDS["cnn"].module()
    for layer in (module.second, module.head):
        torch.nn.utils.prune.l1_unstructured(layer, "weight", 0.7)
        torch.nn.utils.prune.remove(layer, "weight")
    source = source_of("cnn", export=export, module=module)
    options = {"compute_precision": ct.precision.FLOAT32}
    model = converted("cnn", source, pass_pipeline=mlpass.pipeline(Threshold()), **options)
    sparse = {
        op.outputs[0].shape: op.materialized_val_inference()
        for op in model._mil_program.functions["main"].operations
        if op.op_type == "constexpr_sparse_to_dense"
    }
    wanted = [module.second.weight.detach().numpy(), module.head.weight.detach().numpy()]
    assert len(sparse) == len(wanted)
    for weight in wanted:
        assert np.array_equal(sparse[weight.shape], weight)
