"""One calibrated run on several workers: the same bytes, whoever dies."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.connection import Listener

import numpy as np
import pytest

import mlpass
from mlpass import ConfigError, ExecutionError, Percentile
from mlpass.calibrate import cluster, wire
from mlpass.calibrate.wire import serve
from tests.calibrate.layers import samples
from tests.program.packages import tree

COUNT = 72  # samples: four cohorts


@pytest.fixture
def alone(mlp, tmp_path):
    """Returns what one process makes of it."""

    def made(**options):
        out = tmp_path / "alone.mlpackage"
        mlpass.prune(mlp, out, Percentile(0.5), sample_data=samples(COUNT), force=True, **options)
        return tree(out)

    return made


def divided(mlp, tmp_path, executor, **options):
    out = tmp_path / "divided.mlpackage"
    mlpass.prune(
        mlp,
        out,
        Percentile(0.5),
        sample_data=samples(COUNT),
        executor=executor,
        force=True,
        **options,
    )
    return tree(out)


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize("options", [{}, {"target": "own"}], ids=str)
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_same_bytes_on_any_number_of_workers(mlp, tmp_path, alone, workers, options):
    with ThreadPoolExecutor(workers) as executor:
        assert divided(mlp, tmp_path, executor, **options) == alone(**options)


def test_the_sums_are_those_of_all_samples(mlp, tmp_path):
    """Order aside: a run that is cut into no cohorts differs in the last digits alone."""
    out = tmp_path / "out.mlpackage"
    given = samples(COUNT)
    with ThreadPoolExecutor(2) as executor:
        report = mlpass.prune(mlp, out, Percentile(0.5), sample_data=given, executor=executor)
    assert [layer.samples for layer in report.layers] == [COUNT] * 3
    assert [layer.tokens for layer in report.layers] == [COUNT * 8] * 3


class Dying(Executor):
    """Threads, some of which lose their connection as they send."""

    def __init__(self, monkeypatch, deaths, at=4):
        self.pool, self.left, self.begun = ThreadPoolExecutor(8), deaths, 0
        send = wire.Wire.send

        def cut(one, message):
            ours = threading.current_thread().name.startswith("ThreadPool")
            if self.left and ours and not isinstance(message, int):  # which says who it is
                counts = vars(one).setdefault("counts", [])
                counts.append(1)
                if len(counts) == at:
                    self.left -= 1
                    one.close()
                    raise OSError("it died")
            return send(one, message)

        monkeypatch.setattr(wire.Wire, "send", cut)
        self._max_workers = 2

    def submit(self, *given, **named) -> Future:
        self.begun += 1
        return self.pool.submit(*given, **named)


@pytest.mark.parametrize("deaths", [1, 3])
def test_a_worker_that_dies_is_followed_by_another(mlp, tmp_path, alone, monkeypatch, deaths):
    executor = Dying(monkeypatch, deaths)
    assert divided(mlp, tmp_path, executor) == alone()
    assert executor.begun == 2 + deaths
    executor.pool.shutdown()


def test_workers_that_always_die_are_an_error(mlp, tmp_path, monkeypatch):
    executor = Dying(monkeypatch, 99, at=1)
    with pytest.raises(ExecutionError, match="3 workers died at the same samples"):
        divided(mlp, tmp_path, executor)
    executor.pool.shutdown()


class LikeDask(ThreadPoolExecutor):
    """Calls are known by their arguments: equal ones run once."""

    def __init__(self):
        super().__init__(4)
        self.known = {}

    def submit(self, *given) -> Future:
        if given not in self.known:
            self.known[given] = super().submit(*given)
        return self.known[given]


def test_each_call_is_one_of_its_own():
    with LikeDask() as executor, cluster._opened(executor, 3, wire.Moved()) as (_, wires):
        assert len(wires) == len(executor.known) == 3


def test_a_call_that_is_run_again_ends_at_once():
    """As dask does when a worker dies, while another call follows it here."""
    with LikeDask() as executor, cluster._opened(executor, 1, wire.Moved()) as (team, _):
        again = ThreadPoolExecutor(1).submit(*next(iter(executor.known)))
        assert again.result(timeout=30) is None
        assert team._came.empty()


def test_the_end_does_not_wait_for_an_answer(monkeypatch):
    """What accepts workers may have ended already, having seen that all is over."""
    monkeypatch.setattr(cluster._Team, "_accept", lambda team: None)
    with ThreadPoolExecutor(1) as executor, Listener(("127.0.0.1", 0), authkey=b"key") as listener:
        team = cluster._Team(executor, listener, b"key", wire.Moved())
        closing = threading.Thread(target=team.close, daemon=True)
        closing.start()
        closing.join(10)
        assert not closing.is_alive()


def test_a_worker_that_comes_at_the_end_is_let_go(monkeypatch):
    begin = wire.Wire.__init__

    def ending(one, connection):
        begin(one, connection)
        if threading.current_thread().name == "accepting":
            team._over.set()

    monkeypatch.setattr(wire.Wire, "__init__", ending)
    with ThreadPoolExecutor(1) as executor, Listener(("127.0.0.1", 0), authkey=b"key") as listener:
        accept = cluster._Team._accept
        monkeypatch.setattr(cluster._Team, "_accept", lambda team: None)
        team = cluster._Team(executor, listener, b"key", wire.Moved())
        threading.Thread(target=accept, args=(team,), name="accepting", daemon=True).start()
        assert executor.submit(wire.serve, listener.address, b"key", 1).result(timeout=30) is None
        assert team._came.empty()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:executor")
def test_processes_and_a_pool_that_breaks(mlp, tmp_path, alone, monkeypatch):
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context) as executor:
        assert divided(mlp, tmp_path, executor) == alone()
    receive, killed = wire.Wire.receive, []
    with ProcessPoolExecutor(2, context) as executor:

        def killing(one):
            found = receive(one)
            if isinstance(found[0], list) and not killed:
                killed.extend(executor._processes)
                os.kill(killed[0], 9)
            return found

        monkeypatch.setattr(wire.Wire, "receive", killing)
        assert divided(mlp, tmp_path, executor) == alone()
    assert killed


def test_without_a_worker_it_says_so(mlp, tmp_path):
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(ExecutionError, match="no worker began .*cannot schedule new futures"):
        divided(mlp, tmp_path, executor)


def test_an_error_of_a_worker_is_told_as_here(mlp, tmp_path):
    given = [*samples(COUNT)]
    given[40] = {"x": np.full_like(given[40]["x"], np.nan)}
    told = []
    for executor in (None, ThreadPoolExecutor(2)):
        with pytest.raises(mlpass.CalibrationError, match="sample 40") as error:
            mlpass.prune(
                mlp, tmp_path / "o.mlpackage", Percentile(0.5), sample_data=given, executor=executor
            )
        told.append(str(error.value))
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"backend": "torch"}, "executor: goes with backend='numpy' alone. Got 'torch'."),
        ({"executor": 3}, "executor: must be a concurrent.futures.Executor.* Got 3."),
        ({"sample_data": None}, "executor: divides samples among workers; needs sample_data"),
        ({"tune": mlpass.Regions()}, "tune: trains in one process"),
    ],
)
def test_what_it_does_not_go_with_is_told(mlp, tmp_path, options, text):
    options = {"sample_data": samples(8), "executor": ThreadPoolExecutor(1), **options}
    with pytest.raises(ConfigError, match=text):
        mlpass.prune(mlp, tmp_path / "out.mlpackage", Percentile(0.5), **options)


def test_a_program_is_refused(mlp):
    from mlpass.calibrate.calibration import make_calibration

    executor = ThreadPoolExecutor(1)
    calibration = make_calibration(None, samples(8), executor=executor)
    with pytest.raises(ConfigError, match="workers are sent an .mlpackage"):
        next(cluster.walk_divided(object(), [], calibration, lambda site: False))


def test_who_comes_late_finds_nobody():
    begun = time.monotonic()
    serve(("127.0.0.1", 1), b"key", 1)
    assert time.monotonic() - begun < 60
