"""Which readings of weights meet the same inputs."""

from __future__ import annotations

import pytest
from coremltools.converters.mil.mil import Builder as mb

from mlpass import Percentile, SparseGPT
from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.outputs import interpreter_of
from mlpass.calibrate.readings import find_readings
from mlpass.plan.config import as_config
from mlpass.plan.steps import plan
from mlpass.program.mlpackage import Package
from mlpass.weights.sites import find_sites
from tests.calibrate.layers import samples, save, weights


@pytest.fixture
def readings(tmp_path):
    """By the name of the op; query and key read the same, and value reads what query makes."""
    query, key, value = weights(3)

    def build(x):
        q, k = mb.linear(x=x, weight=query, name="query"), mb.linear(x=x, weight=key, name="key")
        return mb.linear(x=mb.add(x=q, y=k), weight=value, name="value")

    path = save(build, tmp_path)

    def found(known=frozenset()):
        with Package(path) as package:
            steps = plan(find_sites(package.programs), as_config(Percentile(0.5)))
            interpreter = interpreter_of(package, Calibration(SparseGPT(), samples(2)))
            made = find_readings(steps, interpreter, lambda site: site.name in known, dense=False)
        return {one.use.op.name: one for one in made}

    return found


def test_those_of_one_activation_share_its_sums(readings):
    found = readings()
    query, key, value = (found[name] for name in ("query", "key", "value"))
    assert query.activation is key.activation is not value.activation
    assert query.activation.users == {query.step.site, key.step.site}
    assert [one.activation.number for one in (query, value)] == [0, 1]
    assert [one.feeds for one in (query, key, value)] == [True, False, True]


def test_sums_that_nobody_needs_are_not_gathered(readings):
    found = readings({one.step.site.name for op, one in readings().items() if op != "value"})
    assert {name for name, one in found.items() if one.activation is None} == {"query", "key"}
    assert not found["query"].feeds


def test_sums_go_with_their_last_user(readings):
    found = readings()
    activation, gathered = found["query"].activation, found["query"].activation.gathered
    activation.forget(found["value"].step.site)
    activation.forget(found["query"].step.site)
    assert activation.gathered is gathered
    activation.forget(found["key"].step.site)
    assert activation.gathered is not gathered and not activation.users


def test_inputs_that_do_not_fit_the_weight_are_an_error(readings):
    reading = readings()["query"]
    reading.check((1, 8, 64))
    with pytest.raises(ValueError, match=r"it is given \(groups, columns\) \(1, 32\), its weight"):
        reading.check((1, 8, 32))
