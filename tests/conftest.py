"""What all tests share: the fixtures' paths, and a guard for the noise of coremltools off macOS."""

from __future__ import annotations

import gc
import logging
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Machines differ in speed, and a failure must be one that anybody can see again.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

# What a shell starts in the background does not hear Ctrl-C, nor does what that starts.
_here = threading.current_thread() is threading.main_thread()
if _here and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    told = "of the cases of each test, run the first of every N (by default: all)"
    parser.addoption("--every", type=int, default=1, metavar="N", help=told)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    seen: Counter[str] = Counter()
    alike: Counter[tuple[str, bool]] = Counter()  # what is slow is counted apart
    kept, left_out = [], []
    for item in items:
        test = item.nodeid.partition("[")[0]
        mark = item.get_closest_marker("slow_but_every")
        if mark is not None and seen[test] % mark.args[0]:
            item.add_marker("slow")
        seen[test] += 1
        kind = test, item.get_closest_marker("slow") is not None
        (left_out if alike[kind] % config.getoption("every") else kept).append(item)
        alike[kind] += 1
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def pytest_collection_finish() -> None:
    """Spares the collector of cycles all modules and tests, which stay.

    coremltools collects at each conversion: going through them takes far longer than a small model.
    """
    gc.collect()
    gc.freeze()


FIXTURES = Path(__file__).parents[1] / "fixtures"
PACKAGES = sorted(path.name for path in FIXTURES.glob("*.mlpackage"))


@pytest.fixture(autouse=True, scope="session")
def _quiet_coremltools() -> None:
    logging.getLogger("coremltools").setLevel(logging.ERROR)


@pytest.fixture(autouse=True)
def _signals_stay() -> Iterator[None]:
    """Fails a test that leaves signals other than they were, which what is started inherits."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.fixture
def fixtures() -> Path:
    """The directory with the model packages."""
    return FIXTURES


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> Path:
    """Each fixture package in turn."""
    return FIXTURES / str(request.param)
