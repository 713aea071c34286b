"""How a command ends by a signal: by way of its clean-up, in one line, whatever is in between."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from mlpass.errors import Terminated, add_note

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Where what a signal raises is swallowed on the way, as some modules do while they are imported,
# it is raised again.
_SECONDS = 1.0
_GRACE = 5.0  # seconds


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Makes signals end what is within it; after that they are passed over.

    A signal that is passed over already, as by `nohup`, stays so.

    Raises:
        KeyboardInterrupt: SIGINT came.
        Terminated: another came.
    """
    timers: list[threading.Timer] = []

    def end(number: int, _: object) -> NoReturn:
        timer = threading.Timer(_SECONDS, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()
        timers.append(timer)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated(128 + number)

    numbers = [each for each in _NUMBERS if signal.getsignal(each) is not signal.SIG_IGN]
    show = sys.unraisablehook

    def show_others(unraisable: sys.UnraisableHookArgs) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt | Terminated):
            show(unraisable)

    try:
        sys.unraisablehook = show_others
        for number in numbers:
            signal.signal(number, end)
        yield
    except Exception as error:  # Python itself wraps what is raised while a class is made
        raised = _raised_by_signal(error)
        if raised is None:
            raise
        for note in vars(error).get("__notes__", ()):
            add_note(raised, note)
        raise raised from None
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        for timer in timers:
            timer.cancel()
        sys.unraisablehook = show


def _raised_by_signal(error: BaseException) -> BaseException | None:
    """Returns what a signal raised and an error was made from; None where it was not."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt | Terminated):
        cause = cause.__cause__
    return cause


def end_in_any_case(status: int) -> None:
    """Ends this process with `status` in a few seconds, whatever it then still waits for.

    What a signal raises may fall between a thread's start and its pool's taking note of it, or
    likewise with a lock: nobody ends that thread, and the interpreter waits for it at its end.
    """
    timer = threading.Timer(_GRACE, os._exit, (status,))
    timer.daemon = True
    timer.start()


@contextmanager
def signals_given_back() -> Iterator[None]:
    """Gives signals back to whoever heard them before."""
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
