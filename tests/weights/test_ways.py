"""What a report says there is to do next, done as it says."""

from __future__ import annotations

import re
import shlex

import pytest

import mlpass
from mlpass import Config, OpConfig, Percentile, Quantized
from mlpass.cli import main
from tests.runtime.chains import chunks

NOTE = re.compile(r"(\d+) of (\d+) weights are sparse floats; to quantize what they keep: (.*) \(")


@pytest.mark.parametrize("target", ["iOS17", "iOS18"])
def test_sparse_weights_are_quantized_as_inspect_says(fixtures, tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    source, half = fixtures / "tiny_lm.mlpackage", Config(Percentile(0.5))
    mlpass.prune(source, "half.mlpackage", half, minimum_deployment_target=target)
    (note,) = mlpass.inspect("half.mlpackage").notes
    found = NOTE.match(note)
    assert found is not None
    before = mlpass.inspect("half.mlpackage").layers
    sparse = [layer.name for layer in before if layer.encoding == "sparse"]
    assert (int(found[1]), int(found[2])) == (len(sparse), len(before))
    command = shlex.split(found[3])
    assert command[0] == "mlpass"
    main(command[1:])
    after = {layer.name: layer for layer in mlpass.inspect(command[command.index("-o") + 1]).layers}
    assert {after[name].encoding for name in sparse} == {"sparse + quantized"}
    assert all(
        after[one.name].bytes_after < one.bytes_after for one in before if one.name in sparse
    )


def test_a_run_that_leaves_them_sparse_says_so_of_those_alone(fixtures, tmp_path):
    half, more = tmp_path / "half.mlpackage", tmp_path / "more.mlpackage"
    fresh = mlpass.prune(fixtures / "tiny_lm.mlpackage", half, Config(Percentile(0.5)))
    assert not [note for note in fresh.notes if NOTE.match(note)]  # they have only become so
    notes = mlpass.prune(half, more, Config(Percentile(0.75))).notes
    assert [note for note in notes if NOTE.match(note)]


def test_a_model_without_sparse_floats_has_no_note(fixtures, tmp_path):
    int8 = tmp_path / "int8.mlpackage"
    mlpass.prune(fixtures / "tiny_lm.mlpackage", int8, Config(OpConfig(None, Quantized("int8"))))
    assert mlpass.inspect(int8).notes == ()
    assert mlpass.inspect(fixtures / "tiny_lm.mlpackage").notes == ()


def test_what_packages_in_a_row_are_told_is_done_as_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second, _ = chunks(tmp_path / "chunks")
    pruned = ["a, half.mlpackage", "b, half.mlpackage"]
    mlpass.prune([first, second], pruned, Config(Percentile(0.5), weight_threshold=9))
    (note,) = mlpass.inspect(pruned).notes
    found = NOTE.match(note)
    assert found is not None
    main([*shlex.split(found[3])[1:], "--weight-threshold", "9"])
    assert sorted(path.name for path in tmp_path.glob("int8*")) == [
        "int8-1.mlpackage",
        "int8-2.mlpackage",
    ]
