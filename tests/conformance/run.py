"""Runs coremltools' own op tests on mlpass.

    python tests/conformance/run.py -n 2                  all of them, on numpy and torch: an hour
    python tests/conformance/run.py iOS14/test_conv.py    one file
    python tests/conformance/run.py --sample              the sample that runs by default

With MLPASS_CONFORMANCE_RAISE=1 in the environment every model is also raised to all newer opsets,
and run again. Further arguments go to pytest; `-n` needs pytest-xdist.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
SAMPLE = HERE / "sample.txt"


def tests_root() -> Path:
    """Returns where coremltools' op tests are."""
    spec = find_spec("coremltools")
    if spec is None or spec.origin is None:
        raise SystemExit("coremltools is not installed")
    return Path(spec.origin).parent / "converters/mil/mil/ops/tests"


def run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs pytest over coremltools' op tests; paths are below their root."""
    root = tests_root()
    settings = {
        "PYMIL_TEST_TARGETS": "mlprogram",
        "INCLUDE_MIL_FP32_UNIT_TESTS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(
            [str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
        ),
        **environment,
    }
    paths = [item for item in arguments if _is_path(item, root)]
    options = [item for item in arguments if item not in paths]
    command = [sys.executable, "-m", "pytest", "-c", str(HERE / "conformance.ini")]
    command += ["--rootdir", str(root), "-p", "redirect", *options, *(paths or ["."])]
    return subprocess.run(command, cwd=root, env={**os.environ, **settings}, text=True)


def _is_path(argument: str, root: Path) -> bool:
    """Returns whether an argument says which tests: a path below the root, or a file of them."""
    return argument.startswith("@") or (root / argument.split("::")[0]).exists()


def main() -> int:
    """Returns pytest's exit code."""
    arguments = sys.argv[1:]
    if "--sample" in arguments:
        arguments.remove("--sample")
        arguments.append(f"@{SAMPLE}")
    return run(arguments).returncode


if __name__ == "__main__":
    sys.exit(main())
