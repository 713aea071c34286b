"""Passes that carry their options: for converters that take names of passes alone."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools import PassPipeline
from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipelineManager
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

import mlpass
import mlpass.plugin
from mlpass import Percentile
from mlpass.errors import ConfigError
from tests.plugin.programs import live, zeros_of


@pytest.fixture(autouse=True)
def _as_it_was():
    before = dict(PASS_REGISTRY.passes)
    yield
    mlpass.plugin.uninstall()
    PASS_REGISTRY.passes.clear()
    PASS_REGISTRY.passes.update(before)


def run(passes):
    """Runs passes as a converter does that knows nothing but their names."""
    made = live()
    PassPipelineManager.apply_pipeline(made, PassPipeline(passes))
    return made


def samples(count=8):
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((1, 64)).astype(np.float32)} for _ in range(count)]


def test_a_name_is_enough():
    mlpass.plugin.register("mine::most", Percentile(0.75))
    assert zeros_of(run(["mine::most"])) == 0.75


def test_it_stays_what_it_is_beside_another_one():
    mlpass.plugin.register("mine::half", Percentile(0.5))
    mlpass.plugin.register("mine::most", {"target_sparsity": 0.75})
    assert [zeros_of(run([f"mine::{name}"])) for name in ("half", "most", "half")] == [
        0.5,
        0.75,
        0.5,
    ]


def test_registered_again_it_is_replaced():
    mlpass.plugin.register("mine::some", Percentile(0.5))
    mlpass.plugin.register("mine::some", Percentile(0.25))
    assert zeros_of(run(["mine::some"])) == 0.25


def test_with_samples_it_is_what_the_pipeline_makes():
    arguments = {"method": "sparsegpt", "sample_data": samples()}
    mlpass.plugin.register("mine::solved", Percentile(0.5), **arguments)
    ours, theirs = live(), live()
    PassPipelineManager.apply_pipeline(ours, PassPipeline(mlpass.plugin.names("mine::solved")))
    PassPipelineManager.apply_pipeline(theirs, mlpass.pipeline(Percentile(0.5), **arguments))
    weights = [
        function.find_ops(op_type="constexpr_sparse_to_dense")[0].nonzero_data.val
        for function in (ours.functions["main"], theirs.functions["main"])
    ]
    np.testing.assert_array_equal(*weights)


def test_names_are_a_whole_pipeline_that_prunes_last():
    passes = mlpass.plugin.names(Percentile(0.5))
    assert passes == [
        (name if name != "mlpass::prune" else "mlpass_recipe::1")
        for name in mlpass.pipeline(Percentile(0.5)).passes
    ]
    assert zeros_of(run(passes)) == 0.5
    assert "mlpass_recipe::2" in mlpass.plugin.names({"quantize": "int8"})


def test_names_begin_with_those_of_a_base():
    base = PassPipeline.CLEANUP
    assert mlpass.plugin.names(Percentile(0.5), base=base)[: len(base.passes)] == base.passes
    with pytest.raises(ConfigError, match="base: must be a coremltools PassPipeline. Got list"):
        mlpass.plugin.names(Percentile(0.5), base=[])


def test_names_of_a_file(tmp_path):
    file = tmp_path / "prune.yaml"
    file.write_text("global_config: {target_sparsity: 0.5}\n")
    assert zeros_of(run(mlpass.plugin.names(str(file)))) == 0.5


def test_uninstall_takes_them_out_and_an_installation_leaves_them():
    mlpass.plugin.register("mine::half", Percentile(0.5))
    mlpass.plugin.install()
    assert "mine::half" in PASS_REGISTRY
    mlpass.plugin.uninstall()
    assert "mine::half" not in PASS_REGISTRY


def test_a_base_that_has_one_is_not_pruned_twice():
    mlpass.plugin.register("mine::half", Percentile(0.5))
    base = PassPipeline(mlpass.plugin.names("mine::half"))
    with pytest.raises(ConfigError, match="it has mine::half already; merge the two configs"):
        mlpass.pipeline(Percentile(0.5), base=base)


@pytest.mark.parametrize("name", ["half", "::half", "mine::", "mlpass::half", ""])
def test_a_name_has_a_namespace_of_its_own(name):
    with pytest.raises(ConfigError, match='name: must have a namespace of your own, as in "mine::'):
        mlpass.plugin.register(name, Percentile(0.5))


def test_a_pass_of_coremltools_is_not_replaced():
    with pytest.raises(ConfigError, match="'common::const_elimination' is a pass of coremltools"):
        mlpass.plugin.register("common::const_elimination", Percentile(0.5))


def test_what_is_wrong_is_said_when_it_is_registered():
    with pytest.raises(ConfigError, match="target_sparsity"):
        mlpass.plugin.register("mine::half", {"target_sparsity": 5})
    with pytest.raises(ConfigError, match="unknown"):
        mlpass.plugin.register("mine::half", Percentile(0.5), alocate="error")
    assert "mine::half" not in PASS_REGISTRY


def test_options_of_its_own_are_not_joined_by_others():
    mlpass.plugin.register("mine::half", Percentile(0.5))
    pipeline = PassPipeline(["mine::half"])
    pipeline.set_options("mine::half", {"config": Percentile(0.9)})
    with pytest.raises(ConfigError, match="mine::half: takes no options, .* pass for 'config'"):
        PassPipelineManager.apply_pipeline(live(), pipeline)
    with pytest.raises(ConfigError, match="mine::half: takes no options"):
        mlpass.plugin.names("mine::half", method="wanda")


def test_a_name_that_was_not_registered_gets_a_close_match():
    mlpass.plugin.register("mine::half", Percentile(0.5))
    with pytest.raises(ConfigError, match=r"'mine::haf' is not a pass of .*'mine::half'"):
        mlpass.plugin.names("mine::haf")


def test_an_error_while_it_runs_names_it():
    mlpass.plugin.register("mine::half", {"op_name_configs": {"nowhere": Percentile(0.5)}})
    with pytest.raises(ConfigError, match="mine::half: .*nowhere"):
        run(["mine::half"])
    assert ct.PassPipeline.DEFAULT.passes  # coremltools is not disturbed
