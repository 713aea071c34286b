"""A digest of all that a long run depends on: it tells whether what was finished is of this run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mlpass.arrays import host
from mlpass.runtime.calls import function_of
from mlpass.runtime.features import UNREADABLE
from mlpass.runtime.samples import Sample, listed

_CHUNK = 1 << 20


def digest_of(
    files: Sequence[Path], settings: Mapping[str, object], samples: Sequence[Sample]
) -> str:
    """Returns a digest of all that a run's result depends on.

    Args:
        files: of the model.
        settings: config, method and options, whose texts tell all about them.
        samples: each {input name: array}, or a sequence of such.

    Raises:
        OSError: a file is gone.
    """
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    for file in files:
        digest.update(repr((file.name, file.stat().st_size)).encode())
        with file.open("rb") as content:
            while chunk := content.read(_CHUNK):
                digest.update(chunk)
    for sample in samples:
        steps = listed(sample)
        if steps is sample:
            digest.update(repr(("steps", len(steps))).encode())
        for step in steps:
            if function := function_of(step):
                digest.update(repr(("function", function)).encode())
            for name in sorted(step, key=str):
                try:
                    array = np.ascontiguousarray(host(step[name]))
                except UNREADABLE:  # which is told where it is read
                    continue
                digest.update(repr((name, array.shape, array.dtype.str)).encode())
                digest.update(array.tobytes())
    return digest.hexdigest()
