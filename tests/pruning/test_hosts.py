"""All models of an ExecuTorch program, pruned at once."""

from __future__ import annotations

import numpy as np
import pytest

import mlpass
from mlpass import Config, ConfigError, ModelFormatError, Percentile, Regions
from mlpass.errors import OutputExistsError
from mlpass.program.inmemoryfs import digest
from mlpass.program.pte import Pte
from tests.conftest import FIXTURES

SOURCE = FIXTURES / "executorch" / "delegates.pte"
SAMPLES = [{"x": row} for row in np.load(SOURCE.with_name("rows.npz"))["x"]]
MADE = np.load(SOURCE.with_name("made.npz"))["y"]


def identities(path):
    pte = Pte(path)
    return [digest(pte.image(blob).items) for blob in pte.models]


def test_each_model_is_pruned_as_it_is_by_itself(tmp_path):
    report = mlpass.prune(SOURCE, tmp_path / "out.pte", Percentile(0.5))
    assert [layer.name for layer in report.layers] == [
        "forward/0/p_first_weight_to_fp16",
        "forward/1/p_second_weight_to_fp16",
    ]
    assert [function.program for function in report.functions] == ["forward/0", "forward/1"]
    assert report.bytes_before == SOURCE.stat().st_size
    assert report.bytes_after == (tmp_path / "out.pte").stat().st_size < report.bytes_before
    found = mlpass.inspect(tmp_path / "out.pte")
    assert [layer.sparsity for layer in found.layers] == [0.5, 0.5]
    mlpass.prune(SOURCE / "forward/0", tmp_path / "first.pte", Percentile(0.5))
    mlpass.prune(tmp_path / "first.pte/forward/1", tmp_path / "both.pte", Percentile(0.5))
    assert (tmp_path / "both.pte").read_bytes() == (tmp_path / "out.pte").read_bytes()


def test_one_is_solved_for_on_samples_and_the_other_stays(tmp_path):
    out = tmp_path / "out.pte"
    report = mlpass.prune(SOURCE / "forward/0", out, Percentile(0.5), sample_data=SAMPLES)
    assert [layer.error is not None for layer in report.layers] == [True]
    (first, second), (new, same) = identities(SOURCE), identities(out)
    assert first != new and second == same
    compared = mlpass.compare(SOURCE / "forward/0", out / "forward/0", SAMPLES)
    assert compared.outputs[0].snr > 3


def test_one_is_tuned_on_what_comes_of_the_ops_between(tmp_path):
    out = tmp_path / "out.pte"
    first, second = (mlpass.Interpreter(SOURCE / name) for name in ("forward/0", "forward/1"))
    (name,) = (feature.name for feature in second.inputs)
    samples = []
    for sample, wanted in zip(SAMPLES, MADE, strict=True):
        (hidden,) = first.predict(sample).values()
        samples.append({name: 1 / (1 + np.exp(-hidden))})  # ExecuTorch's own op, between them
        np.testing.assert_allclose(*second.predict(samples[-1]).values(), wanted, atol=2e-3)
    given = {"sample_data": samples * 2, "tune": Regions(epochs=1)}
    report = mlpass.prune(SOURCE / "forward/1", out, Percentile(0.5), **given)
    assert report.source == f"{SOURCE}/forward/1" and "region 1, from" in report.notes[-1]
    assert identities(SOURCE)[0] == identities(out)[0]
    assert [path.name for path in tmp_path.iterdir()] == ["out.pte"]


@pytest.mark.parametrize(
    ("output", "given", "text"),
    [
        (
            "out.pte",
            {"sample_data": SAMPLES},
            "holds 2 models, and samples and budgets are for one",
        ),
        (
            "out.pte",
            {"budget": "0.5x"},
            "and samples and budgets are for one: name it, as .*ward/0",
        ),
        ("out.mlpackage", {}, "holds 2 models, and out.mlpackage is for one: name it, as .*ard/0"),
    ],
)
def test_what_is_for_one_model_must_name_it(output, given, text, tmp_path):
    config = None if "budget" in given else Percentile(0.5)
    with pytest.raises(ConfigError, match=text):
        mlpass.prune(SOURCE, tmp_path / output, config, **given)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("source", [SOURCE, SOURCE / "forward/1", FIXTURES / "tiny_lm.mlpackage"])
@pytest.mark.parametrize("name", ["new.pte/forward/0", "new.pte/a.mlpackage"])
def test_a_program_is_written_whole(source, name, tmp_path):
    with pytest.raises(ModelFormatError, match=r"a .pte is written whole; name .*: .*/new.pte$"):
        mlpass.prune(source, tmp_path / name, Percentile(0.5))
    with pytest.raises(ModelFormatError, match=r"a .pte is written whole; name .*: .*/new.pte$"):
        mlpass.choose(SOURCE / "forward/1", tmp_path / name, sample_data=SAMPLES, max_size="0.5x")
    assert [*tmp_path.iterdir()] == []


def test_a_folder_may_be_called_as_a_program_is(tmp_path):
    (tmp_path / "new.pte").mkdir()
    report = mlpass.prune(SOURCE / "forward/1", tmp_path / "new.pte/a.mlpackage", Percentile(0.5))
    assert mlpass.inspect(report.output).layers


def test_what_is_there_is_kept(tmp_path):
    (tmp_path / "out.pte").write_bytes(b"mine")
    with pytest.raises(OutputExistsError, match="out.pte: already exists"):
        mlpass.prune(SOURCE, tmp_path / "out.pte", Percentile(0.5))
    assert (tmp_path / "out.pte").read_bytes() == b"mine"


FIRST, SECOND = "p_first_weight_to_fp16", "p_second_weight_to_fp16"


@pytest.mark.parametrize(
    ("names", "sparsities"),
    [
        ({FIRST: Percentile(0.5), SECOND: Percentile(0.25)}, [0.5, 0.25]),
        ({SECOND: Percentile(0.25)}, [0, 0.25]),
        ({f"forward/1/{SECOND}": Percentile(0.75)}, [0, 0.75]),
        ({"p_*": Percentile(0.25), "forward/0/p_*": Percentile(0.5)}, [0.5, 0.25]),
        ({"forward/0/p_*": Percentile(0.5), "p_*": Percentile(0.25)}, [0.5, 0.25]),
    ],
)
def test_a_name_is_that_of_weights_of_any_model(names, sparsities, tmp_path):
    config = Config(op_name_configs=names)
    report = mlpass.prune(SOURCE, tmp_path / "out.pte", config)
    assert [layer.sparsity for layer in report.layers] == sparsities


@pytest.mark.parametrize("name", ["p_third", "forward/1/p_first_weight_to_fp16", "forward/*"])
def test_a_name_that_no_model_has(name, tmp_path):
    config = Config(op_name_configs={name: None, "p_*": Percentile(0.5)})
    with pytest.raises(ConfigError, match="no weight or op of any model is named"):
        mlpass.prune(SOURCE, tmp_path / "out.pte", config)


def test_what_is_ranked_together_is_so_in_each_model(tmp_path):
    config = Percentile(0.5, scope="global")
    report = mlpass.prune(SOURCE, tmp_path / "out.pte", config)
    assert [layer.sparsity for layer in report.layers] == [0.5, 0.5]
    assert "ranked the weights of each model by themselves" in report.notes[-1]
    report = mlpass.prune(SOURCE, tmp_path / "out.pte", Percentile(0.5), force=True)
    assert report.notes == ()
