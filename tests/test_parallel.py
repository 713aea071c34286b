"""Jobs on all cores: their order and their nesting."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlpass.errors import ConfigError
from mlpass.parallel import begin, map_ahead, map_items, map_slabs, one_ahead, thread_count


@pytest.mark.parametrize("threads", ["1", "2", "4"])
def test_results_come_in_the_order_of_the_items(threads, monkeypatch):
    monkeypatch.setenv("MLPASS_THREADS", threads)
    assert thread_count() == int(threads)
    assert map_items(lambda item: item * item, range(50)) == [n * n for n in range(50)]
    assert map_items(str, []) == []


@pytest.mark.parametrize("threads", ["0", "-1", "x", "1.5", "\u00b2", "\uff11", "1025", "9" * 5000])
def test_what_is_not_a_number_of_threads_is_told(threads, monkeypatch):
    monkeypatch.setenv("MLPASS_THREADS", threads)
    with pytest.raises(
        ConfigError, match="^MLPASS_THREADS: must be a number of threads, 1 to 1024"
    ):
        thread_count()


@pytest.mark.parametrize("unset", ["", " "])
def test_without_a_number_there_is_a_thread_for_each_core(unset, monkeypatch):
    monkeypatch.setenv("MLPASS_THREADS", unset)
    assert thread_count() == os.cpu_count()


@pytest.mark.parametrize("threads", ["1", "2", "4"])
def test_results_that_are_yielded_come_in_order_and_few_wait(threads, monkeypatch):
    monkeypatch.setenv("MLPASS_THREADS", threads)
    begun, taken, most = [], 0, 0

    def work(item):
        begun.append(item)
        return item * item

    for result in map_ahead(work, range(200)):
        assert result == taken * taken
        taken += 1
        most = max(most, len(begun) - taken)
    assert taken == 200
    assert most <= 5 * int(threads)
    assert list(map_ahead(work, [])) == []


def test_what_is_not_taken_any_more_is_not_worked_out(monkeypatch):
    monkeypatch.setenv("MLPASS_THREADS", "2")
    begun = []
    results = map_ahead(begun.append, range(200))
    next(results)
    results.close()
    assert len(begun) <= 20
    with pytest.raises(ZeroDivisionError):
        list(map_ahead(lambda item: 1 // item, [1, 0, 1]))


def test_jobs_within_jobs_do_not_wait_for_their_own_pool(monkeypatch):
    monkeypatch.setenv("MLPASS_THREADS", "2")
    monkeypatch.setattr("mlpass.parallel.SLAB", 10)

    def outer(number):
        return sum(map_slabs(lambda start, stop: number * (stop - start), 100))

    found = []
    work = threading.Thread(target=lambda: found.append(map_items(outer, range(8))), daemon=True)
    work.start()
    work.join(timeout=60)
    assert found == [[100 * number for number in range(8)]]


def test_an_error_in_a_job_is_the_callers(monkeypatch):
    monkeypatch.setenv("MLPASS_THREADS", "2")
    with pytest.raises(ZeroDivisionError):
        map_items(lambda item: 1 // item, [1, 0, 1])


@pytest.mark.parametrize("threads", [1, 2])
def test_one_item_ahead_comes_in_order_and_no_more_than_one(threads, monkeypatch):
    monkeypatch.setenv("MLPASS_THREADS", str(threads))
    made, begun = [], threading.Event()

    def items():
        for number in range(5):
            made.append(number)
            if number:
                begun.set()
            yield number

    found = one_ahead(items())
    first = next(found)
    if threads > 1:
        assert begun.wait(10)  # while the caller has the first
    assert (first, len(made)) == (0, threads)
    assert [*found] == [1, 2, 3, 4]
    assert made == [0, 1, 2, 3, 4]


def test_one_item_ahead_is_waited_for_when_nothing_more_is_taken(monkeypatch):
    monkeypatch.setenv("MLPASS_THREADS", "2")
    begun, may_end, ended = threading.Event(), threading.Event(), []

    def items():
        try:
            yield 0
            begun.set()
            may_end.wait(10)
            yield 1
        finally:
            ended.append(True)

    source = items()
    found = one_ahead(source)
    assert next(found) == 0
    assert begun.wait(10)
    threading.Timer(0.05, may_end.set).start()
    found.close()
    source.close()  # which would fail while it runs
    assert ended == [True]


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_of_an_item_ahead_comes_in_its_turn(threads, monkeypatch):
    monkeypatch.setenv("MLPASS_THREADS", str(threads))

    def items():
        yield 0
        raise ConfigError("broken")

    found = one_ahead(items())
    assert next(found) == 0
    with pytest.raises(ConfigError, match="broken"):
        next(found)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_what_was_begun_is_waited_for_and_its_error_is_the_callers(threads, monkeypatch):
    monkeypatch.setenv("MLPASS_THREADS", threads)
    assert begin(lambda: 6 * 7)() == 42
    with pytest.raises(ZeroDivisionError):
        begin(lambda: 1 // 0)()


def test_what_is_begun_runs_beside_its_caller_unless_that_is_a_job(monkeypatch):
    monkeypatch.setenv("MLPASS_THREADS", "2")
    started = threading.Event()
    waits = begin(started.set)
    assert started.wait(timeout=60)  # though nobody waited yet
    waits()

    def within(_):
        place = begin(threading.current_thread)
        return place() is threading.current_thread()

    assert map_items(within, range(4)) == [True] * 4


LIMITED = """
import resource, sys
from mlpass import parallel
from mlpass.blas import one_blas_thread
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (int(sys.argv[1]) << 20),) * 2)
print(parallel.thread_count(), parallel.map_items(lambda item: item * item, range(5)))
try:
    with one_blas_thread():
        print("room")
except MemoryError as error:
    print(error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("megabytes", "threads", "said"),
    [
        (2000, 3, "room"),
        (200, 1, "room"),
        (20, 1, "too little address space for BLAS: raise the limit (ulimit -v)"),
    ],
)
def test_what_the_address_space_has_no_room_for_is_not_begun(megabytes, threads, said):
    """OpenBLAS asks for its memory again and again, for ever, where it is not given any."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(megabytes)],
        env={**os.environ, "MLPASS_THREADS": "3"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines() == [f"{threads} [0, 1, 4, 9, 16]", said]
