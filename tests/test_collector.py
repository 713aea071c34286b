"""The collector of cycles is held back, and comes back as it was."""

from __future__ import annotations

import gc

import pytest

from mlpass.collector import paused_collector


@pytest.fixture(autouse=True)
def _thawed():
    """Nothing is frozen, as where there is no `tests/conftest.py`."""
    gc.unfreeze()
    yield
    gc.freeze()


def test_it_is_off_within_and_back_after_a_fault():
    assert gc.isenabled()
    off = []

    @paused_collector()
    def fail():
        with paused_collector():
            pass
        off.append(not gc.isenabled())
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert off == [True]
    assert gc.isenabled()


def test_what_was_made_meanwhile_counts_as_old():
    with paused_collector():
        made = [[] for _ in range(50_000)]
    held = {id(one) for one in made}
    assert held <= {id(one) for one in gc.get_objects(generation=2)}
    assert gc.get_freeze_count() == 0


def test_what_is_frozen_stays_so():
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with paused_collector():
            made = [[] for _ in range(50_000)]
        assert gc.get_freeze_count() == frozen > 0
        assert len(made) == 50_000
    finally:
        gc.unfreeze()


def test_it_stays_off_where_it_was_off():
    gc.disable()
    try:
        with paused_collector():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
