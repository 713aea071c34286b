"""Ops whose result would be larger than the machine: told before anything is allocated."""

import numpy as np
import pytest
from harness import run

import mlpass.runtime.kernels.room as room

X = np.ones((1, 2, 3, 4), np.float32)
HUGE = 1 << 30
ASKING = {
    "fill": ("fill", {"shape": [HUGE, HUGE], "value": np.float32(1)}),
    "range": ("range_1d", {"start": np.float32(0), "end": np.float32(1e18), "step": np.float32(1)}),
    "one hot": (
        "one_hot",
        {"indices": np.zeros(1 << 20, np.int32), "one_hot_vector_size": HUGE},
    ),
    "tile": ("tile", {"x": X, "reps": [HUGE, 1, 1, HUGE]}),
    "pad": ("pad", {"x": X, "pad": [HUGE, HUGE, HUGE, HUGE]}),
    "pad by itself": ("pad", {"x": X, "pad": [HUGE, HUGE, HUGE, HUGE], "mode": "replicate"}),
    "resize": ("resize_bilinear", {"x": X, "target_size_height": HUGE, "target_size_width": HUGE}),
    "nearest": (
        "upsample_nearest_neighbor",
        {"x": X, "scale_factor_height": HUGE, "scale_factor_width": HUGE},
    ),
}


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("case", ASKING)
def test_what_no_machine_holds_is_refused(case, backend):
    op, arguments = ASKING[case]
    with pytest.raises(ValueError, match="it makes an array of [0-9]{15,} bytes; this machine has"):
        run(op, arguments, backend)


def test_the_last_byte_counts(monkeypatch):
    monkeypatch.setattr(room, "_memory", lambda: 4096)
    room.check_room((32, 32), np.float32)
    with pytest.raises(ValueError, match="4100 bytes; this machine has 4096"):
        room.check_room((25, 41), np.dtype(np.float32))
