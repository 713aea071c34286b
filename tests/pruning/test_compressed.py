"""Compressed weights that were left alone, and what is told of them."""

from __future__ import annotations

import pytest

import mlpass
from mlpass import NM, Config, OpConfig, Percentile, Quantized
from tests.program.packages import FIXTURES

PLAIN = FIXTURES / "digits_ios15.mlpackage"
PALETTIZED = FIXTURES / "palettized_digits.mlpackage"
JOINT = "--joint-compression (joint_compression=True in Python) prunes those"


def notes_of(source, out, config, **options):
    return mlpass.prune(source, out, config, **options).notes


def test_all_that_is_compressed_is_named_with_the_way(tmp_path):
    (note,) = notes_of(PALETTIZED, tmp_path / "a.mlpackage", Percentile(0.5))
    assert note == f"nothing was pruned: 4 of 5 weights are compressed already; {JOINT}"
    assert (
        notes_of(PALETTIZED, tmp_path / "b.mlpackage", Percentile(0.5), joint_compression=True)
        == ()
    )


@pytest.mark.parametrize(
    "config", [Quantized("int8"), OpConfig(Percentile(0.5), Quantized("int4"))]
)
def test_another_storage_is_for_the_model_before(config, tmp_path):
    (note,) = notes_of(PALETTIZED, tmp_path / "a.mlpackage", Config(config))
    assert note.startswith("nothing was pruned: 4 of 5 weights are compressed already; ")
    assert note.endswith(
        "--joint-compression (joint_compression=True in Python) rounds those anew, not as well as "
        "from the model that they were made from"
    )


def test_old_integers_are_raised_first(tmp_path):
    old, out = tmp_path / "old.mlpackage", tmp_path / "out.mlpackage"
    mlpass.prune(FIXTURES / "tiny_lm.mlpackage", old, Quantized("int8"))
    (note,) = notes_of(old, out, NM(2, 4))
    assert "--joint-compression with --minimum-deployment-target iOS18" in note
    report = mlpass.prune(
        old, out, NM(2, 4), joint_compression=True, minimum_deployment_target="iOS18", force=True
    )
    assert report.sparsity == 0.5


def test_some_that_are_compressed_beside_others_that_are_pruned(tmp_path):
    some, out = tmp_path / "some.mlpackage", tmp_path / "out.mlpackage"
    names = [layer.name for layer in mlpass.inspect(FIXTURES / "tiny_lm.mlpackage").layers]
    config = Config(op_name_configs=dict.fromkeys(names[:3], Quantized("int8")))
    mlpass.prune(FIXTURES / "tiny_lm.mlpackage", some, config)
    (note,) = notes_of(some, out, Percentile(0.5))
    assert note.startswith(f"3 of {len(names)} weights are compressed already; --joint")
    # Nobody asked about those where the config names others alone.
    named = Config(op_name_configs={names[5]: Percentile(0.5)})
    assert notes_of(some, tmp_path / "named.mlpackage", named) == ()


def test_outliers_that_are_kept_apart_are_the_reason_given(tmp_path):
    apart, out = tmp_path / "apart.mlpackage", tmp_path / "out.mlpackage"
    mlpass.prune(
        FIXTURES / "digits_ios15.mlpackage",
        apart,
        Quantized("int4", outliers=0.01),
        minimum_deployment_target="iOS18",
    )
    report = mlpass.prune(apart, out, Percentile(0.5), joint_compression=True)
    reasons = [layer.skipped for layer in report.layers]
    assert sum("its outliers are kept apart, in " in reason for reason in reasons) == 4


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("config", [Percentile(0.5), Quantized("int8")])
def test_weights_with_outliers_apart_are_for_the_model_before(config, joint, tmp_path):
    apart, some = tmp_path / "apart.mlpackage", tmp_path / "some.mlpackage"
    outliers = OpConfig(Percentile(0.0), Quantized("int4", outliers=0.01))
    names = [layer.name for layer in mlpass.inspect(PLAIN).layers]
    raised = {"minimum_deployment_target": "iOS18"}
    mlpass.prune(PLAIN, apart, outliers, **raised)
    (note,) = notes_of(apart, tmp_path / "a.mlpackage", config, joint_compression=joint)
    assert note.startswith("4 of 5 weights have outliers that are kept apart, and are left as they")
    assert note.endswith("prune the model that they were made from")
    mlpass.prune(PLAIN, some, Config(op_name_configs={names[2]: outliers}), **raised)
    given = {"joint_compression": joint}
    (note,) = notes_of(some, tmp_path / "b.mlpackage", config, **given)
    assert note.startswith("1 of 5 weights have outliers")
    named = Config(op_name_configs={names[3]: config})  # nobody asked about the others
    assert notes_of(some, tmp_path / "c.mlpackage", named, **given) == ()
