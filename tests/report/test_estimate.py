"""The estimate of latency: a roofline's ratio, by the published peaks, with its error."""

from __future__ import annotations

import pytest

from mlpass.report.estimate import BANDWIDTH, OPERATIONS, estimate


def test_where_weights_take_longest_the_ratio_is_that_of_bytes():
    one = estimate(10**8, 4 * 10**8, 1000, "ane")
    assert one is not None and (one.bound, one.ratio, one.low, one.high) == (
        "memory",
        0.25,
        0.25,
        0.25,
    )
    assert str(one) == "0.25 (memory)"


def test_where_multiplying_takes_longest_fewer_bytes_change_nothing():
    one = estimate(1000, 4000, 10**10, "gpu")
    assert one is not None and (one.bound, one.low, one.high) == ("compute", 1, 1)


def test_between_the_two_the_ratio_has_a_range():
    """By hand: 2e8 operations; 1 MB against 4 MB."""
    one = estimate(10**6, 4 * 10**6, 10**8, "ane")
    assert one is not None
    read, dense, done = 10**6 / 67e9, 4 * 10**6 / 67e9, 2e8 / 11e12
    assert one.ratio == pytest.approx(max(read, done) / max(dense, done))
    slow = 2e8 / 2.7e12
    assert one.high == pytest.approx(max(read, slow) / max(dense, slow))
    assert one.low < one.ratio < one.high
    assert one.bound == "compute"
    assert str(one).startswith(f"{one.ratio:.2f} (compute, ")


@pytest.mark.parametrize(
    ("count", "processor"), [(None, "ane"), (0, "ane"), (1000, "cpu")], ids=str
)
def test_nothing_is_said_where_too_little_is_known(count, processor):
    assert estimate(1, 2, count, processor) is None


def test_claims_come_before_measurements_and_above_them():
    for peaks in (BANDWIDTH, *OPERATIONS.values()):
        assert list(peaks) == sorted(peaks, reverse=True)
