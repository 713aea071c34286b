"""Control characters in names are escaped in every table, message and report."""

from __future__ import annotations

import io
import json
import zipfile
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest

import mlpass
from mlpass.cli import main
from mlpass.errors import MlpassError, OutputExistsError, brief, visible
from tests.program.packages import copy_fixture, edit_spec, main_block, operations
from tests.runtime.programs import truth

ODD = "w\x1b[31m\n\t\x00\x7f\x9b\u202e\u2028$x$<b>"
SHOWN = r"w\x1b[31m\n\t\x00\x7f\x9b\u202e\u2028$x$<b>"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain 'text' \\ ä ü 漢", "plain 'text' \\ ä ü 漢"),
        (ODD, SHOWN),
        ("\ud800", r"\ud800"),
        ("", ""),
    ],
)
def test_what_does_not_print_is_escaped(text, shown):
    assert visible(text) == shown
    assert visible(visible(text)) == shown
    assert visible(text) == "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def test_errors_are_one_line():
    assert str(MlpassError(f"{ODD}: is broken")) == f"{SHOWN}: is broken"
    assert str(OutputExistsError(ODD)) == SHOWN


def test_values_are_cut():
    assert len(brief([[["x" * 5000] * 5000] * 5000] * 5000)) < 1000
    assert len(brief("x" * 100_000)) < 300
    assert len(brief({str(n): list(range(n)) for n in range(1000)})) < 1000
    assert brief(0.5) == "0.5"
    assert brief("text") == "'text'"
    assert "int" in brief(10**5000)


@pytest.fixture
def odd(tmp_path):
    """A model in an odd folder, whose weights, ops and outputs have odd names."""
    folder = tmp_path / "in\x1b[2J\nside"
    folder.mkdir()
    package = copy_fixture("digits_ios15", folder)

    def edit(spec):
        renamed = {}
        for op in operations(spec):
            for output in op.outputs:
                if op.type == "const" or output.name == main_block(spec).outputs[0]:
                    renamed[output.name] = f"{output.name}{ODD}"
        for op in operations(spec):
            for output in op.outputs:
                output.name = renamed.get(output.name, output.name)
            for argument in op.inputs.values():
                for binding in argument.arguments:
                    if binding.name:
                        binding.name = renamed.get(binding.name, binding.name)
        block = main_block(spec)
        for place, name in enumerate(block.outputs):
            block.outputs[place] = renamed.get(name, name)
        for feature in spec.description.output:
            feature.name = renamed.get(feature.name, feature.name)

    edit_spec(package, edit)
    samples = {name: np.stack([array] * 2) for name, array in truth("digits_ios15")[0].items()}
    np.savez(folder / "samples.npz", **samples)
    return package


def printed(arguments, status=0):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert main([str(one) for one in arguments]) == status, err.getvalue()
    text = out.getvalue() + err.getvalue()
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    return text


def test_every_command_prints_plainly(odd, tmp_path):
    out, data = odd.with_name("out.mlpackage"), odd.with_name("samples.npz")
    half = ["--target-sparsity", "0.5"]
    assert SHOWN in printed(["inspect", odd])
    assert SHOWN in printed(["prune", odd, "-o", out, *half, "--sample-data", data])
    lines = printed(["inspect", odd]).splitlines()
    assert len([line for line in lines if SHOWN in line]) == len(mlpass.inspect(odd).layers)
    assert json.loads(printed(["inspect", odd, "--json"]))
    assert SHOWN in printed(["compare", odd, out, "--sample-data", data])
    assert r"in\x1b[2J\nside" in printed(["prune", odd, "-o", out, *half], status=1)
    assert r"in\x1b[2J\nside" in printed(["inspect", odd.with_name("none.mlpackage")], status=1)
    sweep = ["sweep", odd, "--sample-data", data, "--jobs", "1", "--configs"]
    grid = tmp_path / "grid.yaml"
    grid.write_text('- {target_sparsity: 0.5, name: "a\\x1b[31m"}\n')
    page = odd.with_name("out.html")
    assert r"a\x1b[31m" in printed([*sweep, grid, "-o", page])
    text = page.read_text(encoding="utf-8")
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    assert r"\x1b[31m" in text


def test_a_prediction_with_odd_names_is_told_plainly(odd, tmp_path):
    np.savez(tmp_path / "one.npz", **truth("digits_ios15")[0])
    arguments = ["predict", odd, "--inputs", tmp_path / "one.npz", "-o", tmp_path / "y.npz"]
    assert "with NUL" in printed(arguments, status=1)


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("name", ["", "a/b", "../up", "x" * 60_000, "file", "ä\x1b", "a.npy"])
def test_outputs_of_any_name_are_written(name, tmp_path):
    package = copy_fixture("digits_ios15", tmp_path)

    def edit(spec):
        block = main_block(spec)
        for op in operations(spec):
            for output in op.outputs:
                if output.name == block.outputs[0]:
                    output.name = name
        block.outputs[0] = spec.description.output[0].name = name

    edit_spec(package, edit)
    inputs, _ = truth("digits_ios15")
    np.savez(tmp_path / "one.npz", **inputs)
    out = tmp_path / "y.npz"
    printed(["predict", package, "--inputs", tmp_path / "one.npz", "-o", out])
    wanted = mlpass.Interpreter(package).predict(inputs)
    with np.load(out) as made:
        np.testing.assert_array_equal(made[f"{name}.npy"], wanted[name])
    report = mlpass.sweep(package, [inputs], [mlpass.Percentile(0.5)])
    assert [output.name for output in report.trials[0].outputs] == [name]


def test_a_name_that_no_file_takes_is_told(tmp_path):
    package = copy_fixture("digits_ios15", tmp_path)
    name = "x" * 70_000

    def edit(spec):
        block = main_block(spec)
        for op in operations(spec):
            for output in op.outputs:
                if output.name == block.outputs[0]:
                    output.name = name
        block.outputs[0] = spec.description.output[0].name = name

    edit_spec(package, edit)
    inputs, _ = truth("digits_ios15")
    np.savez(tmp_path / "one.npz", **inputs)
    arguments = ["predict", package, "--inputs", tmp_path / "one.npz", "-o", tmp_path / "y.npz"]
    assert "an .npz takes no array of that name" in printed(arguments, status=1)
    report = mlpass.sweep(package, [inputs], [mlpass.Percentile(0.5)])
    assert report.trials[0].failed is None


@pytest.mark.parametrize("length", [100, 3500, 3501, 60_000])
def test_a_message_is_cut_where_it_is_too_long_to_be_read(length):
    text = "".join(chr(97 + number % 26) for number in range(length))
    shown = str(MlpassError(text))
    assert shown == text if length <= 3500 else len(shown) < 3600
    assert shown.startswith(text[:2000])
    assert shown.endswith(text[-900:])


def test_names_of_samples_and_paths_do_not_make_a_message_endless(fixtures, tmp_path, capsys):
    model, samples = fixtures / "tiny_lm.mlpackage", tmp_path / "samples.npz"
    with zipfile.ZipFile(samples, "w") as archive, archive.open("n" * 60_000 + ".npy", "w") as file:
        np.lib.format.write_array(file, np.zeros((2, 1, 64), np.int32))
    for given in (str(samples), "d/" * 5000):
        assert main(["compare", str(model), str(model), "--sample-data", given]) == 1
        err = capsys.readouterr().err
        assert err.startswith("mlpass: error: ")
        assert err.count("\n") == 1
        assert len(err) < 4000
        assert "missing" in err or "too long" in err
