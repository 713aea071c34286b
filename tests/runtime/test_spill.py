"""What spills, while runs in other threads let go of it."""

from __future__ import annotations

from threading import Thread

import numpy as np

from mlpass.runtime.backends.base import open_backend
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.spill import SampleValues, Spill
from tests.runtime.programs import chain, program


def test_a_value_that_its_run_has_let_go_of_is_not_written():
    (part,) = Interpreter(program(chain, (2, 8))).parts
    first, second, _ = (step.op.outputs[0] for step in part.plan.block.steps)
    spill = Spill(64, open_backend("numpy"), {})
    one, other = (SampleValues(part.constants, spill, number) for number in range(2))
    one[first] = np.ones(16, np.float32)
    spill.note([one], [first], 0)
    one.pop(first)  # it has gone on, and will say so at its next note
    other[second] = np.full(16, 2, np.float32)
    noting = Thread(target=spill.note, args=([other], [second], 0), daemon=True)
    noting.start()
    noting.join(30)
    assert not noting.is_alive()
    spill.note([one], [], 1)
    assert spill.read(0, first) is None
    np.testing.assert_array_equal(other[second], np.full(16, 2))
    spill.__exit__()
