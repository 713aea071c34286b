"""The space that studies race: one list for both, what an op set cannot say left out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import mlpass
from mlpass import NM, ConfigError, OpConfig, Palette, Percentile, Quantized, SparseGPT
from mlpass.program.mlpackage import Package
from mlpass.study.grid import patterns
from mlpass.study.space import default_candidates, forms, is_old_package, within
from tests.program.packages import FIXTURES


def storages_of(candidates):
    entries = [candidate.config.global_config for candidate in candidates]
    return {entry.storage for entry in entries if isinstance(entry, OpConfig)} - {None}


@pytest.mark.parametrize("old", [False, True])
def test_with_samples_it_is_the_whole_space(old):
    found = default_candidates(old, sampled=True)
    assert 12 <= len(found) <= 16
    free = [one for one in found if one.data_free]
    solved = [one for one in found if one.method == SparseGPT() and not one.options]
    budgets = [one.options["budget"] for one in found if "budget" in one.options]
    assert len(free) + len(solved) + len(budgets) == len(found)
    assert budgets == ["0.4x", "0.3x", "0.2x", "0.15x"]
    assert set(forms(old)) == storages_of(free)
    assert storages_of(solved) <= storages_of(free)
    assert Percentile(0.5) in [one.config.global_config for one in free]
    assert Percentile(0.5) in [one.config.global_config for one in solved]
    joint = [one.config.global_config for one in solved if "+" in one.name]
    assert joint == ([] if old else [OpConfig(Percentile(s), Palette(4)) for s in (0.5, 0.75)])
    assert Counter(one.name for one in free).most_common(1)[0][1] == 1


@pytest.mark.parametrize("old", [False, True])
def test_without_samples_it_is_what_needs_none(old):
    found = default_candidates(old, sampled=False)
    assert all(one.data_free for one in found)
    assert set(forms(old)) <= storages_of(found)
    assert {NM(2, 4), Percentile(0.5)} <= {one.config.global_config for one in found}


def test_methods_and_storages_of_the_users_own():
    found = default_candidates(False, True, method="sparsegpt")
    assert {one.method for one in found} == {SparseGPT()}
    assert set(forms(False)) <= storages_of(found)
    several = default_candidates(False, True, method=["wanda", "sparsegpt"])
    assert len(several) == 2 * len(found)
    stored = default_candidates(False, False, storage="int8")
    assert storages_of(stored) == {Quantized("int8")}
    assert len(stored) == len(patterns()) == 20
    with pytest.raises(ConfigError, match="method: must be"):
        default_candidates(False, True, method=3)


@pytest.mark.slow
def test_old_models_get_what_they_can_say(tmp_path):
    """Every form is written by the op set that it is for."""
    for name in ("tiny_lm", "digits_ios15"):
        with Package(FIXTURES / f"{name}.mlpackage") as package:
            assert is_old_package(package)
        report = mlpass.sweep(FIXTURES / f"{name}.mlpackage", jobs=1)
        assert [trial.failed for trial in report.trials] == [None] * len(report.trials)
        assert "they need iOS18" in report.notes[-1]
    model = FIXTURES / "tiny_lm.mlpackage"
    report = mlpass.sweep(model, minimum_deployment_target="iOS18", jobs=1)
    assert report.notes == ()
    assert "Quantized(int4, block_size=32)" in {trial.name for trial in report.trials}
    assert max(t.ratio for t in report.trials) > 4 > 2 > min(t.ratio for t in report.trials)


@pytest.mark.slow
def test_sizes_to_divide_share_what_the_model_as_it_is_shows(tmp_path):
    model, rng = FIXTURES / "digits_classifier.mlpackage", np.random.default_rng(0)
    images = [{"image": rng.integers(0, 256, (1, 1, 28, 28)).astype(np.float32)} for _ in range(3)]
    report = mlpass.sweep(model, images, [within("0.4x"), within("0.25x")], jobs=1)
    for trial, size in zip(report.trials, ("0.4x", "0.25x"), strict=True):
        single = mlpass.prune(
            model, tmp_path / "out.mlpackage", budget=size, sample_data=images, force=True
        )
        assert trial.report.layers == single.layers
        assert trial.nbytes == single.bytes_after
