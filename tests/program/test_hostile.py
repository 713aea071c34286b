"""What can go wrong ends in one line and loses nothing, through the command line."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.program.commands import MLPASS, one_line, prune
from tests.program.packages import (
    MODEL,
    WEIGHTS,
    copy_fixture,
    edit_bytes,
    edit_manifest,
    edit_spec,
    file_values,
    first_of,
    linear_stack,
    main_block,
    main_function,
    neural_network,
    read_spec,
    set_shape,
    time_limit,
    tree,
    write_spec,
)

NESTED_TOO_DEEP = 60  # blocks; protobuf parses 100 messages deep, two for each block


def first_blob(package: Path) -> int:
    """Returns the offset of the first blob that a package's program refers to."""
    return min(value.blobFileValue.offset for value in file_values(read_spec(package)))


def _patch_blob(offset: int, pattern: str, value: int) -> Callable[[Path], None]:
    """Returns an edit of the header of the first blob."""
    return lambda package: edit_bytes(
        package / WEIGHTS, first_blob(package) + offset, struct.pack(pattern, value)
    )


def _first_value(edit: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Returns an edit of the first value message that is in a weight file."""
    return lambda package: edit_spec(package, lambda spec: edit(file_values(spec)[0]))


def _offset(value: int) -> Callable[[Path], None]:
    return _first_value(lambda message: setattr(message.blobFileValue, "offset", value))


def _shape(*shape: int) -> Callable[[Path], None]:
    return _first_value(lambda message: set_shape(message, *shape))


def _blob_name(name: str) -> Callable[[Path], None]:
    return _first_value(lambda message: setattr(message.blobFileValue, "fileName", name))


def _replace(inside: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Returns an edit that removes a file and puts something else there."""

    def edit(package: Path) -> None:
        (package / inside).unlink()
        make(package / inside)

    return edit


def _link_out(package: Path) -> None:
    shutil.move(package / WEIGHTS, package.parent / "outside.bin")
    (package / WEIGHTS).symlink_to(package.parent / "outside.bin")


def _deep_message(package: Path) -> None:
    spec = read_spec(package)
    block = main_block(spec)
    for _ in range(NESTED_TOO_DEEP):
        block = block.operations.add(type="cond").blocks.add()
    write_spec(package, spec)


def _cycle(package: Path) -> None:
    def edit(spec: Any) -> None:
        linear = first_of(spec, "linear")
        linear.inputs["x"].arguments[0].name = linear.outputs[0].name

    edit_spec(package, edit)


def _mutual_cycle(package: Path) -> None:
    """Two constexpr ops that read each other."""

    def edit(spec: Any) -> None:
        operations = main_block(spec).operations
        for name, other in (("a", "b"), ("b", "a")):
            made = operations.add(type="constexpr_cast")
            made.inputs["source_val"].arguments.add(name=other)
            made.outputs.add(name=name).type.CopyFrom(operations[0].outputs[0].type)

    edit_spec(package, edit)


def _neural_network(package: Path) -> None:
    write_spec(package, neural_network())


def _root_path(path: str) -> Callable[[Path], None]:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = path

    return lambda package: edit_manifest(package, edit)


class Hostile(NamedTuple):
    edit: Callable[[Path], Any]
    message: str


HOSTILE = {
    "truncated weights": Hostile(
        lambda p: os.truncate(p / WEIGHTS, (p / WEIGHTS).stat().st_size // 2), "is it truncated?"
    ),
    "empty weights": Hostile(lambda p: os.truncate(p / WEIGHTS, 0), "is it truncated?"),
    "offset past the end": Hostile(_offset(1 << 30), "past the end of the file"),
    "offset near 2**64": Hostile(_offset((1 << 64) - 64), "past the end of the file"),
    "offset within a blob": Hostile(_offset(192), "no blob starts there"),
    "wrong sentinel": Hostile(_patch_blob(0, "<I", 0xDEADBEE0), "wrong sentinel 0xdeadbee0"),
    "blob size near 2**64": Hostile(_patch_blob(8, "<Q", (1 << 64) - 2), "the program says"),
    "blob start near 2**64": Hostile(
        _patch_blob(16, "<Q", (1 << 64) - 64), "past the end of the file"
    ),
    "size near 2**64": Hostile(_shape((1 << 64) - 1), "no tensor can have the shape"),
    "shape product near 2**63": Hostile(
        _shape(1 << 21, 1 << 21, (1 << 21) - 1), "no tensor can have the shape"
    ),
    "shape product of 2**64, which wraps to 0": Hostile(
        _shape(1 << 32, 1 << 32), "no tensor can have the shape"
    ),
    "another shape than that of the blob": Hostile(_shape(3, 5), "the program says 15 elements"),
    "weight name climbs out": Hostile(
        _blob_name("@model_path/../../../outside.bin"), "is not a plain path within the package"
    ),
    "weight name is absolute": Hostile(_blob_name("/etc/passwd"), "is not below '@model_path/'"),
    "weight name is absolute below the root": Hostile(
        _blob_name("@model_path//etc/passwd"), "is not a plain path within the package"
    ),
    "weight name through a link": Hostile(_link_out, "leads out of the package"),
    "weights are a FIFO": Hostile(_replace(WEIGHTS, os.mkfifo), "is missing, or not a file"),
    "weights are a directory": Hostile(_replace(WEIGHTS, os.mkdir), "is missing, or not a file"),
    "weights are missing": Hostile(_replace(WEIGHTS, lambda _: None), "is missing, or not a file"),
    "manifest is missing": Hostile(
        lambda p: (p / "Manifest.json").unlink(), "has no Manifest.json"
    ),
    "manifest is not JSON": Hostile(
        lambda p: (p / "Manifest.json").write_text("no JSON"), "names no root model"
    ),
    "manifest is nested absurdly": Hostile(
        lambda p: (p / "Manifest.json").write_text('{"a":' * 100_000), "names no root model"
    ),
    "manifest holds invalid UTF-8": Hostile(
        lambda p: (p / "Manifest.json").write_bytes(b'{"rootModelIdentifier": "\xc3\x28"}'),
        "names no root model",
    ),
    "manifest climbs out": Hostile(
        _root_path("../../other.mlmodel"), "is not a plain path within the package"
    ),
    "manifest names a root of half a letter": Hostile(
        _root_path("a\ud800"), "is not a plain path within the package"
    ),
    "manifest names a root that is far too long": Hostile(_root_path("a" * 300), "name too long"),
    "program holds invalid UTF-8": Hostile(
        lambda p: (p / MODEL).write_bytes((p / MODEL).read_bytes().replace(b"main", b"m\xffin", 1)),
        "is not a Core ML model message",
    ),
    "message is too deep": Hostile(_deep_message, "is not a Core ML model message"),
    "op that reads its own output": Hostile(_cycle, "which nothing before it makes"),
    "ops that read each other": Hostile(_mutual_cycle, "which nothing before it makes"),
    "neural network": Hostile(_neural_network, "holds a neuralNetwork; mlpass only reads"),
    "function of no known opset": Hostile(
        lambda p: edit_spec(p, lambda s: setattr(main_function(s), "opset", "CoreML")),
        "is not one of Core ML's",
    ),
    "a FIFO beside": Hostile(lambda p: os.mkfifo(p / "Data/pipe"), "is not a regular file"),
    "a link that leads out beside": Hostile(
        lambda p: (p / "Data/link").symlink_to("/etc/passwd"), "is a link that leads out"
    ),
    "a link to itself beside": Hostile(
        lambda p: (p / "Data/link").symlink_to("link"), "is not a regular file"
    ),
}


@pytest.mark.parametrize("force", [False, True], ids=["new", "over an old one"])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_package_is_refused_inone_line(
    case: str, force: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package, output = copy_fixture("digits_ios15", tmp_path), tmp_path / "out.mlpackage"
    HOSTILE[case].edit(package)
    if force:
        output.mkdir()
        (output / "old").write_text("old")
    before = tree(tmp_path)

    options = ["--target-sparsity", "0.5", *(["--force"] if force else [])]
    assert prune(package, output, *options) == 1
    one_line(capsys, HOSTILE[case].message)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("network.mlmodel", "is a single file; mlpass reads ML Programs"),
        ("compiled.mlmodelc", "is compiled; give the .mlpackage"),
        ("nothing.mlpackage", "is not there"),
        ("fifo.mlpackage", "is a single file"),
        ("loop.mlpackage", "is not there"),
        (f"{'long' * 100}.mlpackage", "name too long"),
    ],
)
def test_what_is_no_package_is_refused_inone_line(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "network.mlmodel").write_bytes(b"\x08\x04\xa2\x1f\x00")
    (tmp_path / "compiled.mlmodelc").mkdir()
    (tmp_path / "loop.mlpackage").symlink_to("loop.mlpackage")
    os.mkfifo(tmp_path / "fifo.mlpackage")
    before = tree(tmp_path)

    assert prune(tmp_path / name, tmp_path / "out.mlpackage") == 1
    one_line(capsys, message)
    assert tree(tmp_path) == before


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("command", ["prune", "inspect"])
def test_the_command_itself_ends_without_a_traceback(command: str, tmp_path: Path) -> None:
    package = copy_fixture("digits_ios15", tmp_path)
    _patch_blob(0, "<I", 0)(package)
    rest = ["-o", tmp_path / "out.mlpackage", "--n-m-ratio", "2:4"]
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "mlpass",
            command,
            str(package),
            *(rest if command == "prune" else []),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("mlpass: error: ")
    assert ended.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == [package.name]


def test_names_that_are_no_utf8_are_printed(tmp_path: Path) -> None:
    package = copy_fixture("branches", tmp_path)
    odd = package.rename(tmp_path / os.fsdecode(b"odd-\xff.mlpackage"))
    for name, status in ((odd, 0), (tmp_path / os.fsdecode(b"no-\xff.mlpackage"), 1)):
        ended = subprocess.run(
            [*MLPASS, "prune", name, "-o", f"{name}.mlpackage", "--threshold", "0.01"],
            capture_output=True,
            check=False,
            env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},  # as in most locales
        )
        assert b"Traceback" not in ended.stderr
        assert ended.returncode == status
    assert (tmp_path / os.fsdecode(b"odd-\xff.mlpackage.mlpackage")).is_dir()


def test_constexpr_chains_of_any_length_are_read(tmp_path: Path) -> None:
    """Ten thousand ops, each of which reads the one before: no recursion goes that deep."""
    package = linear_stack(tmp_path / "in.mlpackage", 1, 64)
    edit_spec(package, lambda spec: _chain(spec, 10_000, readings=1))

    assert prune(package, tmp_path / "out.mlpackage") in (0, 1)


def test_constexpr_diamonds_take_no_exponential_time(tmp_path: Path) -> None:
    """Sixty ops, each of which reads the one before twice."""
    package = linear_stack(tmp_path / "in.mlpackage", 1, 64)
    edit_spec(package, lambda spec: _chain(spec, 60, readings=2))

    assert _in_time(lambda: prune(package, tmp_path / "out.mlpackage")) in (0, 1)


def _chain(spec: Any, length: int, readings: int) -> None:
    """Puts a chain of constexpr ops between the first weight and its reader."""
    block = main_block(spec)
    previous = block.operations[0].outputs[0]
    linear = first_of(spec, "linear")
    for number in range(length):
        made = type(linear)(type="constexpr_made_up")
        for reading in range(readings):
            made.inputs[f"source_{reading}"].arguments.add(name=previous.name)
        made.outputs.add(name=f"made_{number}").type.CopyFrom(previous.type)
        block.operations.insert(len(block.operations) - 1, made)
        previous = made.outputs[0]
    linear = first_of(spec, "linear")
    linear.inputs["weight"].arguments[0].name = previous.name


def _in_time(call: Callable[[], int], seconds: float = 10) -> int:
    with time_limit(seconds):
        return call()
