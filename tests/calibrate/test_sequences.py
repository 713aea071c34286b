"""Calibration on sequences: every step adds to the Grams, on the state that the one before left."""

from __future__ import annotations

import numpy as np

import mlpass
from mlpass import Percentile
from mlpass.calibrate.walk import observe_dense
from mlpass.plan.config import Config
from mlpass.plan.steps import plan
from mlpass.program.mlpackage import Package
from mlpass.runtime.digests import digest_of
from mlpass.runtime.interpreter import Interpreter
from mlpass.study.layers import calibration_of
from mlpass.study.trial import Setting
from mlpass.weights.sites import find_sites
from tests.runtime.sequences import STATEFUL, lm_sequences, predicted


def test_grams_are_sums_over_all_steps():
    samples = lm_sequences(4, 2, 1)
    met = [predicted(Interpreter(STATEFUL), sample)[0] for sample in samples]
    seen = 0
    with Package(STATEFUL) as package:
        steps = plan(find_sites(package.programs), Config(global_config=Percentile(0.5)))
        calibration = calibration_of(Setting(str(STATEFUL)), samples)
        with observe_dense(package, steps, calibration) as sites:
            for step, observed in sites:
                (use, *others) = step.site.uses
                if use.op.type != "linear" or others:
                    continue
                name = use.op.outputs[0].name
                rows = np.concatenate(
                    [x.reshape(-1, x.shape[-1]) for one in met for x in one[name]]
                )
                wanted = rows.astype(np.float64).T @ rows
                found = observed.gram.matrix.reshape(wanted.shape)
                wanted *= np.trace(found) / np.trace(wanted)  # its scale says nothing
                np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * wanted.max())
                assert (observed.samples, observed.tokens) == (3, 7)
                seen += 1
    assert seen > 16


def test_a_report_counts_sequences_and_their_steps(tmp_path):
    output = tmp_path / "out.mlpackage"
    report = mlpass.prune(STATEFUL, output, Percentile(0.5), sample_data=lm_sequences(5, 3, 4))
    solved = [one for one in report.layers if one.error is not None and one.op_type == "linear"]
    assert {(layer.samples, layer.tokens) for layer in solved} >= {(3, 12)}
    assert all(layer.sparsity >= 0.49 for layer in solved)
    assert all(layer.error_held <= layer.error_before_held for layer in solved)


def test_a_sequence_and_its_steps_by_themselves_have_different_digests():
    (sample,) = lm_sequences(2)
    ways = (
        [sample],
        sample,
        [sample[:1], sample[1:]],
        [[*sample, sample[0]]],
        [sample[0], sample[1:]],
    )
    digests = [digest_of([], {}, way) for way in ways]
    assert len(set(digests)) == len(ways)
