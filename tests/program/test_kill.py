"""`kill -9` at any moment: the source is untouched, the target absent, the old one, or whole."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mlpass import NM, ModelFormatError, Percentile, prune
from mlpass.program.mlpackage import Package
from mlpass.program.reads import constants_of
from mlpass.weights.reading import weight_of
from mlpass.weights.sites import find_sites
from tests.program.packages import linear_stack, tree

pytestmark = pytest.mark.slow

POINTS = 50  # for each test
# Imports once, then prunes in a fork for each line, so that the kill falls into the run itself.
PRUNER = """
import os, signal, sys, time
from mlpass import NM, prune
source, target = sys.argv[1:]
print("ready", flush=True)
for line in sys.stdin:
    seconds = float(line)
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        try:
            prune(source, target, NM(2, 4), force=True)
        finally:
            os._exit(os.EX_OK if sys.exc_info()[0] is None else os.EX_SOFTWARE)
    if seconds >= 0:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, time.perf_counter() - started, flush=True)
"""


class Pruner:
    """Prunes one package to one target, in processes that it kills."""

    def __init__(self, source: Path, target: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PRUNER, str(source), str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == "ready\n"

    def __enter__(self) -> Pruner:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        assert self._process.returncode == 0

    def run(self, seconds: float = -1) -> tuple[int, float]:
        """Returns exit status and duration of a run, killed after `seconds` unless negative."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        status, duration = self._read().split()
        return int(status), float(duration)

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that takes about 0.3 seconds to prune."""
    return linear_stack(tmp_path_factory.mktemp("kill") / "stack.mlpackage", 12, 1024)


@pytest.fixture(scope="module")
def expected(stack: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of what the run writes when it is left alone."""
    output = tmp_path_factory.mktemp("whole") / "out.mlpackage"
    prune(stack, output, NM(2, 4))
    return tree(output)


def check_whole(package: Path) -> None:
    """Asserts that a package opens, and that every blob and every weight can be read."""
    with Package(package) as opened:
        for program in opened.programs:
            for function in program.functions.values():
                for op in function.block.walk():
                    for constant in constants_of(op):
                        constant.load()
        assert all(weight_of(site).shape == site.shape for site in find_sites(opened.programs))


@pytest.mark.parametrize("force", [False, True], ids=["new", "over an old one"])
def test_a_killed_run_loses_nothing(
    force: bool, stack: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    target, kept = tmp_path / "out.mlpackage", tmp_path / "kept.mlpackage"
    prune(stack, kept, Percentile(0.9))
    source, old = tree(stack), tree(kept)
    generator = random.Random(f"kill {force}")
    outcomes: Counter[str] = Counter()
    with Pruner(stack, target) as pruner:
        status, duration = pruner.run()
        assert (status, tree(target)) == (0, expected)
        for _ in range(POINTS):
            shutil.rmtree(target, ignore_errors=True)
            if force:
                shutil.copytree(kept, target)
            status, _ = pruner.run(generator.uniform(0, 1.1 * duration))

            assert status in (0, -signal.SIGKILL)
            assert tree(stack) == source
            if target.exists():
                found = tree(target)
                assert found == expected if status == 0 else found in (old, expected)
                check_whole(target)
                outcomes["new" if found == expected else "old"] += 1
            else:
                outcomes["absent"] += 1
            outcomes["killed"] += status != 0
            for partial in tmp_path.glob(".out.mlpackage.*"):
                shutil.rmtree(partial)
    assert outcomes["killed"] > POINTS // 4
    assert outcomes["old" if force else "absent"] > 0
    assert outcomes["absent" if force else "old"] == 0


def test_the_check_for_wholeness_can_fail(stack: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(stack, tmp_path / "broken.mlpackage"))
    check_whole(broken)
    weights = next(broken.rglob("weight.bin"))
    os.truncate(weights, weights.stat().st_size - 1)
    with pytest.raises(ModelFormatError, match="is it truncated"):
        check_whole(broken)
