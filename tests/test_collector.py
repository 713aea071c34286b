"""The collector of cycles is held back, and comes back as it was."""

from __future__ import annotations

import gc

import pytest

from mlpass.collector import paused_collector


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


def test_it_stays_off_where_it_was_off():
    gc.disable()
    try:
        with paused_collector():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
