"""Weights behind ops that only rearrange them: pruned as what they are, in files and programs."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import Config, Percentile, Threshold
from mlpass.program.mlpackage import Package
from mlpass.program.pymil import read_program
from mlpass.weights.reading import weight_of
from mlpass.weights.sites import find_sites
from tests import peer
from tests.runtime.programs import convert, program

GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((1, 64)).astype(np.float32)


def normal(*shape, dtype=np.float32):
    return GENERATOR.standard_normal(shape).astype(np.float16).astype(dtype)


def multiplied(make):
    """Returns what builds x (1, 64) @ weight (64, 48), the weight made by `make`."""
    return lambda x: mb.matmul(x=x, y=make(), name="out")


W = normal(64, 48)
HALF = np.float16
FOLDS = {
    "transpose": (lambda: mb.transpose(x=W.T.copy(), perm=[1, 0]), W),
    "transpose, negative": (lambda: mb.transpose(x=W.T.copy(), perm=[-1, -2]), W),
    "reshape": (lambda: mb.reshape(x=W.reshape(8, 8, 48), shape=[-1, 48]), W),
    "squeeze": (lambda: mb.squeeze(x=W[None, :, None], axes=[0, 2]), W),
    "expand_dims": (lambda: mb.expand_dims(x=W, axes=[0]), W[None]),
    "flatten2d": (lambda: mb.flatten2d(x=W.reshape(64, 6, 8), axis=1), W),
    "reverse": (lambda: mb.reverse(x=W[:, ::-1].copy(), axes=[-1]), W),
    "reverse, all": (lambda: mb.reverse(x=W[::-1, ::-1].copy()), W),
    "identity": (lambda: mb.identity(x=W), W),
    "slice_by_index": (
        lambda: mb.slice_by_index(
            x=np.stack([np.zeros_like(W), W]), begin=[1, 0, 0], end=[2, 0, -1],
            begin_mask=[False, True, True], end_mask=[False, True, False],
            squeeze_mask=[True, False, False],
        ),
        W[:, :-1],
    ),
    "slice, strided": (
        lambda: mb.slice_by_index(
            x=np.repeat(W, 2, axis=0), begin=[1, 0], end=[128, 48], stride=[2, 1]
        ),
        W,
    ),
    "slice_by_size": (
        lambda: mb.slice_by_size(x=np.tile(W, (2, 1)), begin=[64, 0], size=[-1, 48]),
        W,
    ),
    "concat": (lambda: mb.concat(values=(W[:20], W[20:]), axis=-2), W),
    "stack": (
        lambda: mb.reshape(x=mb.stack(values=(W[:32], W[32:]), axis=0), shape=[64, 48]),
        W,
    ),
    "pad": (
        lambda: mb.pad(x=W[3:60, 1:], pad=[3, 4, 1, 0]),
        np.pad(W[3:60, 1:], ((3, 4), (1, 0))),
    ),
    "pad, the last axis": (
        lambda: mb.pad(x=W[:, :40], pad=[0, 8], mode="constant", constant_val=0.25),
        np.pad(W[:, :40], ((0, 0), (0, 8)), constant_values=0.25),
    ),
    "band_part": (lambda: mb.band_part(x=W, lower=5, upper=-1), np.triu(W, -5)),
    "band_part, both": (
        lambda: mb.band_part(x=W, lower=20, upper=30),
        np.tril(np.triu(W, -20), 30),
    ),
    "cast down": (lambda: mb.cast(x=W.astype(np.float32), dtype="fp16"), W.astype(HALF)),
    "cast up": (lambda: mb.cast(x=W.astype(HALF), dtype="fp32"), W),
    "chain": (
        lambda: mb.reshape(
            x=mb.transpose(x=W.reshape(64, 6, 8).transpose(2, 0, 1).copy(), perm=[1, 2, 0]),
            shape=[64, 48],
        ),
        W,
    ),
}  # fmt: skip


def built(name):
    make, _ = FOLDS[name]
    if name == "cast down":
        return program(
            lambda x: mb.matmul(x=mb.cast(x=x, dtype="fp16"), y=make(), name="out"), (1, 64)
        )
    return program(multiplied(make), (1, 64))


def saved(made, path):
    convert(made, pass_pipeline=ct.PassPipeline.EMPTY).save(str(path))
    return path


def run(model):
    return next(iter(mlpass.Interpreter(model).predict({"x": X}).values()))


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize("name", FOLDS)
def test_they_are_sites_of_the_very_values(tmp_path, name):
    _, wanted = FOLDS[name]
    source = saved(built(name), tmp_path / "in.mlpackage")
    with Package(source) as package:
        for programs in (package.programs, [read_program(built(name))]):
            (site,) = find_sites(programs)
            assert site.refusal is None
            weight = weight_of(site)
            assert weight.dtype == wanted.dtype
            assert weight.tobytes() == np.ascontiguousarray(wanted).tobytes()


@pytest.mark.slow_but_every(4)
@pytest.mark.parametrize("name", FOLDS)
def test_they_are_pruned_to_a_valid_package(tmp_path, name):
    _, wanted = FOLDS[name]
    source = saved(built(name), tmp_path / "in.mlpackage")
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(source, out, Percentile(0.75))
    (layer,) = report.layers
    assert layer.encoding == "sparse"
    after = {op.outputs[0].name: op for op in peer.all_ops(peer.load_programs(out))}
    pruned = peer.value_of(after[layer.name])
    order = np.argsort(np.abs(wanted), axis=None, kind="stable")[: int(0.75 * wanted.size)]
    expected = wanted.copy()
    expected.reshape(-1)[order] = 0
    assert np.array_equal(pruned, expected)
    assert not set(name.split(", ")) & {op.op_type for op in after.values()} - {"cast"}
    assert report.bytes_after < report.bytes_before
    assert run(out).shape == run(source).shape
    x = X.astype(wanted.dtype)
    assert np.allclose(run(out), (x @ expected).reshape(run(out).shape), rtol=1e-2, atol=1e-2)


@pytest.mark.slow_but_every(10)
@pytest.mark.parametrize("name", FOLDS)
def test_they_are_pruned_in_a_program(tmp_path, name):
    made = built(name)
    (layer,) = mlpass.prune(made, Percentile(0.75)).layers
    assert layer.encoding == "sparse"
    types = {op.op_type for op in made.functions["main"].operations}
    assert not set(name.split(", ")) & types - {"cast"}
    from_file = tmp_path / "out.mlpackage"
    mlpass.prune(saved(built(name), tmp_path / "in.mlpackage"), from_file, Percentile(0.75))
    assert np.array_equal(run(saved(made, tmp_path / "program.mlpackage")), run(from_file))


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize("name", FOLDS)
def test_where_nothing_is_pruned_the_program_stays(tmp_path, name):
    source, out = saved(built(name), tmp_path / "in.mlpackage"), tmp_path / "out.mlpackage"
    mlpass.prune(source, out, Config(Percentile(0.0)))
    assert np.array_equal(run(out), run(source))
    for file in source.rglob("*"):
        if file.is_file():
            assert (out / file.relative_to(source)).read_bytes() == file.read_bytes()


def test_slices_of_one_constant_are_sites_of_their_own(tmp_path):
    def build(x):
        whole = mb.const(val=np.concatenate([W, 2 * W, 3 * W], axis=1), name="qkv")
        parts = [mb.slice_by_index(x=whole, begin=[0, at], end=[64, at + 48]) for at in (0, 48, 96)]
        q, k, v = (mb.matmul(x=x, y=part) for part in parts)
        return mb.add(x=mb.add(x=q, y=k), y=v)

    source, out = (
        saved(program(build, (1, 64)), tmp_path / "in.mlpackage"),
        tmp_path / "o.mlpackage",
    )
    report = mlpass.prune(source, out, Percentile(0.75))
    assert [layer.sparsity for layer in report.layers] == [0.75] * 3
    assert "qkv" not in {op.outputs[0].name for op in peer.all_ops(peer.load_programs(out))}
    some = mlpass.prune(
        source,
        tmp_path / "some.mlpackage",
        Config(Percentile(0.75), op_name_configs={report.layers[0].name: None}),
    )
    assert [layer.sparsity for layer in some.layers] == [0, 0.75, 0.75]
    assert run(tmp_path / "some.mlpackage").shape == (1, 48)
    sizes = {
        op.outputs[0].name: op
        for op in peer.all_ops(peer.load_programs(tmp_path / "some.mlpackage"))
    }
    assert "qkv" not in sizes
    assert np.array_equal(peer.value_of(sizes[report.layers[0].name]), W)
    assert some.bytes_after < some.bytes_before - W.nbytes


def test_what_others_read_too_is_listed_and_left(tmp_path):
    def build(x):
        table = mb.const(val=W, name="table")
        rows = mb.gather(x=table, indices=np.array([1], np.int32), axis=0)
        turned = mb.transpose(x=table, perm=[1, 0], name="turned")
        return mb.add(x=mb.matmul(x=rows, y=turned), y=mb.reduce_sum(x=x))

    source, out = (
        saved(program(build, (1, 64)), tmp_path / "in.mlpackage"),
        tmp_path / "o.mlpackage",
    )
    report = mlpass.prune(source, out, Percentile(0.75))
    reasons = {layer.name: layer.skipped for layer in report.layers}
    assert reasons["table"] == "it is also read by transpose (x), not as a weight"
    assert reasons["turned"].startswith("the model makes it as it runs, by transpose")
    assert np.array_equal(run(out), run(source))


@pytest.mark.parametrize("second", ["reshape", "reverse"])
def test_nor_what_is_made_of_that_by_more_ops(tmp_path, second):
    def build(x):
        table = mb.const(val=W, name="table")
        turned = mb.transpose(x=table, perm=[1, 0])
        last = {
            "reshape": lambda: mb.reshape(x=turned, shape=[64, 48]),
            "reverse": lambda: mb.reverse(x=mb.transpose(x=turned, perm=[1, 0]), axes=[0]),
        }[second]()
        return mb.add(x=mb.matmul(x=x, y=table), y=mb.matmul(x=x, y=last, name="out"))

    model = saved(program(build, (1, 64)), tmp_path / "in.mlpackage")
    report = mlpass.prune(model, tmp_path / "out.mlpackage", Percentile(0.75))
    assert len(report.layers) == 2
    assert all(layer.skipped for layer in report.layers)
    assert report.bytes_after == report.bytes_before
    assert np.array_equal(run(model), run(tmp_path / "out.mlpackage"))


def test_a_cast_that_rounds_is_left(tmp_path):
    third = np.full((64, 48), 1 / 3, np.float32)

    def build(x):
        return mb.matmul(x=mb.cast(x=x, dtype="fp16"), y=mb.cast(x=third, dtype="fp16"))

    source = saved(program(build, (1, 64)), tmp_path / "in.mlpackage")
    (layer,) = mlpass.prune(source, tmp_path / "o.mlpackage", Percentile(0.5)).layers
    assert layer.skipped.startswith("the model makes it as it runs, by cast")


def test_what_would_take_more_than_it_is_cast_from_stays(tmp_path):
    source = saved(built("cast up"), tmp_path / "in.mlpackage")
    (layer,) = mlpass.prune(source, tmp_path / "o.mlpackage", Percentile(0.25)).layers
    assert layer.skipped.startswith(f"it is cast from {2 * W.size} bytes, and would take ")
    assert layer.bytes_before == layer.bytes_after == 2 * W.size


def test_samples_reach_them(tmp_path):
    source, out = saved(built("chain"), tmp_path / "in.mlpackage"), tmp_path / "out.mlpackage"
    loud = np.linspace(0.1, 3, 64, dtype=np.float32)
    samples = [{"x": normal(1, 64) * loud} for _ in range(300)]
    (layer,) = mlpass.prune(source, out, Percentile(0.5), sample_data=samples).layers
    assert layer.method == "sparsegpt"
    assert layer.sparsity == 0.5
    assert 0 < layer.error < 0.5


def test_a_threshold_below_all_changes_nothing(tmp_path):
    source, out = saved(built("concat"), tmp_path / "in.mlpackage"), tmp_path / "out.mlpackage"
    mlpass.prune(source, out, Threshold(1e-9, minimum_sparsity_percentile=0.0))
    assert np.array_equal(run(out), run(source))


@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")  # of coremltools
@pytest.mark.parametrize("left", [None, "turned", "plain"])
def test_functions_that_share_a_constant_each_read_their_own(tmp_path, left):
    """One function reads it as it is, the other turned round: two weights, decided apart."""
    square = normal(64, 64)

    def plain(x):
        return mb.matmul(x=x, y=mb.const(val=square, name="plain"), name="out")

    def turned(x):
        whole = mb.const(val=square, name="whole")
        return mb.matmul(x=x, y=mb.transpose(x=whole, perm=[1, 0], name="turned"), name="out")

    functions = ct.utils.MultiFunctionDescriptor()
    for build in (plain, turned):
        made = program(build, (1, 64), opset=ct.target.iOS18)
        path = tmp_path / f"{build.__name__}.mlpackage"
        options = {"pass_pipeline": ct.PassPipeline.EMPTY}
        convert(made, minimum_deployment_target=ct.target.iOS18, **options).save(str(path))
        functions.add_function(str(path), "main", build.__name__)
    functions.default_function_name = "plain"
    source, out = tmp_path / "in.mlpackage", tmp_path / "out.mlpackage"
    ct.utils.save_multifunction(functions, str(source))

    names = {left: None} if left else {}
    report = mlpass.prune(source, out, Config(Percentile(0.5), op_name_configs=names))
    with Package(out) as package:
        weights = {site.names[0]: weight_of(site) for site in find_sites(package.programs)}
    assert weights.keys() == {"plain", "turned"}
    for layer in report.layers:
        whole = square if layer.name == "plain" else square.T
        mask = weights[layer.name] != 0
        assert layer.encoding == ("dense" if layer.name == left else "sparse")
        assert np.count_nonzero(~mask) == layer.zeros
        assert np.array_equal(weights[layer.name], np.where(mask, whole, 0))
        (found,) = mlpass.Interpreter(out, function_name=layer.name).predict({"x": X}).values()
        assert np.allclose(found, X @ weights[layer.name], atol=1e-4)
