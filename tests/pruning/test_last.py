"""Whole outputs that are zeroed are told, whatever comes after their weight that has none."""

from __future__ import annotations

import numpy as np
import pytest

import mlpass
from mlpass import Channel, Config, Percentile, SparseGPT
from tests.program.packages import FIXTURES

DIGITS, LAST = FIXTURES / "digits_classifier.mlpackage", "var_1_3_weight_to_fp16"


@pytest.mark.parametrize("solved", [False, True])
def test_the_last_layer_is_named(solved, tmp_path):
    out, rng = tmp_path / "out.mlpackage", np.random.default_rng(0)
    images = [{"image": rng.integers(0, 256, (1, 1, 28, 28)).astype(np.float32)}]
    more = {"method": SparseGPT(), "sample_data": images} if solved else {}
    report = mlpass.prune(DIGITS, out, Channel(0.5), **more)
    note = next(note for note in report.notes if "outputs" in note)
    assert note == (
        f"whole outputs of the model are zero now: no weight comes after {LAST}; leave such out of "
        f'a config: op_name_configs={{"{LAST}": None}}'
    )
    without = Config(Channel(0.5), op_name_configs={LAST: None})
    kept = mlpass.prune(DIGITS, tmp_path / "kept.mlpackage", without, **more)
    assert not any("outputs" in note for note in kept.notes)


def test_other_modes_and_weights_before_others_are_not(tmp_path):
    assert mlpass.prune(DIGITS, tmp_path / "a.mlpackage", Percentile(0.5)).notes == ()
    first = Config(op_name_configs={"var_0_3_weight_to_fp16": Channel(0.5)})
    assert mlpass.prune(DIGITS, tmp_path / "b.mlpackage", first).notes == ()


def test_a_table_that_is_also_the_head_is_the_last(tmp_path):
    model = FIXTURES / "tiny_lm.mlpackage"
    report = mlpass.prune(model, tmp_path / "out.mlpackage", Channel(0.1))
    (note,) = report.notes
    assert "no weight comes after embedding_weight_to_fp16; leave" in note
