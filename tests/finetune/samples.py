"""Inputs for every fixture, as samples to train on."""

from __future__ import annotations

from typing import Any

import numpy as np

import mlpass
from mlpass.runtime.samples import Sample
from tests.finetune.networks import FIXTURES
from tests.runtime.programs import truth
from tests.runtime.sequences import lm_sequences

_OF = {"digits_pipeline.mlpackage": "digits_ios15", "branches.mlpackage": None}


def samples_of(name: str, count: int) -> list[Sample]:
    """Returns so many samples for the fixture of that file name: its example with noise."""
    if name == "stateful_lm.mlpackage":
        return list(lm_sequences(*[3] * count))
    generator = np.random.default_rng(0)
    like = _OF.get(name, name.removesuffix(".mlpackage"))
    known = {} if like is None else truth(like)[0]
    features = mlpass.Interpreter(FIXTURES / name).inputs

    def drawn(feature: Any) -> Any:
        shape = tuple(size or 1 for size in feature.shape)
        if feature.name not in known:
            return generator.standard_normal(shape).astype(np.float32)
        array = np.asarray(known[feature.name])
        if feature.kind == "image":
            return array if array.ndim == 4 else array[None]
        array = array if feature.shapes.allow(array.shape) or array.ndim <= len(shape) else array[0]
        if array.dtype.kind == "f":
            noise = generator.standard_normal(array.shape) * array.std()
            return (array + 0.3 * noise).astype(array.dtype)
        return generator.permuted(array, axis=-1)

    return [
        {each.name: drawn(each) for each in features if each.name in known or like is None}
        for _ in range(count)
    ]
