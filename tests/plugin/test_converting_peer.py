"""coremltools' own tests pass in a process in which its conversions were pruned before.

Its wheel ships them. Those of passes and of what conversion is made of run on Linux, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONVERTERS = Path(find_spec("coremltools").origin).parent / "converters" / "mil"

THEIRS = [
    "mil/passes/tests/test_pass_pipeline.py",
    "mil/passes/tests/test_cleanup_passes.py",
    "mil/passes/tests/test_state_passes.py",
    "mil/passes/tests/test_symbol_transform.py",
    "mil/tests/test_block.py",
    "backend/mil/passes/test_passes.py",
]
# It patches a module by the name of a function in it, which only their own `mock` allows.
NOT = (
    "mil/passes/tests/test_cleanup_passes.py::TestConstElimination::"
    "test_const_elimination_larger_than_threshold"
)

SCRIPT = """
import sys, threading
from unittest import mock

sys.modules["mock"] = mock  # of which coremltools' tests take no more than `patch`

import pytest
from coremltools import PassPipeline
from coremltools.converters.mil import converter
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

import mlpass
import mlpass.plugin
from tests.plugin.test_converting import export, sparsity

def state():
    pipelines = {name: list(PassPipeline.get_pipeline(name).passes)
                 for name in ("default", "empty", "cleanup", "default_palettization")}
    return dict(PASS_REGISTRY.passes), pipelines, vars(converter).copy()

before = state()

with mlpass.converting(mlpass.Percentile(0.25)):
    with mlpass.converting(mlpass.Percentile(0.75)):
        assert sparsity(export()) == 0.75
    assert sparsity(export()) == 0.25

def in_a_thread(share, failing):
    try:
        with mlpass.converting(mlpass.Percentile(share)):
            found.append(sparsity(export()) == share)
            if failing:
                raise ZeroDivisionError
    except ZeroDivisionError:
        found.append(True)

found = []
threads = [threading.Thread(target=in_a_thread, args=(n / 8, n % 2)) for n in range(2, 6)]
for one in threads:
    one.start()
for one in threads:
    one.join()
assert found == [True] * 6, found

try:
    with mlpass.converting(mlpass.Percentile(0.5)), mlpass.converting(mlpass.NM(2, 4)):
        converter.mil_convert("nothing", "nowhere", "mlprogram", None)
except NotImplementedError:
    pass
else:
    raise AssertionError("it was to fail")
try:
    with mlpass.converting({"op_name_configs": {"nowhere": {"target_sparsity": 0.5}}}):
        export()
except mlpass.ConfigError:
    pass
else:
    raise AssertionError("it was to fail")

after = state()
assert before[0].keys() == after[0].keys() and before[1] == after[1]
assert all(after[0][name] is each for name, each in before[0].items())
assert all(after[2][name] is each for name, each in before[2].items())
assert sparsity(export()) == 0

sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_coremltools_own_tests_pass_in_the_same_process():
    settings = ["-c", str(ROOT / "tests/conformance/conformance.ini"), "--rootdir", str(CONVERTERS)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, *settings, "--deselect", NOT, *THEIRS],
        cwd=CONVERTERS,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    passed = int(done.stdout.split(" passed")[0].split()[-1])
    assert passed > 100, done.stdout[-300:]
