"""How many threads torch computes on where bits count: how it divides a sum follows from that."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_THREADS = 4  # few enough for a small machine, and most of what a large one has for small batches

_lock = threading.Lock()
_within: list[int] = []  # for each who is within, how many there were before


@contextmanager
def fixed_threads() -> Iterator[None]:
    """Holds torch to one number of threads, so that bits do not depend on the cores.

    It may be entered again, and from several threads at once: the last to leave gives torch the
    number back that the first has seen.
    """
    with _lock:
        _within.append(torch.get_num_threads())
        torch.set_num_threads(_THREADS)
    try:
        yield
    finally:
        with _lock:
            if len(_within) > 1:
                _within.pop()
            else:
                torch.set_num_threads(_within.pop())
