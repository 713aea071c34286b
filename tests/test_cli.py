"""The command line: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mlpass.cli import main
from tests import peer


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "mlpass", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_prune_prints_a_table_and_writes_the_package(fixtures, tmp_path, capsys):
    out = tmp_path / "out.mlpackage"
    status = main(
        ["prune", str(fixtures / "tiny_lm.mlpackage"), "-o", str(out), "--target-sparsity", "0.5"]
    )
    shown = capsys.readouterr()
    assert status == 0
    assert "embedding_weight_to_fp16" in shown.out
    assert "22 of 22 weights pruned, sparsity 0.5000" in shown.out
    assert str(out) in shown.out
    assert out.is_dir()


@pytest.mark.parametrize("name", ["palettized_digits", "quantized_digits"])
def test_compressed_weights_are_pruned_where_the_flag_says_so(fixtures, tmp_path, capsys, name):
    source, out = str(fixtures / f"{name}.mlpackage"), tmp_path / "out.mlpackage"
    command = ["prune", source, "-o", str(out), "--target-sparsity", "0.6"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "nothing was pruned: " in shown
    assert "weights are compressed already; --joint-compression (joint_compression=True" in shown
    assert main([*command, "--force", "--joint-compression"]) == 0
    shown = capsys.readouterr().out
    assert "nothing was pruned" not in shown
    ops = peer.all_ops(peer.load_programs(out))
    made = [peer.value_of(op) for op in ops if op.op_type == "constexpr_sparse_to_dense"]
    assert made
    assert all(np.count_nonzero(one == 0) >= 0.6 * one.size - 1 for one in made)


def test_a_model_is_raised_to_the_target_that_is_asked_for(fixtures, tmp_path, capsys):
    command = ["prune", str(fixtures / "tiny_lm.mlpackage"), "--target-sparsity", "0.5"]
    for name, status in {"iOS18": 0, "iOS17": 0, "iOS16": 1}.items():
        out = tmp_path / f"{name}.mlpackage"
        assert main([*command, "-o", str(out), "--minimum-deployment-target", name]) == status
        assert out.exists() == (status == 0)
    assert "cannot be lowered to iOS16" in capsys.readouterr().err
    main(["inspect", str(tmp_path / "iOS18.mlpackage")])
    assert "iOS18" in capsys.readouterr().out


def test_json_is_one_document_and_nothing_else(fixtures, tmp_path):
    out = tmp_path / "out.mlpackage"
    done = run(
        "prune", fixtures / "digits_ios15.mlpackage", "-o", out, "--n-m-ratio", "2:4", "--json"
    )
    assert done.returncode == 0
    assert done.stderr == ""
    content = json.loads(done.stdout)
    layer = content["layers"][1]
    assert layer["mode"] == "NM(2:4)"
    assert layer["sparsity"] == 0.5
    assert layer["shape"] == [64, 32, 3, 3]
    assert content["bytes_after"] < content["bytes_before"]
    skipped = [layer["skipped"] for layer in content["layers"] if layer["skipped"]]
    assert skipped == ["its 288 elements are no more than weight_threshold 2048"]


def test_inspect_lists_functions_ops_and_weights(fixtures, capsys):
    assert main(["inspect", str(fixtures / "multifunction_lm.mlpackage")]) == 0
    shown = capsys.readouterr().out
    assert "prefill" in shown and "short" in shown and "iOS18" in shown and "22 linear" in shown
    assert main(["inspect", str(fixtures / "palettized_digits.mlpackage"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["functions"][0]["ops"]["constexpr_lut_to_dense"] == 4
    assert [layer["encoding"] for layer in content["layers"]] == ["dense"] + 4 * ["palettized"]
    assert content["layers"][3]["bytes_before"] == 256 * 1152 // 2 + 16 * 2


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        (["--target-sparsity", "0.5", "--block-size", "4"], "Block(0.5, block_size=4)"),
        (["--target-sparsity", "0.5", "--scope", "global"], "Percentile(0.5, scope=global)"),
        (["--target-sparsity", "0.5", "--granularity", "per_channel"], "Channel(0.5)"),
        (["--target-sparsity", "0.5", "--granularity", "per_kernel"], "Kernel(0.5)"),
        (["--mode", "kernel", "--target-sparsity", "0.5"], "Kernel(0.5)"),
        (["--n-m-ratio", "1:2", "--dim", "0"], "NM(1:2, dim=0)"),
        (["--mode", "NM", "--n-m-ratio", "1:2"], "NM(1:2)"),
        (
            ["--threshold", "0.01", "--minimum-sparsity-percentile", "0.1"],
            "Threshold(0.01, minimum_sparsity_percentile=0.1)",
        ),
    ],
)
def test_every_mode_has_its_options(fixtures, tmp_path, capsys, options, mode):
    out = str(tmp_path / "out.mlpackage")
    source = str(fixtures / "digits_ios15.mlpackage")
    assert main(["prune", source, "-o", out, "--json", *options]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert mode in {layer["mode"] for layer in layers}


def test_config_file_and_weight_threshold(fixtures, tmp_path, capsys):
    config = tmp_path / "prune.yaml"
    config.write_text("global_config: {target_sparsity: 0.5}\nop_type_configs: {linear: null}\n")
    arguments = ["prune", str(fixtures / "digits_ios15.mlpackage"), "--json"]
    arguments += ["--config", str(config), "--weight-threshold", "100"]
    assert main([*arguments, "-o", str(tmp_path / "out.mlpackage")]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert [layer["skipped"] for layer in layers] == 3 * [None] + 2 * [
        "op_type_configs['linear'] is None"
    ]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "say what to prune: --target-sparsity, --n-m-ratio, --threshold or --config"),
        (["--target-sparsity", "1.5"], "target_sparsity: must be a number in [0, 1]. Got 1.5."),
        (["--target-sparsity", "half"], "--target-sparsity: must be a number. Got 'half'."),
        (["--n-m-ratio", "2-4"], "argument --n-m-ratio: must be N:M, such as 2:4. Got '2-4'."),
        (["--n-m-ratio", "5:4"], "must be an int in [0, m]. Got n=5 with m=4."),
        (["--block-size", "4"], "no mode: give one of target_sparsity, n_m_ratio and threshold"),
        (["--threshold", "1", "--dim", "0"], "dim: does not go with Threshold"),
        (["--target-sparsity", "0.5", "--weight-threshold", "-1"], "weight_threshold: must be an"),
        (
            ["--config", "x", "--dim", "0"],
            "--config and --dim do not go together; put it all in the file",
        ),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--config", ""], "what --config is given is empty; is a variable in the command"),
        (["--sample-data="], "what --sample-data is given is empty; is a variable"),
        ([""], "an argument is empty; is a variable in the command not set?"),
    ],
)
def test_wrong_usage_ends_with_2(fixtures, tmp_path, capsys, options, text):
    out = tmp_path / "out.mlpackage"
    with pytest.raises(SystemExit) as ended:
        main(["prune", str(fixtures / "tiny_lm.mlpackage"), "-o", str(out), *options])
    assert ended.value.code == 2
    assert text in capsys.readouterr().err
    assert not out.exists()


def failure(capsys, *arguments) -> str:
    assert main([str(argument) for argument in arguments]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("mlpass: error: ")
    assert shown.err.count("\n") == 1
    return shown.err


def test_failures_are_one_line_and_end_with_1(fixtures, tmp_path, capsys):
    model, half = fixtures / "tiny_lm.mlpackage", ("--target-sparsity", 0.5)
    out = tmp_path / "out.mlpackage"
    assert "none.mlpackage: is not there" in failure(
        capsys, "prune", tmp_path / "none.mlpackage", "-o", out, *half
    )
    out.mkdir()
    assert "already exists; pass --force to replace it, or name another target" in failure(
        capsys, "prune", model, "-o", out, *half
    )
    assert "a package's name must end in .mlpackage" in failure(
        capsys, "prune", model, "-o", tmp_path / "out", *half
    )
    missing = tmp_path / "no" / "out.mlpackage"
    assert "No such file or directory" in failure(capsys, "prune", model, "-o", missing, *half)
    assert "no.yaml: No such file" in failure(
        capsys, "prune", model, "-o", tmp_path / "o.mlpackage", "--config", tmp_path / "no.yaml"
    )
    config = tmp_path / "c.yaml"
    config.write_text("op_name_configs: {embeding_weight_to_fp16: {target_sparsity: 0.5}}")
    assert "did you mean 'embedding_weight_to_fp16'" in failure(
        capsys, "prune", model, "-o", tmp_path / "o.mlpackage", "--config", config
    )


@pytest.mark.parametrize(
    "words", [["--\x1b[31mnone"], ["--backend", "\x07\u202e"], ["a\nb"], ["--" + "9" * 60_000]]
)
def test_wrong_usage_is_told_so_that_it_can_be_read(words, fixtures, capsys):
    model = str(fixtures / "tiny_lm.mlpackage")
    with pytest.raises(SystemExit) as ended:
        main(["compare", model, model, "--sample-data", "x.npz", *words])
    assert ended.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("mlpass")
    assert "error: " in line
    assert line.isprintable()
    assert len(line) < 4000


def test_a_current_directory_that_is_gone_is_named(fixtures, tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    given = ["sweep", str(fixtures / "tiny_lm.mlpackage"), "--evaluate", "measure:f"]
    assert main(given) == 1
    assert capsys.readouterr().err == (
        "mlpass: error: the current directory: No such file or directory\n"
    )


def test_memory_and_modules_that_cannot_be_had_are_a_line(fixtures, monkeypatch, capsys):
    def without_room(*_, **__):
        raise MemoryError("too little")

    def without_module(*_, **__):
        try:
            raise ImportError("cannot map it", name="_inner")
        except ImportError as error:
            raise ImportError("a page\nof advice") from error

    given = ["inspect", str(fixtures / "tiny_lm.mlpackage")]
    for raising, line in (
        (without_room, "out of memory: too little"),
        (without_module, "cannot import _inner: cannot map it"),
    ):
        monkeypatch.setattr("mlpass.examine.inspect.inspect", raising)
        assert main(given) == 1
        assert capsys.readouterr().err == f"mlpass: error: {line}\n"


def test_force_replaces_and_in_place_works(fixtures, tmp_path, capsys):
    model = tmp_path / "model.mlpackage"
    shutil.copytree(fixtures / "tiny_lm.mlpackage", model)
    half = ["--target-sparsity", "0.5", "--json"]
    assert main(["prune", str(model), "-o", str(model), "--force", *half]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["bytes_after"] < first["bytes_before"]
    assert main(["prune", str(model), "-o", str(model), "--force", *half]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {layer["skipped"] for layer in again["layers"]} == {
        "Percentile(0.5) zeroes nothing more in it"
    }
    assert again["bytes_after"] == first["bytes_after"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.mlpackage"]


def test_a_closed_pipe_is_no_traceback(fixtures):
    command = f"{sys.executable} -m mlpass inspect {fixtures / 'tiny_lm.mlpackage'} | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_sigterm_leaves_nothing_behind(fixtures, tmp_path):
    command = [sys.executable, "-c", SLOW, str(fixtures / "tiny_lm.mlpackage")]
    process = subprocess.Popen([*command, str(tmp_path / "out.mlpackage")])
    deadline = time.monotonic() + 20
    while not any(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert not any(tmp_path.iterdir())


SLOW = """
import sys, time
import mlpass.pruning.package as prune
ranked = prune.rank_globally
prune.rank_globally = lambda steps: (time.sleep(0.2) or step for step in ranked(steps))
from mlpass.cli import main
sys.exit(main(["prune", sys.argv[1], "-o", sys.argv[2], "--target-sparsity", "0.5"]))
"""


def test_a_name_of_two_lines_is_told_in_one(fixtures, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = str(fixtures / "digits_ios15.mlpackage")
    with np.load(fixtures / "digits_ios15.npz") as truth:
        np.savez("x.npz", image=truth["input:image"])
    (tmp_path / "grid.yaml").write_text("- target_sparsity: 0.5\n")
    assert main(["predict", model, "--inputs", "x.npz", "-o", "a\nb.npz"]) == 0
    assert capsys.readouterr().out == "a\\nb.npz: logits (1, 10)\n"
    assert main(["sweep", model, "--configs", "grid.yaml", "--jobs", "1", "-o", "a\nb.json"]) == 0
    assert capsys.readouterr().out.endswith("\na\\nb.json: written\n")


def test_version_and_help_teach(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("mlpass 0.")
    with pytest.raises(SystemExit):
        main(["prune", "--help"])
    text = capsys.readouterr().out
    assert "mlpass prune model.mlpackage -o pruned.mlpackage --target-sparsity 0.75" in text
    assert "N ZEROS in every M" in text


@pytest.fixture
def digits(fixtures, tmp_path):
    """A fixture, and calibration samples for it."""
    with np.load(fixtures / "digits_ios15.npz") as arrays:
        image = arrays["input:image"]
    path = tmp_path / "samples.npz"
    np.savez(path, image=np.stack([image, image * 0.5, image * 0.25]))
    return fixtures / "digits_ios15.mlpackage", path


def test_prune_solves_on_samples(digits, tmp_path, capsys):
    model, data = digits
    out = tmp_path / "out.mlpackage"
    command = ["prune", str(model), "-o", str(out), "--n-m-ratio", "2:4", "--json"]
    assert main([*command, "--sample-data", str(data)]) == 0
    solved = json.loads(capsys.readouterr().out)["layers"][1:]
    assert {(layer["method"], layer["samples"]) for layer in solved} == {("sparsegpt", 3)}
    assert all(0 <= layer["error"] <= layer["error_before"] for layer in solved)
    extra = ["--method", "wanda", "--refit", "--propagate", "dense", "--backend", "torch"]
    assert main([*command, "--force", "--sample-data", str(data), *extra]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"][1:]
    assert {layer["method"] for layer in layers} == {"wanda + refit"}


def test_the_table_of_a_calibrated_run_shows_errors(digits, tmp_path, capsys):
    model, data = digits
    out = tmp_path / "out.mlpackage"
    options = ["--target-sparsity", "0.5", "--sample-data", str(data), "--dampening", "0.02"]
    assert main(["prune", str(model), "-o", str(out), *options]) == 0
    shown = capsys.readouterr().out
    assert "error" in shown.splitlines()[0]
    assert "sparsegpt" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "admm"], "--method: needs --sample-data"),
        (["--allocate", "error"], "--allocate: needs --sample-data"),
        (["--resume"], "--resume: needs --sample-data"),
        (["--quantize-block-size", "32"], "--quantize-block-size: needs --quantize"),
        (["--quantize", "int4", "--group-size", "8"], "--group-size: does not go with --quantize"),
        (["--quantize", "int4", "--palettize", "4"], "--quantize: does not go with --palettize"),
        (["--quantize", "int5"], "--quantize: invalid choice: 'int5'"),
        (["--palettize", "4", "--group-size", "-1"], "--group-size: must be an int of 0 or"),
        (
            ["--sample-data", "x", "--method", "admm", "--refit"],
            "--method admm: does not take --refit",
        ),
        (["--sample-data", "x", "--dampening", "2"], "dampening: must be a number in [0, 1]"),
    ],
)
def test_calibration_options_that_do_not_go_together(tmp_path, options, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["prune", "m", "-o", str(tmp_path / "o"), "--target-sparsity", "0.5", *options])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
