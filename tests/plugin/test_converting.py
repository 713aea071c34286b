"""Pruning within converters that do not hand a pass pipeline on."""

from __future__ import annotations

import contextvars
import gc
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import converter
from coremltools.converters.mil.converter import mil_convert

import mlpass
from mlpass import Percentile
from mlpass.errors import ConfigError, ModelFormatError
from tests.plugin.programs import live, zeros_of

ORIGINAL = converter.mil_convert_to_proto

# coremltools leaves the directory of its weights to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")


@pytest.fixture(autouse=True)
def _coremltools_is_as_it_was():
    yield
    gc.collect()
    assert converter.mil_convert_to_proto is ORIGINAL


_ONE_AT_A_TIME = threading.Lock()  # coremltools itself cannot convert in two threads at once


def export(**options):
    """Converts as those do who say nothing of passes."""
    with _ONE_AT_A_TIME:
        return ct.convert(
            live(),
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS17,
            skip_model_load=True,
            **options,
        )


def sparsity(model):
    """Returns the share of zeros of the one weight of an `MLModel`."""
    (layer,) = mlpass.inspect(model).layers
    return layer.sparsity


def test_a_conversion_inside_is_pruned_and_one_after_is_not():
    with mlpass.converting(Percentile(0.75)) as reports:
        model = export()
    assert sparsity(model) == 0.75
    assert [layer.sparsity for layer in reports[0].layers] == [0.75]
    assert sparsity(export()) == 0


def test_it_is_what_a_pipeline_makes():
    with mlpass.converting(storage={"quantize": "int8"}):
        inside = export(pass_pipeline=ct.PassPipeline.CLEANUP)
    pipeline = mlpass.pipeline(storage={"quantize": "int8"}, base=ct.PassPipeline.CLEANUP)
    assert inside.get_spec() == export(pass_pipeline=pipeline).get_spec()


def test_a_conversion_without_a_pipeline_stays_in_fp32():
    """What is called without one is not cast to fp16, as before."""

    def plain():
        return mil_convert(
            live(),
            convert_from="milinternal",
            convert_to="mlprogram",
            compute_units=ct.ComputeUnit.ALL,
            specification_version=ct.target.iOS17,
            skip_model_load=True,
        )

    with mlpass.converting(Percentile(0.5)):
        model = plain()
    (layer,), (dense,) = mlpass.inspect(model).layers, mlpass.inspect(plain()).layers
    assert (layer.dtype, layer.sparsity) == (dense.dtype, 0.5) == ("fp32", 0.5)


@pytest.mark.conversion
def test_a_conversion_without_a_target_is_for_that_of_the_block():
    torch = pytest.importorskip("torch")
    traced = torch.jit.trace(torch.nn.Linear(64, 64).eval(), torch.zeros(1, 64))

    def plain():
        inputs, outputs = [ct.TensorType("x", (1, 64))], [ct.TensorType("y")]
        return ct.convert(traced, inputs=inputs, outputs=outputs, skip_model_load=True)

    with mlpass.converting(Percentile(0.75), minimum_deployment_target="iOS18"):
        model = plain()
        stated = export()
    assert sparsity(model) == sparsity(stated) == 0.75
    assert model.get_spec().specificationVersion == ct.target.iOS18.value
    assert stated.get_spec().specificationVersion == ct.target.iOS17.value
    with pytest.raises(ModelFormatError, match="iOS16"), mlpass.converting(Percentile(0.75)):
        plain()


@pytest.mark.parametrize("made", ["neuralnetwork", "NeuralNetwork"])
def test_a_neural_network_cannot_be_pruned_and_says_so(made):
    def neural_network():
        options = {"convert_from": "milinternal", "compute_units": ct.ComputeUnit.ALL}
        mil_convert(live(ct.target.iOS15), convert_to=made, skip_model_load=True, **options)

    with mlpass.converting(Percentile(0.5)) as reports:
        with pytest.raises(ConfigError, match="makes a neural network, .* make it an ML Program"):
            neural_network()
        export()
    assert len(reports) == 1
    neural_network()


def test_a_program_that_is_not_made_a_model_is_pruned():
    with mlpass.converting(Percentile(0.5)) as reports:
        made = ct.convert(live(), convert_to="milinternal")
    assert len(reports) == 1 and zeros_of(made) == 0.5


def test_an_unknown_target_is_said_before_the_block_begins():
    with pytest.raises(ConfigError, match="minimum_deployment_target: must be one of"):
        mlpass.converting(Percentile(0.5), minimum_deployment_target="iOS71").__enter__()


def test_samples_are_solved_on():
    rng = np.random.default_rng(1)
    loud = np.linspace(0.1, 3, 64, dtype=np.float32)
    samples = [{"x": rng.standard_normal((1, 64), np.float32) * loud} for _ in range(300)]
    with mlpass.converting(Percentile(0.5), sample_data=samples) as reports:
        export()
    assert [layer.method for layer in reports[0].layers] == ["sparsegpt"]


def test_of_nested_blocks_the_innermost_holds():
    with mlpass.converting(Percentile(0.25)) as outer:
        with mlpass.converting(Percentile(0.75)) as inner:
            assert sparsity(export()) == 0.75
        assert sparsity(export()) == 0.25
    assert (len(outer), len(inner)) == (1, 1)


def test_threads_begun_inside_are_pruned_too():
    with mlpass.converting(Percentile(0.5)) as reports, ThreadPoolExecutor(2) as pool:
        models = list(pool.map(lambda _: export(), range(3)))
    assert [sparsity(model) for model in models] == [0.5] * 3
    assert len(reports) == 3


@pytest.mark.slow
def test_threads_with_blocks_of_their_own_do_not_meet():
    both, found = threading.Barrier(2), {}

    def run(share):
        with mlpass.converting(Percentile(share)):
            both.wait(60)  # both blocks are open now
            found[share] = sparsity(export())
            both.wait(60)

    threads = [threading.Thread(target=run, args=(share,)) for share in (0.25, 0.75)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0.25: 0.25, 0.75: 0.75}


def test_an_exception_inside_passes_and_leaves_nothing():
    with pytest.raises(ZeroDivisionError), mlpass.converting(Percentile(0.5)):
        raise ZeroDivisionError
    assert converter.mil_convert_to_proto is ORIGINAL
    with pytest.raises(ConfigError, match="nowhere"):  # noqa: SIM117  # the conversion raises it
        with mlpass.converting({"op_name_configs": {"nowhere": {"target_sparsity": 0.5}}}):
            export()
    assert sparsity(export()) == 0


def test_a_conversion_that_fails_inside_does_not_stop_the_next():
    with mlpass.converting(Percentile(0.5)):
        with pytest.raises(NotImplementedError):
            mil_convert(live(), "nowhere", "mlprogram", ct.ComputeUnit.ALL)
        assert sparsity(export()) == 0.5


def test_a_block_without_a_conversion_says_so():
    with pytest.warns(UserWarning, match="no conversion of coremltools ended inside the block"):  # noqa: SIM117
        with mlpass.converting(Percentile(0.5)):
            pass
    with warnings.catch_warnings(record=True) as caught, mlpass.converting(Percentile(0.5)):
        export()
    assert not [each for each in caught if "no conversion" in str(each.message)]


@pytest.mark.filterwarnings("ignore:mlpass.converting:UserWarning")
def test_it_may_be_entered_again_and_by_several_threads():
    pruning, both = mlpass.converting(Percentile(0.5)), threading.Barrier(2)
    with pruning as first:
        assert sparsity(export()) == 0.5
    with pruning as second, pruning as third:
        assert sparsity(export()) == 0.5
    assert [len(each) for each in (first, second, third)] == [1, 0, 1]

    def run(number):
        with pruning as reports:
            both.wait(60)
            if number == 0:
                export()
        both.wait(60)
        return len(reports)

    with ThreadPoolExecutor(2) as pool:
        assert [*pool.map(run, range(2))] == [1, 0]
    assert sparsity(export()) == 0


@pytest.mark.filterwarnings("ignore:mlpass.converting:UserWarning")
def test_it_may_end_in_another_context_than_it_began_in():
    """As a generator does, and a fixture of an event loop."""

    def blocks():
        with mlpass.converting(Percentile(0.5)):
            yield

    begun = blocks()
    contextvars.copy_context().run(next, begun)
    assert converter.mil_convert_to_proto is not ORIGINAL
    assert next(begun, None) is None
    assert converter.mil_convert_to_proto is ORIGINAL


def test_what_is_wrong_is_said_before_the_block_begins():
    with pytest.raises(ConfigError, match="target_sparsity"):
        mlpass.converting({"target_sparsity": 2}).__enter__()


def test_a_pipeline_that_prunes_already_is_refused():
    with mlpass.converting(Percentile(0.5)) as reports:
        with pytest.raises(ConfigError, match="it has mlpass::prune already; merge the two"):
            export(pass_pipeline=mlpass.pipeline(Percentile(0.25)))
        export()
    assert len(reports) == 1


@pytest.mark.slow
def test_what_others_have_put_above_it_stays(monkeypatch):
    """Another package replaces the same function while a block is open, and keeps it."""
    block = mlpass.converting(Percentile(0.5))
    block.__enter__()
    ours = converter.mil_convert_to_proto
    monkeypatch.setattr(converter, "mil_convert_to_proto", lambda *a, **k: ours(*a, **k))
    theirs = converter.mil_convert_to_proto
    export()
    block.__exit__(None, None, None)
    assert converter.mil_convert_to_proto is theirs
    assert sparsity(export()) == 0
    with mlpass.converting(Percentile(0.25)):  # by the one that lies below
        assert sparsity(export()) == 0.25
    monkeypatch.undo()
    with mlpass.converting(Percentile(0.25)):
        assert sparsity(export()) == 0.25


def test_what_others_undo_inside_is_told_and_does_not_stop_the_next(monkeypatch):
    """Another package replaced the function before the block, and puts the old one back inside."""
    monkeypatch.setattr(converter, "mil_convert_to_proto", lambda *a, **k: ORIGINAL(*a, **k))
    block = mlpass.converting(Percentile(0.5))
    reports = block.__enter__()
    assert sparsity(export()) == 0.5
    monkeypatch.undo()
    assert sparsity(export()) == 0
    with pytest.warns(UserWarning, match="put coremltools back as it was inside the block"):
        block.__exit__(None, None, None)
    assert converter.mil_convert_to_proto is ORIGINAL and len(reports) == 1
    with mlpass.converting(Percentile(0.25)) as reports:
        assert sparsity(export()) == 0.25
    assert len(reports) == 1


def test_what_others_have_put_between_two_of_ours_prunes_once(monkeypatch):
    with mlpass.converting(Percentile(0.5)):
        ours = converter.mil_convert_to_proto
        monkeypatch.setattr(converter, "mil_convert_to_proto", lambda *a, **k: ours(*a, **k))
        with mlpass.converting(Percentile(0.25)) as reports:
            assert sparsity(export()) == 0.25
        export()
    assert len(reports) == 1
    monkeypatch.undo()  # what was below is there again, until the next block ends
    with mlpass.converting(Percentile(0.25)):
        assert sparsity(export()) == 0.25
