"""Pruning real packages: each mode on each fixture, with coremltools as the judge."""

from __future__ import annotations

import functools
import json

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import NM, Block, Channel, Config, Kernel, Percentile, Threshold
from mlpass.errors import ConfigError, ModelFormatError
from mlpass.program.mlpackage import Package
from mlpass.weights.reading import layout_of_site
from mlpass.weights.sites import find_sites
from tests import peer
from tests.runtime.programs import convert, program

MODES = [
    Threshold(0.02, 0.2),
    Percentile(0.75),
    Percentile(0.5, scope="global"),
    Percentile(0.5, scope="row"),
    NM(2, 4),
    NM(3, 4, dim=0),
    Block(0.5, 4),
    Kernel(0.5),
    Channel(0.5),
]


@functools.cache
def original(path):
    """The ops of a package, as coremltools loads them."""
    return peer.all_ops(peer.load_programs(path))


@pytest.mark.slow_but_every(35)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_coremltools_reads_what_was_meant(package, tmp_path, mode):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(package, out, mode)
    pruned = {key_of(layer): layer for layer in report.layers if layer.mode}
    layouts = layouts_of(package)
    met = set()
    before = peer.running_ops(original(package))
    after = peer.running_ops(peer.all_ops(peer.load_programs(out)))
    for old, new in zip(before, after, strict=True):
        assert peer.described(new) == peer.described(old)
        for (parameter, was), (_, now) in zip(peer.inputs(old), peer.inputs(new), strict=True):
            if not peer.is_constant(was):
                assert now.name == was.name
            elif (key := peer.key_of(was)) in pruned:
                met.add(key)
                check_pruned(pruned[key], was, now, mode, layouts[key])
            else:
                assert now.op.op_type == was.op.op_type
                assert peer.same(peer.value_of(was.op), peer.value_of(now.op)), parameter
    assert met == set(pruned)


def key_of(layer):
    """Name and shape: parts of a pipeline may have weights of the same name."""
    return layer.name.split("/")[-1], layer.shape


def check_pruned(layer, was, now, mode, layout):
    weight, decoded = peer.value_of(was.op), peer.value_of(now.op)
    sparse = layer.encoding == "sparse"
    assert now.op.op_type == ("constexpr_sparse_to_dense" if sparse else "const")
    assert decoded.dtype == weight.dtype
    assert np.count_nonzero(decoded == 0) == layer.zeros
    if isinstance(mode, Percentile) and mode.scope == "global":  # has a test of its own
        assert np.array_equal(decoded, np.where(decoded != 0, weight, 0))
    else:
        assert np.array_equal(decoded, np.where(mode.keep(np.abs(weight), layout), weight, 0))


@functools.cache
def layouts_of(path):
    """The layout of each weight by name."""
    layouts = {}
    with Package(path) as opened:
        for site in find_sites(opened.programs):
            try:
                layouts[site.names[0], site.shape] = layout_of_site(site)
            except mlpass.MlpassError:
                layouts[site.names[0], site.shape] = None
    return layouts


@pytest.mark.slow_but_every(2)
def test_reports_tell_bytes_as_they_are_in_the_file(package, tmp_path):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(package, out, Percentile(0.75))

    def files(path):
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

    assert (report.bytes_before, report.bytes_after) == (files(package), files(out))
    after = {layer.name: layer for layer in mlpass.inspect(out).layers}
    for layer in report.layers:
        assert after[layer.name].bytes_before == layer.bytes_after
        assert after[layer.name].zeros == layer.zeros
        assert after[layer.name].encoding == layer.encoding
    json.dumps(report.to_dict())


def test_target_zero_changes_nothing(package, tmp_path):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(package, out, Percentile(0.0))
    assert not any(layer.mode for layer in report.layers)
    for source in package.rglob("*"):
        if source.is_file():
            assert source.read_bytes() == (out / source.relative_to(package)).read_bytes()


@pytest.mark.parametrize("mode", [Percentile(0.6), NM(2, 4), Block(0.5, 4)], ids=str)
def test_same_bytes_on_any_number_of_threads(fixtures, tmp_path, monkeypatch, mode):
    outputs = []
    for threads in ("1", "2", "4"):
        monkeypatch.setenv("MLPASS_THREADS", threads)
        monkeypatch.setattr("mlpass.parallel.SLAB", 4096)
        out = tmp_path / f"out{threads}.mlpackage"
        mlpass.prune(fixtures / "digits_ios15.mlpackage", out, mode)
        outputs.append({p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()})
    assert outputs[0] == outputs[1] == outputs[2]


def test_global_scope_is_one_exact_ranking(tmp_path):
    generator = np.random.default_rng(0)

    def build(x):
        for size in (64, 48, 96):
            half = size == 48
            weight = generator.standard_normal((x.shape[1], size)) * size
            x = mb.cast(x=x, dtype="fp16" if half else "fp32")
            x = mb.matmul(x=x, y=weight.astype(np.float16 if half else np.float32))
        return x

    source, out = tmp_path / "in.mlpackage", tmp_path / "out.mlpackage"
    made = program(build, (1, 64))
    convert(made, pass_pipeline=ct.PassPipeline.EMPTY).save(str(source))
    report = mlpass.prune(source, out, Percentile(0.7, scope="global"))
    chosen = [layer.name for layer in report.layers if layer.mode]
    assert {layer.dtype for layer in report.layers if layer.mode} == {"fp16", "fp32"}
    before = {op.outputs[0].name: op for op in original(source)}
    after = {op.outputs[0].name: op for op in peer.all_ops(peer.load_programs(out))}
    magnitudes = np.concatenate(
        [np.abs(peer.value_of(before[name])).astype(np.float32).ravel() for name in chosen]
    )
    zero = np.concatenate([peer.value_of(after[name]).ravel() == 0 for name in chosen])
    wanted = np.zeros(magnitudes.size, bool)
    wanted[np.argsort(magnitudes, kind="stable")[: int(0.7 * magnitudes.size)]] = True
    assert np.array_equal(zero, wanted)
    assert len({round(layer.sparsity, 2) for layer in report.layers if layer.mode}) > 1


def test_tied_weights_are_decided_once_and_stored_once(fixtures, tmp_path):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(fixtures / "multifunction_lm.mlpackage", out, Percentile(0.5))
    assert len(report.layers) == 22
    with Package(out) as opened:
        (program,) = opened.programs
        places = [
            {
                op.outputs[0].name: op.inputs["nonzero_data"][0].storage
                for op in function.block.walk()
                if op.type == "constexpr_sparse_to_dense"
            }
            for function in program.functions.values()
        ]
    assert len(places) == 2
    assert places[0] == places[1]


def test_ios15_is_raised_to_ios16_only_where_something_is_sparse(fixtures, tmp_path):
    from coremltools.models import MLModel

    source = fixtures / "digits_ios15.mlpackage"
    mlpass.prune(source, tmp_path / "sparse.mlpackage", Percentile(0.5))
    mlpass.prune(source, tmp_path / "same.mlpackage", Percentile(0.0))
    mlpass.prune(source, tmp_path / "dense.mlpackage", Percentile(0.05))
    for name, version, opset in [
        ("sparse", 7, "CoreML6"),
        ("same", 6, "CoreML5"),
        ("dense", 6, "CoreML5"),
    ]:
        spec = MLModel(str(tmp_path / f"{name}.mlpackage"), skip_model_load=True).get_spec()
        assert spec.specificationVersion == version
        assert spec.mlProgram.functions["main"].opset == opset


def test_the_sparse_form_is_written_only_where_it_is_smaller(fixtures, tmp_path):
    source = fixtures / "tiny_lm.mlpackage"
    few = mlpass.prune(source, tmp_path / "few.mlpackage", Percentile(0.06))
    more = mlpass.prune(source, tmp_path / "more.mlpackage", Percentile(0.07))
    assert {layer.encoding for layer in few.layers} == {"dense"}
    assert {layer.encoding for layer in more.layers} == {"sparse"}
    assert all(layer.bytes_after < layer.bytes_before for layer in more.layers)
    assert all(layer.mode == "Percentile(0.06)" and layer.zeros for layer in few.layers)


@pytest.mark.parametrize("name", ["palettized_digits", "quantized_digits"])
def test_joint_compression_keeps_what_it_keeps(fixtures, tmp_path, name):
    source, out = fixtures / f"{name}.mlpackage", tmp_path / "out.mlpackage"
    report = mlpass.prune(source, out, Percentile(0.6), joint_compression=True)
    before = {op.outputs[-1].name: op for op in original(source)}
    after = {op.outputs[-1].name: op for op in peer.all_ops(peer.load_programs(out))}
    pruned = [layer for layer in report.layers if layer.mode]
    assert len(pruned) >= 3
    for layer in pruned:
        old, new = peer.value_of(before[layer.name]), peer.value_of(after[layer.name])
        keep = Percentile(0.6).keep(np.abs(old))
        assert np.array_equal(new, np.where(keep, old, 0))
        assert layer.zeros == np.count_nonzero(new == 0)
        assert layer.encoding.startswith("sparse + ")
    assert report.bytes_after < report.bytes_before
    again = {layer.name: layer for layer in mlpass.inspect(out).layers}
    for layer in pruned:
        assert again[layer.name].bytes_before == layer.bytes_after
        assert again[layer.name].zeros == layer.zeros
        assert set(again[layer.name].encoding.split(" + ")) == set(layer.encoding.split(" + "))


def test_joint_compression_needs_ios18(fixtures, tmp_path):
    with pytest.raises(
        ModelFormatError, match="joint_compression needs an iOS18 model, this is iOS17"
    ):
        mlpass.prune(
            fixtures / "tiny_lm.mlpackage",
            tmp_path / "out.mlpackage",
            Percentile(0.5),
            joint_compression=True,
        )


def test_joint_compression_of_a_form_of_ios16_needs_ios18_too(fixtures, tmp_path):
    source, out = tmp_path / "int8.mlpackage", tmp_path / "out.mlpackage"
    mlpass.prune(
        fixtures / "digits_ios15.mlpackage",
        source,
        storage="int8",
        minimum_deployment_target="iOS16",
    )
    with pytest.raises(
        ModelFormatError, match="joint_compression needs an iOS18 model, this is iOS16"
    ):
        mlpass.prune(source, out, Percentile(0.5), joint_compression=True)
    left = Config(op_name_configs={"*": None})
    report = mlpass.prune(source, out, left, joint_compression=True)
    assert {layer.mode for layer in report.layers} == {None}
    raised = {"joint_compression": True, "minimum_deployment_target": "iOS18", "force": True}
    report = mlpass.prune(source, out, Percentile(0.5), **raised)
    assert {layer.encoding for layer in report.layers if layer.mode} == {"sparse + quantized"}


def test_joint_compression_prunes_plain_weights_too(fixtures, tmp_path):
    source, out = fixtures / "palettized_digits.mlpackage", tmp_path / "out.mlpackage"
    config = Config(Percentile(0.1), weight_threshold=1)
    report = mlpass.prune(source, out, config, joint_compression=True)
    assert report.layers[0].skipped is None
    assert "its joint sparse form would not be smaller" in report.layers[1].skipped


def test_sources_that_are_none(tmp_path):
    with pytest.raises(ModelFormatError, match="must be the path of an .mlpackage or an MLModel"):
        mlpass.prune(3, tmp_path / "out.mlpackage", Percentile(0.5))


def test_a_config_that_names_nothing_is_an_error_before_anything_is_written(fixtures, tmp_path):
    config = Config(op_name_configs={"nothing": Percentile(0.5)})
    with pytest.raises(ConfigError, match="no weight or op is named 'nothing'"):
        mlpass.prune(fixtures / "tiny_lm.mlpackage", tmp_path / "out.mlpackage", config)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"propagate": "dense"}, "propagate: says how samples are used; needs sample_data"),
        ({"backend": "torch", "fallback": "magnitude"}, "fallback, backend: says how samples are"),
        ({"resume": True}, "resume: goes on with what was solved for on samples; without sample_"),
        ({"resume": True, "budget": "0.9x"}, "resume: goes on with what was solved for on samples"),
    ],
)
def test_what_does_nothing_without_samples_is_refused(options, text, fixtures, tmp_path):
    source, out = fixtures / "digits_classifier.mlpackage", tmp_path / "out.mlpackage"
    with pytest.raises(ConfigError, match=text):
        mlpass.prune(source, out, Percentile(0.5), **options)
    assert not out.exists()
