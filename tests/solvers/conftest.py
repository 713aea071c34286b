"""Where torch's form of the solvers runs in tests: on a machine of processors alone, nowhere."""

from __future__ import annotations

import pytest

from mlpass import arrays


@pytest.fixture
def apart(monkeypatch):
    """Has torch's form run on the processor, as on any other device."""
    monkeypatch.setattr(arrays, "_SHARED", frozenset())


@pytest.fixture
def device(monkeypatch):
    """A device that is not there, without fp64."""
    pytest.importorskip("torch")
    from tests import pretended

    monkeypatch.setattr(arrays, "_SINGLE", frozenset({pretended.NAME}))
    with pretended.Pretending() as context:
        yield context
