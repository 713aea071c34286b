"""BLAS held to one thread: from any thread, nested and concurrent, and read back."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_info, threadpool_limits

from mlpass import blas
from mlpass.blas import hold_here, one_blas_thread
from mlpass.parallel import map_items


def blas_threads():
    np.zeros((2, 2)) @ np.zeros((2, 2))
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def elsewhere(work):
    """Returns what `work()` gives in a thread of its own, which ends."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(timeout=60)


def held():
    with one_blas_thread():
        return blas_threads()


@pytest.fixture
def two_threads():
    """BLAS has two threads outside, and no thread's claim is left from other tests."""
    with threadpool_limits(limits=2, user_api="blas"):
        for library in ThreadpoolController().select(user_api="blas").lib_controllers:
            blas._set_threads(library, 2)
        assert blas_threads() == {2}
        yield


def test_blas_gets_its_threads_back_from_the_last_who_held_it(two_threads):
    with one_blas_thread():
        assert blas_threads() == {1}
        with one_blas_thread():
            assert blas_threads() == {1}
        assert blas_threads() == {1}
    assert blas_threads() == {2}
    with pytest.raises(KeyError), one_blas_thread():
        raise KeyError
    assert blas_threads() == {2}


def test_another_thread_that_set_it_first_and_lives_stands_in_nobodys_way():
    stop, claimed = threading.Event(), threading.Event()

    def claim():
        ThreadpoolController().limit(limits=2, user_api="blas")  # and never leaves
        claimed.set()
        stop.wait(timeout=60)

    living = threading.Thread(target=claim)
    living.start()
    try:
        assert claimed.wait(timeout=60)
        assert held() == {1}
        assert elsewhere(held) == {1}
        assert blas_threads() == {2}
    finally:
        stop.set()
        living.join()


def test_the_first_to_hold_may_leave_first(two_threads):
    entered, leave = threading.Event(), threading.Event()

    def second():
        with one_blas_thread():
            entered.set()
            leave.wait(timeout=60)
            return blas_threads()

    with ThreadPoolExecutor(1) as pool:
        with one_blas_thread():
            waits = pool.submit(second)
            assert entered.wait(timeout=60)
        assert blas_threads() == {1}
        leave.set()
        assert waits.result(timeout=60) == {1}
        assert blas_threads() == {2}


def test_many_threads_at_once_nested_and_not(two_threads):
    def work(seed):
        draw = random.Random(seed)
        found = set()
        for _ in range(30):
            with one_blas_thread():
                found |= blas_threads()
                if draw.random() < 0.5:
                    found |= held()
        return found

    with ThreadPoolExecutor(7) as pool:
        assert list(pool.map(work, range(14))) == [{1}] * 14
    assert blas_threads() == {2}


def product_bytes():
    left = np.random.default_rng(0).standard_normal((300, 700)).astype(np.float32)
    with one_blas_thread():
        return (left @ left.T).tobytes()


def test_a_product_has_the_same_bytes_in_every_thread(two_threads):
    wanted = product_bytes()
    assert elsewhere(product_bytes) == wanted
    with ThreadPoolExecutor(3) as pool:
        assert {pool.submit(product_bytes).result() for _ in range(9)} == {wanted}


@dataclass
class Library:
    """A stand-in for threadpoolctl's controller of one library."""

    obeys: bool = True
    threading_layer: str = "pthreads"
    internal_api: str = "openblas"
    filepath: str = "/lib/planted.so"

    def __post_init__(self):
        self.process = 4
        self.by_thread = threading.local()

    @property
    def num_threads(self):
        if self.threading_layer == "openmp":
            return getattr(self.by_thread, "threads", 4)
        return self.process

    def set_num_threads(self, threads):
        if not self.obeys:
            return
        self.by_thread.threads = threads
        self.process = threads


@pytest.fixture
def planted(monkeypatch):
    """A function that puts libraries in the place of those that are loaded."""
    monkeypatch.setattr(blas, "_held", blas._Held())

    def plant(*libraries):
        monkeypatch.setattr(blas, "_loaded_libraries", lambda: list(libraries))
        return libraries

    return plant


def test_a_library_that_ignores_the_limit_is_named_once(planted, recwarn):
    planted(Library(obeys=False))
    with pytest.warns(RuntimeWarning, match=r"openblas \(/lib/planted.so\) runs 4 threads, though"):
        held()
    recwarn.clear()
    held()
    assert not recwarn


def test_a_warning_that_is_made_an_error_leaves_nothing_held(planted):
    planted(Library(obeys=False))
    with pytest.raises(RuntimeWarning, match="the same input may give other last bits"):
        held()
    assert blas._held.holders == 0


def test_a_limit_that_somebody_lifts_meanwhile_is_noticed(planted):
    (library,) = planted(Library())
    with pytest.warns(RuntimeWarning, match="runs 3 threads"), one_blas_thread():
        library.set_num_threads(3)
    assert library.num_threads == 4


def test_a_blas_that_threadpoolctl_does_not_see_is_named(planted, monkeypatch):
    planted()
    config = {"Build Dependencies": {"blas": {"name": "accelerate"}}}
    monkeypatch.setattr(np, "show_config", lambda mode: config)
    with pytest.warns(RuntimeWarning, match=r"numpy's BLAS \(accelerate\) is not known"):
        held()


def test_mkl_promises_its_bits_with_its_own_variable_alone(planted, monkeypatch, recwarn):
    planted(Library(internal_api="mkl"))
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    held()
    assert not recwarn
    monkeypatch.delenv("MKL_CBWR")
    with pytest.warns(RuntimeWarning, match="set MKL_CBWR=COMPATIBLE"):
        held()


def test_a_library_that_counts_by_thread_is_held_in_jobs_too(planted, monkeypatch):
    monkeypatch.setenv("MLPASS_THREADS", "2")
    (library,) = planted(Library(threading_layer="openmp"))

    def seen(_):
        return library.num_threads

    with one_blas_thread():
        assert map_items(seen, range(8)) == [1] * 8
        assert elsewhere(lambda: library.num_threads) == 4  # no job of ours
    assert map_items(seen, range(8)) == [4] * 8
    assert library.num_threads == 4
    hold_here()
    assert library.num_threads == 4


class Counted(Library):
    """One that counts how often it is asked."""

    asked = 0

    @property
    def num_threads(self):
        self.asked += 1
        return super().num_threads


def test_a_worker_asks_a_library_once_in_a_hold_however_many_jobs_it_has(planted, monkeypatch):
    monkeypatch.setenv("MLPASS_THREADS", "2")
    (library,) = planted(Counted(threading_layer="openmp"))

    def seen(_):
        return library.by_thread.threads

    for hold in range(1, 4):
        with one_blas_thread():
            assert map_items(seen, range(200)) == [1] * 200
            assert map_items(seen, range(200)) == [1] * 200
        assert library.asked <= hold * (3 + 2 * 3)  # once to know it, and to read it back twice


def test_a_limit_that_a_job_lifts_is_noticed_in_the_next_hold(planted, monkeypatch, recwarn):
    monkeypatch.setenv("MLPASS_THREADS", "2")
    (library,) = planted(Library(threading_layer="openmp"))

    def in_both(work):
        both = threading.Barrier(2, timeout=60)
        return map_items(lambda _: (both.wait(), work())[1], range(2))

    with one_blas_thread():
        in_both(lambda: library.set_num_threads(3))
    assert not recwarn
    with pytest.warns(RuntimeWarning, match="runs 3 threads"), one_blas_thread():
        assert in_both(lambda: library.num_threads) == [1, 1]
    assert in_both(lambda: library.num_threads) == [4, 4]


def test_a_blas_that_is_imported_between_two_holds_is_held_in_the_second():
    pytest.importorskip("scipy")
    script = """
from threadpoolctl import threadpool_info

from mlpass.blas import one_blas_thread


def threads():
    with one_blas_thread():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


before = threads()
import scipy.linalg
print(before, threads())
"""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", script],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() in ("[1] [1, 1]", "[1] [1]")  # scipy may share numpy's


def test_all_of_what_is_loaded_is_seen():
    pytest.importorskip("scipy.linalg")
    loaded = {library.filepath for library in blas._loaded_libraries()}
    assert loaded == {pool["filepath"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    assert loaded or sys.platform == "darwin"


def test_a_library_that_refuses_leaves_nothing_held(planted, monkeypatch):
    first, second = planted(Library(), Library(filepath="/lib/other.so"))

    def refuse(threads):
        raise KeyboardInterrupt

    monkeypatch.setattr(second, "set_num_threads", refuse)
    with pytest.raises(KeyboardInterrupt):
        held()
    assert blas._held.holders == 0
    assert first.process == 4


FORKED = """
import os, signal, threading
from mlpass import blas
from mlpass.parallel import map_items
def work():
    with blas.one_blas_thread():
        return sum(map_items(lambda item: item * item, range(50)))
wanted = work()
locked, go_on = threading.Event(), threading.Event()
def hold():
    with blas._held.lock:
        locked.set()
        go_on.wait(60)
other = threading.Thread(target=hold)
other.start()
locked.wait(60)
child = os.fork()
if child == 0:
    signal.alarm(60)
    os._exit(int(work() != wanted))
go_on.set()
other.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_fork_has_threads_of_its_own_and_waits_for_none_of_its_parents():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED],
        env={**os.environ, "MLPASS_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
