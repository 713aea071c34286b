"""Whole outputs of a model become zero only where a config says so of their weight."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import Channel, Config, Percentile, SparseGPT
from mlpass.cli import main
from tests import peer
from tests.program.packages import FIXTURES
from tests.runtime.programs import convert, program

DIGITS, LAST = FIXTURES / "digits_classifier.mlpackage", "var_1_3_weight_to_fp16"
SPARED = (
    f"{LAST}: got no zeros, as no weight comes after and Channel(0.5) would zero whole outputs of "
    f'the model; to have it so, name such in a config: op_name_configs={{"{LAST}": Channel(0.5)}}'
)
GONE = f"whole outputs of the model are zero now: no weight comes after {LAST}"


def weights_of(package):
    """The constants of a package by name, as coremltools reads them."""
    ops = peer.all_ops(peer.load_programs(package))
    return {op.outputs[0].name: op.val.val for op in ops if op.op_type == "const"}


@pytest.mark.parametrize("solved", [False, True])
def test_the_last_layer_keeps_its_outputs_and_that_is_told(solved, tmp_path):
    out, rng = tmp_path / "out.mlpackage", np.random.default_rng(0)
    images = [{"image": rng.integers(0, 256, (1, 1, 28, 28)).astype(np.float32)}]
    more = {"method": SparseGPT(), "sample_data": images} if solved else {}
    report = mlpass.prune(DIGITS, out, Channel(0.5), **more)
    zeros = {layer.name: layer.zeros for layer in report.layers}
    assert zeros.pop(LAST) == 0
    assert any(zeros.values())
    assert SPARED in report.notes
    (last,) = (layer for layer in report.layers if layer.name == LAST)
    assert last.skipped == (
        "no weight comes after it: Channel(0.5) would zero whole outputs of the model"
    )
    kept, was = (weights_of(each)[LAST] for each in (out, DIGITS))
    assert np.array_equal(kept, was)


@pytest.mark.parametrize(
    ("section", "key"), [("op_name_configs", LAST), ("op_type_configs", "linear")]
)
def test_named_it_is_pruned(section, key, tmp_path):
    report = mlpass.prune(
        DIGITS, tmp_path / "out.mlpackage", Config(Channel(0.5), **{section: {key: Channel(0.5)}})
    )
    (last,) = (layer for layer in report.layers if layer.name == LAST)
    assert last.sparsity == 0.5
    assert [note for note in report.notes if "outputs" in note] == [GONE]


def test_what_it_is_stored_as_still_is(tmp_path):
    out = tmp_path / "out.mlpackage"
    more = {"storage": "int8", "minimum_deployment_target": "iOS18"}
    report = mlpass.prune(DIGITS, out, Channel(0.5), **more)
    (last,) = (layer for layer in report.layers if layer.name == LAST)
    assert (last.skipped, last.storage, last.mode) == (None, "Quantized(int8)", "Percentile(0.0)")
    assert SPARED in report.notes


def test_a_model_of_one_weight_is_not_left_as_it_was_in_silence(tmp_path, capsys):
    source, weight = tmp_path / "in.mlpackage", np.random.default_rng(0).random((64, 64))

    def one(x):
        return mb.linear(x=x, weight=weight.astype(np.float32), name="head")

    convert(program(one, (1, 64))).save(str(source))
    given = [
        "prune",
        str(source),
        "-o",
        str(tmp_path / "out.mlpackage"),
        "--target-sparsity",
        "0.5",
    ]
    assert main([*given, "--granularity", "per_channel"]) == 0
    assert "head_weight_0: got no zeros, as no weight comes after" in capsys.readouterr().out
    in_place = mlpass.prune_program(program(one, (1, 64)), Channel(0.5))
    assert "op_name_configs={" in in_place.notes[0]


def test_other_modes_and_weights_before_others_are_not_told(tmp_path):
    assert mlpass.prune(DIGITS, tmp_path / "a.mlpackage", Percentile(0.5)).notes == ()
    first = Config(op_name_configs={"var_0_3_weight_to_fp16": Channel(0.5)})
    assert mlpass.prune(DIGITS, tmp_path / "b.mlpackage", first).notes == ()
    assert mlpass.prune(DIGITS, tmp_path / "c.mlpackage", Channel(0.0), force=True).notes == ()


def test_a_table_that_is_also_the_head_is_the_last(tmp_path):
    model = FIXTURES / "tiny_lm.mlpackage"
    report = mlpass.prune(model, tmp_path / "out.mlpackage", Channel(0.1))
    (note,) = report.notes
    assert note.startswith("embedding_weight_to_fp16: got no zeros")


def test_a_model_for_ios15_is_said_to_be_raised(tmp_path):
    note = "raised to iOS16 (macOS13): iOS15, which it was for, has no compressed weights"
    source, out = FIXTURES / "digits_ios15.mlpackage", tmp_path / "out.mlpackage"
    assert note in mlpass.prune(source, out, Percentile(0.75)).notes
    assert note in mlpass.prune(source, out, budget="0.6x", force=True).notes
    few = mlpass.prune(source, out, Percentile(0.001), force=True)  # no form is smaller
    assert note not in few.notes
    asked = {"minimum_deployment_target": "iOS16", "force": True}
    assert note not in mlpass.prune(source, out, Percentile(0.75), **asked).notes
