"""Sequences for the stateful decoder, and what its own steps make of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.runtime.programs import FIXTURES, truth

STATEFUL = FIXTURES / "stateful_lm.mlpackage"


def lm_sequences(*lengths: int) -> list[list[dict[str, Any]]]:
    """Returns sequences of those numbers of tokens, each from another place of the example text."""
    inputs, _ = truth("stateful_lm")
    text = [{name: steps[step] for name, steps in inputs.items()} for step in range(24)]

    def step_of(number: int, step: int) -> dict[str, Any]:
        return {**text[(7 * number + step) % 24], "position": text[step]["position"]}

    return [
        [step_of(number, step) for step in range(length)] for number, length in enumerate(lengths)
    ]


class Recording:
    """A listener that keeps what linear ops are given, by the name of what they make."""

    def __init__(self) -> None:
        """Has seen nothing."""
        self.found: dict[str, list[Any]] = {}

    def before(self, op: Any, inputs: Any) -> None:
        """Keeps x."""
        if op.type == "linear":
            self.found.setdefault(op.outputs[0].name, []).append(copied(inputs["x"]))

    def after(self, op: Any, outputs: Any) -> None:
        """Has seen enough."""


def copied(array: Any) -> Any:
    """Returns an array of any backend as one of numpy's."""
    return np.array(array if isinstance(array, np.ndarray) else array.numpy())


def predicted(interpreter: Any, sample: Any) -> tuple[dict[str, list[Any]], list[Any]]:
    """Returns what linear ops are given, and the outputs, step by step on one state."""
    recording = Recording()
    interpreter.listeners.append(recording)
    state = interpreter.make_state()
    outputs = [interpreter.predict(step, state) for step in sample]
    interpreter.listeners.remove(recording)
    return recording.found, outputs
