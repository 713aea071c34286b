"""No command writes into the package that it reads, whatever option, link or spelling."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coremltools.models import MLModel

import mlpass
from mlpass import ModelFormatError, Percentile, cli
from mlpass.examine.predict import predict_to_file
from tests.program.packages import FIXTURES, copy_fixture, tree

DATA = "digits_ios15.mlpackage/Data"


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    with np.load(FIXTURES / "digits_ios15.npz") as truth:
        (image,) = (truth[name] for name in truth.files if name.startswith("input:"))
    np.savez(tmp_path / "stacked.npz", image=image[None])
    np.savez(tmp_path / "one.npz", image=image)
    return tmp_path / "stacked.npz"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package, and ways into it."""
    package = copy_fixture("digits_ios15", tmp_path)
    (tmp_path / "link").symlink_to(package)
    (tmp_path / "deep").symlink_to(package / "Data" / "com.apple.CoreML")
    (tmp_path / "chain").symlink_to(tmp_path / "deep")
    shutil.copytree(package, tmp_path / "other.mlpackage")
    return package


TRAINING = ["-o", "{out}", "--sample-data", "{all}", "--steps", "1"]
COMMANDS = {
    "predict": ("npz", ["predict", "{model}", "--inputs", "{one}", "-o", "{out}"]),
    "sweep": ("json", ["sweep", "{model}", "-o", "{out}"]),
    "sweep, a page": ("html", ["sweep", "{model}", "-o", "{out}", "--json"]),
    "sweep --resume": ("json", ["sweep", "{model}", "-o", "{out}", "--resume"]),
    "prune": ("mlpackage", ["prune", "{model}", "-o", "{out}", "--target-sparsity", "0.5"]),
    "prune on samples": (
        "mlpackage",
        ["prune", "{model}", "-o", "{out}", "--target-sparsity", "0.5", "--sample-data", "{all}"],
    ),
    "choose": (
        "mlpackage",
        ["choose", "{model}", "-o", "{out}", "--max-size", "0.5x", "--sample-data", "{all}"],
    ),
    "finetune": ("mlpackage", ["finetune", "{model}", *TRAINING, "--target-sparsity", "0.5"]),
    "finetune --dense": ("mlpackage", ["finetune", "{other}", *TRAINING, "--dense", "{model}"]),
}
PLACES = {
    "within": DATA + "/out",
    "at its top": "digits_ios15.mlpackage/out",
    "by dots": DATA + "/com.apple.CoreML/../out",
    "from outside by dots": "other.mlpackage/../" + DATA + "/out",
    "through a link": "link/out",
    "through a link to a part": "deep/out",
    "through a chain of links": "chain/weights/out",
    "through a link, and up": "deep/../out",
}


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
def test_no_command_writes_into_its_source(
    force: bool,
    command: str,
    place: str,
    package: Path,
    samples: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "finetune" in command:
        pytest.importorskip("torch")
    ending, words = COMMANDS[command]
    output = f"{PLACES[place]}.{ending}"
    given = {
        "model": package.name,
        "other": "other.mlpackage",
        "one": "one.npz",
        "all": samples.name,
        "out": output,
    }
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    status = cli.main([word.format_map(given) for word in words] + ["--force"] * force)
    assert tree(tmp_path) == before
    out, err = capsys.readouterr()
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert "is within the model to " in err
    assert "name another target" in err


def _bind(place: Path, at: Path) -> Callable[[], object]:
    """Mounts a folder at another place, and returns what undoes it."""
    at.mkdir()
    try:
        done = subprocess.run(["mount", "--bind", place, at], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no file system can be mounted here")
    if done.returncode != 0:
        pytest.skip("no file system can be mounted here")
    return lambda: subprocess.run(["umount", at], check=True)


def test_a_part_of_the_source_that_has_a_second_place(
    package: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(package)
    undo = _bind(package / "Data" / "com.apple.CoreML", tmp_path / "mounted")
    try:
        for command, output, options in (
            ("predict", "weights/y.npz", ["--inputs", str(tmp_path / "one.npz")]),
            ("sweep", "report.json", []),
            ("prune", "out.mlpackage", ["--target-sparsity", "0.5"]),
        ):
            place = str(tmp_path / "mounted" / output)
            arguments = [command, str(package), "-o", place, *options]
            assert cli.main(arguments) == 1
            assert "is within the model to" in capsys.readouterr().err
    finally:
        undo()
    assert tree(package) == before


@pytest.mark.parametrize("ending", ["npz", "html", "json"])
def test_a_file_does_not_take_the_place_of_its_source(
    ending: str, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A package may have any name."""
    package = tmp_path / f"model.{ending}"
    shutil.copytree(FIXTURES / "digits_ios15.mlpackage", package)
    before = tree(tmp_path)
    words = ["sweep", str(package), "-o", str(package), "--force"]
    if ending == "npz":
        words[0] = "predict"
        words += ["--inputs", str(tmp_path / "one.npz")]
    assert cli.main(words) == 1
    assert capsys.readouterr().err == f"mlpass: error: {package}: Is a directory\n"
    assert tree(tmp_path) == before


def test_a_second_name_of_a_part_is_replaced_alone(
    package: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is written over shares its bytes with the source, and the source keeps them."""
    before = tree(package)
    output = tmp_path / "y.npz"
    os.link(next(package.rglob("weight.bin")), output)
    words = ["predict", str(package), "--inputs", str(tmp_path / "one.npz"), "-o", str(output)]
    assert cli.main([*words, "--force"]) == 0, capsys.readouterr().err
    assert tree(package) == before
    with np.load(output) as made:
        assert len(made.files) > 0


@pytest.mark.filterwarnings("ignore")
def test_the_package_of_an_open_model(package: Path, samples: Path, tmp_path: Path) -> None:
    model = MLModel(str(package), skip_model_load=True)
    before = tree(package)
    with pytest.raises(ModelFormatError, match="is within the model to run"):
        predict_to_file(model, tmp_path / "one.npz", package / "y.npz")
    with pytest.raises(ModelFormatError, match="is within the model to prune"):
        mlpass.sweep(model, output=tmp_path / "deep" / "report.json")
    with pytest.raises(ModelFormatError, match="is within the model to prune"):
        mlpass.choose(model, package / "o.mlpackage", sample_data=samples, max_size="0.5x")
    with pytest.raises(ModelFormatError, match="is within the model to prune"):
        mlpass.prune(model, tmp_path / "link" / "o.mlpackage", Percentile(0.5))
    assert tree(package) == before


def test_what_holds_the_source_is_not_replaced(
    samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holder = tmp_path / "holder.mlpackage"
    (holder / "models").mkdir(parents=True)
    package = copy_fixture("digits_ios15", holder / "models")
    other = copy_fixture("digits_ios15", tmp_path)
    before = tree(tmp_path)
    learning = ["--sample-data", str(samples), "--steps", "1", "--dense", str(package)]
    for words in (
        ["prune", str(package), "--target-sparsity", "0.5"],
        ["choose", str(package), "--max-size", "0.5x", "--sample-data", str(samples)],
        ["finetune", str(other), *learning],
    ):
        assert cli.main([*words, "-o", str(holder), "--force"]) == 1
        assert "holds the model to" in capsys.readouterr().err
    assert tree(tmp_path) == before
