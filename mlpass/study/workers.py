"""Where trials run: on any executor; by default in processes, where that pays."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from mlpass.errors import ConfigError, ExecutionError, SampleWarning
from mlpass.parallel import thread_count

Result = TypeVar("Result")

_WORTH = 4  # jobs from which on starting processes costs less than it saves
_DEAD = "where an evaluate of yours crashes, let it run the model in a process that it starts"
_UNGUARDED = "in a script, put the call under `if __name__ == '__main__':`, or pass an executor"


@contextmanager
def open_executor(
    executor: Executor | None,
    jobs: int,
    task: object,
    limit: int | None = None,
    folder: Path | None = None,
) -> Iterator[Executor | None]:
    """Yields the user's executor; or one of processes; or None, where jobs run here, one by one.

    Processes of our own end with an exception, whatever they are doing, and with this process.

    Args:
        executor: the user's own; it stays open.
        jobs: how many there are.
        task: what they need; where it cannot be sent to another process, they run here.
        limit: how many processes to start at most; None is one a core.
        folder: where their temporary files go, which then go with it.

    Raises:
        ExecutionError: this is a worker process that has not begun yet.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ExecutionError(
            f"this process is a worker that has just begun: {_UNGUARDED}"
        )  # a worker that imports the script that started it
    if executor is not None:
        yield executor
        return
    cores = thread_count()
    workers = min(cores if limit is None else limit, jobs)
    if workers < 2 or jobs < _WORTH or not _can_be_sent(task):
        yield None
        return
    # Not forked: threads of BLAS and of our own pool would not be there in the child.
    context = multiprocessing.get_context("spawn")
    end, held = context.Pipe(duplex=False)
    begin = max(1, cores // workers), folder, end
    with held, end:
        try:
            made = _Pool(workers, context, _begin, begin)
        except (OSError, ImportError):  # as without /dev/shm, where their locks live
            yield None
            return
        with made as pool:
            try:
                yield pool
            except BaseException:
                held.close()
                pool.shutdown(cancel_futures=True)
                raise


class _Pool(ProcessPoolExecutor):
    """Processes that do not hear Ctrl-C, which a terminal sends to all: it is this one's to act."""

    def submit(self, *given: Any, **named: Any) -> Future[Any]:
        """Submits as its parent does: a process that it starts inherits what is not heard."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            return super().submit(*given, **named)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_all(
    executor: Executor | None, calls: Sequence[tuple[Callable[..., Result], tuple[object, ...]]]
) -> Iterator[tuple[int, Result]]:
    """Yields each call's number and result, as they come.

    Args:
        executor: that runs them; None for this process, one by one.
        calls: functions with their arguments.

    Raises:
        ExecutionError: the worker processes died.
        ConfigError: a call cannot be sent to the executor.
    """
    if executor is None:
        yield from ((number, function(*given)) for number, (function, given) in enumerate(calls))
        return
    futures: dict[Future[Result], int] = {}
    try:
        for number, (function, arguments) in enumerate(calls):
            futures[executor.submit(function, *arguments)] = number
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenExecutor as error:
        raise ExecutionError(f"a worker process died ({error}); {_DEAD}; {_UNGUARDED}") from error
    except (pickle.PicklingError, AttributeError) as error:
        if "pickle" not in str(error).lower():
            raise
        raise ConfigError(
            f"executor: a trial cannot be sent to it; evaluate must be a function of a module that "
            f"the workers can import: {error}"
        ) from error
    finally:
        for future in futures:
            future.cancel()


def _can_be_sent(task: object) -> bool:
    """Returns whether another process can be given what the trials need."""
    try:
        sent = pickle.dumps(task)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    # For what is defined there a worker would have to import the script, or has no way to, in a
    # notebook.
    return b"__main__" not in sent


def _begin(threads: int, folder: Path | None, end: Connection) -> None:
    """Holds a worker process to its share of the cores, and to the life of who started it."""
    os.environ["MLPASS_THREADS"] = str(threads)
    warnings.simplefilter("ignore", SampleWarning)  # said where the study began
    if folder is not None:
        tempfile.tempdir = str(folder)
    Thread(target=_end_with, args=(end,), daemon=True).start()
    # From here on heard, and passed over: a process that `evaluate` starts hears it as ever.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def _end_with(end: Connection) -> None:
    """Ends this process once the other end of a pipe is closed."""
    end.poll(None)
    os._exit(1)
