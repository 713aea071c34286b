"""The same bytes on any number of threads, of ours and of BLAS."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlpass.blas import one_blas_thread
from mlpass.solvers.accumulate import accumulate
from mlpass.solvers.admm import ADMM
from mlpass.solvers.allocate import error_curve
from mlpass.solvers.solve import solve
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.sparsity.modes import NM, Block, Channel, Percentile
from mlpass.storage.palette import Palette
from mlpass.storage.quantized import Quantized
from mlpass.weights.ops.convolutions import conv_layout

from .layers import METHODS, layer, stored

ROOT = Path(__file__).parents[2]


def digest(*results):
    """Returns a hash of all arrays and numbers, those of mappings too."""
    content = hashlib.sha256()
    for result in results:
        if isinstance(result, dict):  # whose text would leave most of an array out
            result = digest(*result, *result.values())
        content.update(
            result.tobytes() if isinstance(result, np.ndarray) else repr(result).encode()
        )
    return content.hexdigest()


@one_blas_thread()
def inputs_for_all():
    """Returns what to solve; made with one thread, since it must not differ itself."""
    grouped = conv_layout((64, 20, 3, 3), 2)
    return layer(520, 600, samples=1100), layer(300, 400), grouped, stored(grouped)


def digests():
    """Yields the name and hash of one solve after the other, large enough for many jobs."""
    (weight, inputs), smaller, grouped, convolution = inputs_for_all()
    gram = accumulate(None, inputs)
    yield "gram", digest(gram)
    for method in METHODS:
        for mode in (Percentile(0.5), NM(2, 4), Block(0.5, 4), Channel(0.3)):
            found = solve(weight, gram, mode, method=method, error_before=True)
            yield f"{method} {mode}", digest(*vars(found).values())
    for method in (SparseGPT(), ADMM()):
        found = solve(weight, gram, NM(2, 4), storage=Quantized("int4"), method=method)
        yield f"quantized {method}", digest(*vars(found).values())
        found = solve(weight, gram, Percentile(0.5), storage=Palette(), method=method)
        yield f"palettized {method}", digest(*vars(found).values())
    weight, gram = convolution
    for method in METHODS:
        found = solve(weight, gram, Percentile(0.5), method=method, layout=grouped)
        yield f"grouped {method}", digest(*vars(found).values())
    weight, inputs = smaller
    curve = error_curve(weight, accumulate(None, inputs), [0.3, 0.6], method=SparseGPT())
    yield "curve", digest(*curve.errors)


def run(threads, blas):
    """Returns what another process, with these threads, prints."""
    environment = {
        **os.environ,
        "MLPASS_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(blas),
        "MKL_NUM_THREADS": str(blas),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.solvers.test_threads"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_bytes():
    wanted = run(1, 1)
    assert len(wanted) == len(METHODS) * 5 + 6
    for threads, blas in ((2, 2), (3, 3), (7, 7), (1, 3), (7, 1)):
        assert run(threads, blas) == wanted


def test_the_digest_of_another_bit_is_another():
    one = np.ones(3, np.float32)
    assert digest(one, 0.1) == digest(one.copy(), 0.1)
    assert digest(one, 0.1) != digest(np.nextafter(one, np.float32(2)), 0.1)
    assert digest(one, 0.1) != digest(one, np.nextafter(0.1, 1))
    many = np.ones(5000, np.float32)
    other = many.copy()
    other[2500] = np.nextafter(np.float32(1), np.float32(2))
    assert digest({"codes": many}) == digest({"codes": many.copy()}) != digest({"codes": other})


if __name__ == "__main__":
    for name, value in digests():
        print(value, name)
