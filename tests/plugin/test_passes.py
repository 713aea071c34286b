"""mlpass within coremltools: registries, pipelines, options, and the front end for packages."""

from __future__ import annotations

import subprocess
import sys

import coremltools as ct
import numpy as np
import pytest
from coremltools import PassPipeline
from coremltools.converters.mil.converter import ConverterRegistry
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil.passes.graph_pass import PassOption
from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipelineManager
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

import mlpass
import mlpass.plugin
from mlpass import Config, Magnitude, Percentile, SparseGPT
from mlpass.errors import CalibrationError, ConfigError, ModelFormatError
from mlpass.plugin import passes as plugin
from tests.peer import value_of
from tests.runtime.programs import convert, program

MODES = ["threshold", "percentile", "nm", "block", "kernel", "channel"]
NAMES = [*(f"prune_{mode}" for mode in MODES), "prune", "sparsegpt"]
PASSES = [f"mlpass::{name}" for name in NAMES]
PIPELINES = [*MODES, "prune", "sparsegpt"]


def dense(x):
    weight = np.random.default_rng(0).standard_normal((64, 64), np.float32)
    return mb.linear(x=x, weight=weight, name="y")


def live(opset=ct.target.iOS17):
    return program(dense, (1, 64), opset=opset)


def registries():
    return (
        dict(PASS_REGISTRY.passes),
        {name: list(passes) for name, passes in PassPipeline._PIPELINE_NAME_TO_PASSES.items()},
        dict(ConverterRegistry.frontends),
        dict(ConverterRegistry.backends),
    )


# coremltools leaves the directory of its weights to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")


# Registries


def test_importing_the_plugin_registers_the_passes():
    code = (
        "import mlpass.plugin\n"
        "from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY\n"
        "print(*(name for name in PASS_REGISTRY.passes if name.startswith('mlpass::')))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == PASSES


def test_uninstall_leaves_coremltools_as_it_was():
    mlpass.plugin.uninstall()
    before = registries()
    assert not any("mlpass" in name or name == "mlpackage" for part in before for name in part)
    mlpass.plugin.install()
    once = registries()
    assert once != before
    mlpass.plugin.install()
    assert registries() == once
    mlpass.plugin.uninstall()
    assert registries() == before
    mlpass.plugin.uninstall()
    assert registries() == before
    assert "mlpass::prune" in mlpass.pipeline(Percentile(0.5)).passes  # they are back


@pytest.mark.usefixtures("_installed")
def test_named_pipelines_are_the_default_one_and_a_pass():
    for name, of_pass in zip(PIPELINES, PASSES, strict=True):
        passes = PassPipeline.get_pipeline(f"mlpass_{name}").passes
        ours = passes.index(of_pass)
        assert passes[: len(PassPipeline.DEFAULT.passes)] == PassPipeline.DEFAULT.passes
        assert passes[ours + 1 :] == ["common::dead_code_elimination"]


# Pipelines


@pytest.mark.parametrize("base", ["DEFAULT", "CLEANUP", "EMPTY", "DEFAULT_PALETTIZATION"])
def test_a_pipeline_prunes_after_all_that_its_base_does(base):
    given = getattr(PassPipeline, base)
    passes, options = list(given.passes), dict(given.get_all_options())
    made = mlpass.pipeline(Percentile(0.5), base=given)
    assert made.passes[: len(passes)] == passes
    assert "mlpass::prune" in made.passes[len(passes) :]
    assert made.get_all_options().keys() == {*options, "mlpass::prune"}
    assert (given.passes, given.get_all_options()) == (passes, options)  # not changed
    made.validate()


def test_a_pipeline_that_prunes_already_is_no_base():
    base = mlpass.pipeline(Percentile(0.5))
    with pytest.raises(ConfigError, match="base: it has mlpass::prune already; merge the two"):
        mlpass.pipeline(Percentile(0.7), base=base)


def test_a_base_that_is_no_pipeline():
    with pytest.raises(ConfigError, match="base: must be a coremltools PassPipeline. Got str"):
        mlpass.pipeline(Percentile(0.5), base="default")


def test_the_report_is_logged(caplog):
    with caplog.at_level("INFO", "mlpass"):
        run("prune_percentile", {"target_sparsity": "0.75", "weight_threshold": "5000"})
    assert "its 4096 elements are no more than weight_threshold 5000" in caplog.text


def test_a_config_that_is_none_is_an_error_at_once():
    with pytest.raises(ConfigError, match="config: must be a mode, a storage"):
        mlpass.pipeline(3)


def test_later_clean_up_undoes_nothing():
    pipeline = mlpass.pipeline(Percentile(0.75))
    for name in ("const_elimination", "const_deduplication", "dead_code_elimination"):
        pipeline.append_pass(f"common::{name}")
    model = convert(live(), pass_pipeline=pipeline)
    (layer,) = mlpass.inspect(model).layers
    assert (layer.encoding, layer.sparsity) == ("sparse", 0.75)


def test_weights_that_the_base_palettizes_are_left():
    from coremltools.optimize.coreml import OpPalettizerConfig, OptimizationConfig

    base = PassPipeline.DEFAULT_PALETTIZATION
    config = OptimizationConfig(OpPalettizerConfig(mode="uniform", nbits=4))
    base.set_options("compression::palettize_weights", {"config": config})
    model = convert(live(), pass_pipeline=mlpass.pipeline(Percentile(0.75), base=base))
    (layer,) = mlpass.inspect(model).layers
    assert layer.encoding == "palettized"


# Options


def run(name, options, source=None):
    pipeline = PassPipeline([f"mlpass::{name}"])
    if options is not None:
        pipeline.set_options(f"mlpass::{name}", options)
    source = live() if source is None else source
    PassPipelineManager.apply_pipeline(source, pipeline)
    return source


@pytest.mark.parametrize(
    ("name", "plain", "objects"),
    [
        ("prune_percentile", {"target_sparsity": "0.75"}, {"target_sparsity": 0.75}),
        ("prune_percentile", {"target_sparsity": "0.5", "scope": "row"}, None),
        (
            "prune_percentile",
            {"target_sparsity": "0.5", "weight_threshold": "64"},
            {"target_sparsity": 0.5, "weight_threshold": 64},
        ),
        ("prune_nm", {"n_m_ratio": "2:4", "dim": "0"}, {"n_m_ratio": (2, 4), "dim": 0}),
        ("prune_block", {"target_sparsity": "0.5", "block_size": "4"}, None),
        (
            "prune_threshold",
            {"threshold": "0.5", "minimum_sparsity_percentile": "0.1"},
            {"threshold": 0.5, "minimum_sparsity_percentile": 0.1},
        ),
    ],
)
def test_options_as_strings_and_as_objects(name, plain, objects):
    objects = objects or {
        key: float(value) if "." in value else int(value) if value.isdigit() else value
        for key, value in plain.items()
    }
    decoded = [
        op.materialized_val_inference()
        for options in (plain, objects)
        for op in run(name, options).functions["main"].operations
        if op.op_type == "constexpr_sparse_to_dense"
    ]
    assert len(decoded) == 2
    assert np.array_equal(*decoded)
    assert np.count_nonzero(decoded[0] == 0) > 64


def test_a_whole_config_as_object_and_as_path(tmp_path):
    (tmp_path / "prune.yaml").write_text("global_config: {target_sparsity: 0.5}\n")
    for config in (Percentile(0.5), Config(Percentile(0.5)), str(tmp_path / "prune.yaml")):
        (layer,) = mlpass.prune(run("prune", {"config": config}), Percentile(0.5)).layers
        assert layer.sparsity == 0.5


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("prune_percentile", {"target_sparsty": "0.5"}, "unknown option 'target_sparsty', did you"),
        ("prune_nm", {"q": 1}, "unknown option 'q'; it takes n_m_ratio, dim, weight_threshold"),
        ("prune_percentile", {"target_sparsity": "much"}, "target_sparsity: must be a number. Got"),
        ("prune_percentile", {"target_sparsity": 1.5}, "target_sparsity: must be"),
        ("prune_percentile", {"target_sparsity": "0.5", "scope": "all"}, "scope: must be"),
        ("prune_nm", {"n_m_ratio": "2/4"}, "n_m_ratio: must be N:M, that is N zeros in every M"),
        ("prune_nm", {"n_m_ratio": "5:4"}, "n_m_ratio: n .the number of zeros. must be an int in"),
        ("prune_nm", {"n_m_ratio": "2:4", "dim": "x"}, "dim: must be an int. Got 'x'"),
        ("prune_block", {"target_sparsity": "0.5"}, "Block: needs block_size"),
        ("prune_threshold", {"weight_threshold": "-1"}, "weight_threshold: must be an int of 0 or"),
        ("prune_percentile", None, "Percentile: needs target_sparsity"),
        ("prune", None, "needs the option config, a mode, a Config or a YAML path"),
        ("prune", {"config": 3}, "config: must be a mode, a storage"),
        (
            "prune",
            {"config": Config(op_name_configs={"nothing": None})},
            "op_name_configs: no weight or op is named 'nothing'",
        ),
    ],
)
def test_bad_options_name_the_pass_and_the_option(name, options, text):
    with pytest.raises(ConfigError, match=f"^mlpass::{name}: {text}"):
        run(name, options)


@pytest.mark.usefixtures("_swept")
@pytest.mark.parametrize("target", [ct.target.iOS15, None])
def test_targets_below_ios16_are_an_error_with_the_cure(target):
    text = (
        "mlpass::prune: the program is for iOS15, and sparse weights begin with iOS16: convert "
        "with minimum_deployment_target=coremltools.target.iOS16 or later"
    )
    with pytest.raises(ModelFormatError, match=text):
        convert(
            live(ct.target.iOS15),
            minimum_deployment_target=target,
            pass_pipeline=mlpass.pipeline(Percentile(0.5)),
        )


# Samples


def samples():
    generator = np.random.default_rng(2)
    return [{"x": generator.standard_normal((1, 64)).astype(np.float32)} for _ in range(80)]


def test_a_pipeline_with_samples_solves_on_them():
    made = mlpass.pipeline(Percentile(0.5), method=SparseGPT(), sample_data=samples())
    assert "mlpass::sparsegpt" in made.passes
    assert "mlpass::prune" not in made.passes
    by_size = mlpass.pipeline(Percentile(0.5), method=Magnitude())
    assert "mlpass::prune" in by_size.passes
    with pytest.raises(ConfigError, match="it has mlpass::sparsegpt already"):
        mlpass.pipeline(Percentile(0.5), base=made)


def test_samples_that_can_be_gone_through_once_are_read_once():
    made = mlpass.pipeline(Percentile(0.5), sample_data=iter(samples()))
    given = {each.option_name: each.option_val for each in made.get_options("mlpass::sparsegpt")}
    assert len(given["sample_data"]) == 80


def test_a_pipeline_checks_what_goes_with_samples():
    with pytest.raises(ConfigError, match="needs sample_data"):
        mlpass.pipeline(Percentile(0.5), method=SparseGPT())
    with pytest.raises(ConfigError, match="propagate: must be 'pruned' or 'dense'"):
        mlpass.pipeline(Percentile(0.5), sample_data=samples(), propagate="no")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": Percentile(0.5)}, "mlpass::sparsegpt: needs the option sample_data"),
        (
            {"config": Percentile(0.5), "sample_data": [{}], "methods": 1},
            "unknown option 'methods'",
        ),
        (
            {"config": Percentile(0.5), "sample_data": [{}], "fallback": "x"},
            "mlpass::sparsegpt: fallback: must be 'skip' or 'magnitude'",
        ),
        ({"config": Percentile(0.5), "sample_data": []}, "holds no samples"),
    ],
)
def test_the_sparsegpt_pass_names_itself_and_the_option(options, message):
    one = PASS_REGISTRY["mlpass::sparsegpt"]
    with pytest.raises((ConfigError, CalibrationError), match=message):
        one.set_options([PassOption(name, value) for name, value in options.items()])


def test_samples_may_be_keyed_by_the_names_of_the_source():
    def build(x):
        weight = np.random.default_rng(0).standard_normal((64, 64), np.float32)
        return mb.linear(x=x, weight=weight, name="y")

    source = program(build, (1, 64))
    one = PASS_REGISTRY["mlpass::sparsegpt"]
    one.options = {"config": Percentile(0.5), "sample_data": samples()}
    one.apply(source)
    weight = value_of(source.functions["main"].find_ops(op_type="linear")[0].weight.op)
    assert np.count_nonzero(weight) == weight.size // 2
    assert plugin._renamed({"x.1": 0, "x": 1}, source) == {"x_1": 0, "x": 1}
