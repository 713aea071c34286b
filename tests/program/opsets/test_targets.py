"""Deployment targets: coremltools' names, and what its packages state."""

from __future__ import annotations

import coremltools as ct
import pytest
from coremltools import _OPSET

from mlpass import ConfigError
from mlpass.program.decode import opset_number
from mlpass.program.opsets.targets import TARGETS, opset_name, opset_of, specification_version


def test_every_target_of_coremltools_is_known():
    assert sorted(TARGETS) == sorted(type(ct.target.iOS18).__members__)
    for name, target in type(ct.target.iOS18).__members__.items():
        opset = opset_of(name)
        assert opset_of(target) == opset_of(f"coremltools.target.{name}") == opset
        assert specification_version(opset) == int(target)
        assert opset_name(opset) == _OPSET[int(target)]
        assert opset_number(opset_name(opset)) == opset or opset < 15


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("ios18", "Got 'ios18', did you mean 'iOS18'"),
        ("iOS19", "Got 'iOS19', did you mean 'iOS1"),
        ("", "Got ''."),
        (18, "Got 18."),
        (None, "Got None."),
    ],
)
def test_what_is_not_a_target_is_an_error(given, text):
    with pytest.raises(ConfigError, match="must be one of coremltools' targets.*" + text):
        opset_of(given)
