"""Which weights no other comes after: held against the outputs that zeroed channels really give."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

from mlpass.program.pymil_edit import edit_program
from mlpass.weights.sites import find_sites
from tests.runtime.programs import program

_WEIGHTS = np.random.default_rng(0).standard_normal((2, 8, 8)).astype(np.float32)


def linear(x, number):
    return mb.linear(x=x, weight=_WEIGHTS[number], name=f"w{number}")


def chain(x):
    return mb.softmax(x=mb.add(x=linear(mb.relu(x=linear(x, 0)), 1), y=np.float32(2)))


def skipped(x):
    return mb.add(x=linear(mb.relu(x=linear(x, 0)), 1), y=x)


def heads(x):
    return linear(x, 0), linear(x, 1)


def beside(x):
    return mb.concat(values=(linear(x, 0), linear(x, 1)), axis=-1)


def gated(x):
    return mb.mul(x=mb.sigmoid(x=linear(x, 0)), y=linear(x, 1))


@pytest.mark.parametrize(
    ("build", "last"),
    [(chain, [1]), (skipped, []), (heads, [0, 1]), (beside, [0, 1]), (gated, [0, 1])],
)
def test_what_is_made_of_others_and_added_to_others_is_not_last(build, last):
    with edit_program(program(build, (1, 8), opset=ct.target.iOS17)) as editor:
        sites = find_sites(editor.programs)
    found = {site.uses[0].op.outputs[0].name: site.is_last for site in sites}
    assert found == {f"w{number}": number in last for number in (0, 1)}
