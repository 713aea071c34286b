"""A budget is met in real bytes, and what it predicts comes true."""

from __future__ import annotations

from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Program

import mlpass
from mlpass import Config, Percentile
from mlpass.calibrate.budget import Budget
from mlpass.calibrate.menus import DENSE, form_nbytes, forms_of, has_tails
from mlpass.cli import main
from mlpass.errors import ConfigError, NotApplicable
from mlpass.program.mlpackage import Package
from mlpass.storage.lossless import Lossless
from mlpass.storage.palette import Palette
from mlpass.storage.quantized import Quantized
from mlpass.weights.footprint import footprint
from mlpass.weights.reading import zeros_of
from mlpass.weights.sites import find_sites
from tests.calibrate.layers import save
from tests.multifunction import save_functions
from tests.pruning.further import SIZE, samples, weights_of, write_source
from tests.runtime.programs import program

FIXTURES = Path(__file__).parents[2] / "fixtures"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


def size_of(package):
    return (package / WEIGHTS).stat().st_size


def tokens(count=24):
    """Returns stretches of text, which is what the model was trained on."""
    text = np.fromfile(FIXTURES / "licenses/efficientnet-lite-pytorch.txt", np.uint8)
    return [
        {"tokens": text[None, start : start + 64].astype(np.int32)}
        for start in range(0, 64 * count, 64)
    ]


@pytest.fixture(scope="module")
def lm():
    return FIXTURES / "tiny_lm.mlpackage"


@pytest.fixture(scope="module")
def divided(lm, tmp_path_factory):
    out = tmp_path_factory.mktemp("budget") / "out.mlpackage"
    report = mlpass.prune(
        lm, out, budget="0.22x", sample_data=tokens(), minimum_deployment_target="iOS18"
    )
    return report, out


@pytest.mark.slow
def test_the_weight_file_is_within_two_percent_and_never_above(lm, divided):
    report, out = divided
    allowed = 0.22 * size_of(lm)
    assert 0.98 * allowed <= size_of(out) <= allowed
    assert report.budget.used == size_of(out)
    assert report.budget.used <= report.budget.planned


@pytest.mark.slow
def test_the_summed_error_is_as_predicted(divided):
    record = divided[0].budget
    assert record.predicted == pytest.approx(record.measured, rel=0.1)


@pytest.mark.slow
def test_weights_that_matter_more_get_more_bits(divided):
    bits = {layer.name: layer.bits_per_weight for layer in divided[0].layers}
    assert len({round(each) for each in bits.values()}) > 1
    assert "bits" in str(divided[0])
    assert "summed error: predicted" in str(divided[0])
    assert " + Palette(" in str(divided[0])


@pytest.mark.slow
def test_it_beats_one_form_for_all_of_as_many_bytes(lm, divided, tmp_path):
    out = tmp_path / "uniform.mlpackage"
    mlpass.prune(
        lm, out, storage=Palette(3), sample_data=tokens(), minimum_deployment_target="iOS18"
    )
    assert size_of(out) <= size_of(divided[1]) * 1.02
    others = tokens(32)[24:]

    def error(package):
        pairs = [(mlpass.Interpreter(model).predict(others)) for model in (lm, package)]
        dense, other = (np.concatenate([one["logits"] for one in each]) for each in pairs)
        return float(np.sum(np.square(dense.astype(float) - other)))

    assert error(divided[1]) < error(out)


@pytest.mark.slow
def test_a_weight_with_heavy_tails_keeps_its_outliers_apart(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((128, 128)) * np.where(rng.random((128, 128)) < 0.004, 12, 1)
    source = save(
        lambda x: mb.linear(x=x, weight=weight.astype(np.float32), name="one"),
        tmp_path,
        (8, 128),
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT16,
    )
    samples = [{"x": rng.standard_normal((8, 128), np.float32)} for _ in range(16)]
    unseen = {"x": rng.standard_normal((8, 128), np.float32)}
    dense = mlpass.Interpreter(source).predict(unseen)["one"]
    out, other = tmp_path / "out.mlpackage", tmp_path / "other.mlpackage"
    report = mlpass.prune(source, out, bits=5.8, sample_data=samples)
    assert "outliers=0.01" in report.layers[0].storage
    assert 0.9 * report.budget.nbytes < report.budget.used <= report.budget.nbytes
    mlpass.prune(source, other, storage=Palette(4), sample_data=samples)  # the next that fits
    errors = [
        float(np.square(mlpass.Interpreter(each).predict(unseen)["one"] - dense).sum())
        for each in (out, other)
    ]
    assert errors[0] < 0.7 * errors[1]
    assert not has_tails(rng.laplace(size=(64, 64)))


@pytest.mark.slow
def test_bits_are_of_all_elements_without_samples(lm, tmp_path):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(lm, out, bits=3.5, minimum_deployment_target="iOS18")
    weights = (layer for layer in report.layers if layer.op_type != "add")  # the mask's
    allowed = 3.5 * sum(np.prod(layer.shape) for layer in weights) / 8
    assert 0.98 * allowed <= size_of(out) <= allowed
    assert report.budget.measured is None


def test_an_older_model_gets_what_it_can_say_and_is_told_what_more_there_is(lm, tmp_path):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(lm, out, budget="0.4x")
    assert size_of(out) <= 0.4 * size_of(lm)
    assert "--minimum-deployment-target iOS18" in report.budget.note
    with Package(out) as package:
        opsets = {each.opset for one in package.programs for each in one.functions.values()}
    assert max(opsets) < 18


@pytest.mark.slow
def test_what_the_config_names_is_kept(lm, tmp_path):
    with Package(lm) as package:
        first, second, third, *_ = (
            s.name for s in find_sites(package.programs) if np.prod(s.shape) > 9e3
        )
    config = Config(op_name_configs={first: None, second: Quantized("int8"), third: Lossless()})
    report = mlpass.prune(
        lm,
        tmp_path / "out.mlpackage",
        config,
        budget="0.35x",
        minimum_deployment_target="iOS18",
    )
    found = {layer.name: layer for layer in report.layers}
    assert found[first].encoding == "dense"
    assert found[second].encoding == "quantized"
    assert report.budget.used <= report.budget.nbytes


def test_bytes_of_every_form_equal_those_that_are_written(lm, tmp_path):
    """Against a package with that form, its file as long as the rest and the form."""
    with Package(lm) as package:
        site = next(s for s in find_sites(package.programs) if s.name.startswith("layers_0_query"))
        before = form_nbytes(site, DENSE)
        for number, form in enumerate(forms_of(site, outliers=True)):
            if form.mode is None:
                continue
            out = tmp_path / f"{number}.mlpackage"
            entry = mlpass.OpConfig(form.mode, form.storage)
            mlpass.prune(lm, out, Config(op_name_configs={site.name: entry}))
            told = form_nbytes(site, form)
            assert size_of(lm) - size_of(out) == before - told, form


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": "2x"}, r"budget: 2x is \d+ bytes, and the weights take \d+ as they are: there"),
        ({"budget": "0.01x"}, r"budget: 0.01x is \d+ bytes, and the weights cannot take less than"),
        ({"budget": 1000}, r"--minimum-deployment-target iOS18\) opens more forms"),
        ({"budget": "0.5x", "bits": 3.0}, "budget: give a size or bits, not both"),
        ({"budget": "half"}, "budget: must be bytes, a text such as"),
        ({"bits": 0}, "bits: must be a number above 0, up to 32. Got 0"),
        ({"bits": "3"}, "bits: must be a number above 0, up to 32. Got '3'"),
        ({"budget": "0.5x", "storage": "int8"}, "storage: with a budget each weight gets its own"),
        ({"budget": "0.5x", "config": Percentile(0.5)}, "budget: the config gives every weight"),
        (
            {"budget": "0.5x", "sample_data": tokens(1), "allocate": "error"},
            "budget: divides bytes among layers already; drop allocate",
        ),
    ],
)
def test_budgets_that_cannot_be(lm, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        mlpass.prune(lm, tmp_path / "out.mlpackage", **arguments)


def test_the_command_line(lm, tmp_path, capsys):
    out = tmp_path / "out.mlpackage"
    command = ["prune", str(lm), "-o", str(out), "--max-size", "0.4x", "--json"]
    assert main(command) == 0
    assert '"budget": {' in capsys.readouterr().out
    assert 0.98 * 0.4 * size_of(lm) <= size_of(out) <= 0.4 * size_of(lm)
    with pytest.raises(SystemExit):
        main(["prune", str(lm), "-o", str(out)])
    assert "or what all may take: --max-size or --bits" in capsys.readouterr().err


def test_a_program_has_no_weight_files(lm):
    program = Program()
    with pytest.raises(ConfigError, match="budget: is for the weight files of a package"):
        mlpass.prune(program, budget="0.5x")


def test_budgets_as_text():
    assert str(Budget(bits=3.0)) == "3 bits"
    assert str(Budget("0.25x")) == "0.25x"


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    """A package with a weight of each compressed form, and a plain one."""
    path = tmp_path_factory.mktemp("compressed") / "source.mlpackage"
    write_source(path, 18)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "calibrated"), [(0.4, True), (0.4, False), (0.35, True), (0.7, True), (0.35, False)]
)
def test_compressed_weights_take_their_part(compressed, tmp_path, share, calibrated):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(
        compressed,
        out,
        Config(weight_threshold=1),
        budget=f"{share}x",
        sample_data=samples() if calibrated else None,
        joint_compression=True,
    )
    assert 0.9 * share * size_of(compressed) <= size_of(out) <= share * size_of(compressed)
    assert report.budget.used == size_of(out)
    before, after = weights_of(compressed), weights_of(out)
    changed = {layer.name for layer in report.layers if layer.skipped is None}
    assert any("plain" in name for name in changed)
    assert any("quantized" in name for name in changed)
    assert any("sparsified" in name for name in changed)
    for layer in report.layers:
        assert layer.skipped in (None, "the budget leaves it as it is")
    for name in before:
        if name in ("sparse", "pairs", "our_sparse", "sparse_int8", "sparse_palette"):
            assert not after[name][before[name] == 0].any(), name


@pytest.mark.slow
def test_a_compressed_weight_has_the_form_that_the_config_says(compressed, tmp_path):
    fixed = mlpass.OpConfig(Percentile(0.75))
    config = Config(op_name_configs={"int8_quantized": fixed}, weight_threshold=1)
    out = tmp_path / "out.mlpackage"
    own = {"sample_data": samples(), "target": "own"}  # what it aims at else may be a zero more
    for given in ({}, own):
        report = mlpass.prune(
            compressed, out, config, budget="0.6x", joint_compression=True, force=True, **given
        )
        (layer,) = [each for each in report.layers if each.name == "int8_quantized"]
        assert (layer.encoding, layer.zeros) == ("sparse + quantized", SIZE * SIZE * 3 // 4)
        assert size_of(out) <= 0.6 * size_of(compressed)


@pytest.mark.slow
def test_no_form_of_a_compressed_weight_takes_more_than_told(compressed, tmp_path):
    out = tmp_path / "out.mlpackage"
    with Package(compressed) as package:
        sites = {site.name: site for site in find_sites(package.programs)}
        zeros = {name: zeros_of(site) if site.is_masked else 0 for name, site in sites.items()}
        parts = {name: footprint(site.parts or site.makers) for name, site in sites.items()}
        for form in forms_of(sites["plain"]):
            told = {}
            for name, site in sites.items():
                try:
                    told[name] = form_nbytes(site, form, zeros[name])
                except NotApplicable:
                    continue
            if form.mode is None:
                assert told == parts
                continue
            entry = mlpass.OpConfig(form.mode, form.storage)
            config = Config(op_name_configs=dict.fromkeys(told, entry), weight_threshold=1)
            mlpass.prune(compressed, out, config, joint_compression=True, force=True)
            rest = size_of(compressed) - sum(parts[name] for name in told)
            assert size_of(out) <= rest + sum(told.values()), form


def test_where_nothing_is_left_to_divide_what_is_exact_may_do(tmp_path):
    size = 96  # the mask is worth it
    mask = np.triu(np.full((size, size), -1e4, np.float32), 1)
    weight = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    source = save(
        lambda x: mb.add(x=mb.linear(x=x, weight=weight, name="one"), y=mask),
        tmp_path,
        (size, size),
        minimum_deployment_target=ct.target.iOS18,
    )
    out, config = tmp_path / "out.mlpackage", Config(op_name_configs={"one": None})
    report = mlpass.prune(source, out, config, budget="0.9x")
    assert [layer.encoding for layer in report.layers] == ["dense", "palettized"]
    assert report.budget.used <= 0.9 * size_of(source)
    with pytest.raises(ConfigError, match=r"1 of 1 stay as they are \(one_.*op_name_configs"):
        mlpass.prune(source, out, config, budget="0.1x", force=True)


def test_a_model_without_weight_files(tmp_path):
    weight = np.ones((2, 3), np.float32)
    source = save(lambda x: mb.linear(x=x, weight=weight), tmp_path, (8, 3))
    for asked in ({"budget": "0.5x"}, {"bits": 3.0}):
        with pytest.raises(ConfigError, match="budget: is for weight files, and this model has no"):
            mlpass.prune(source, tmp_path / "out.mlpackage", **asked)


def linears(first, second):
    return lambda x: mb.linear(x=mb.linear(x=x, weight=first), weight=second)


def test_why_weights_cannot_take_less(tmp_path, fixtures):
    """Each reason with the way out."""
    out = tmp_path / "out.mlpackage"
    with pytest.raises(ConfigError, match=r"stay as they are .*constexpr.*--joint-compression"):
        mlpass.prune(fixtures / "quantized_digits.mlpackage", out, budget="0.5x")
    with pytest.raises(ConfigError, match=r"; 22 of 22 stay .* no more than weight_threshold"):
        mlpass.prune(
            fixtures / "tiny_lm.mlpackage", out, Config(weight_threshold=10**7), budget="0.9x"
        )
    size = 64
    first, *others = (np.full((size, size), n, np.float32) for n in (1, 2, 3))
    pair = {
        name: program(
            linears(first, own),
            (8, size),
            opset=ct.target.iOS18,
        )
        for name, own in zip("ab", others, strict=True)
    }
    given = {"a": [{"x": np.ones((8, size), np.float32)}]}
    source = save_functions(tmp_path, pair, "a")
    with pytest.raises(ConfigError, match="no sample reaches 1 of them, .*--fallback magnitude"):
        mlpass.prune(source, out, budget="0.2x", sample_data=given)
    report = mlpass.prune(source, out, budget="0.2x", sample_data=given, fallback="magnitude")
    assert report.budget.used <= report.budget.nbytes
