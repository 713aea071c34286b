"""Python's collector of cycles, which takes long where very many objects are made to stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_MANY = 10_000  # objects; fewer are gone through in less than a millisecond


@contextmanager
def paused_collector() -> Iterator[None]:
    """Holds the collector back while objects are made that stay, none of them in a cycle.

    It would go through all there are again each time that their number has grown by a share. What
    was made meanwhile counts as old at its end: as new, it would be gone through at once.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            # What somebody froze stays so; how much that is, is counted one by one.
            if gc.get_count()[0] > _MANY and not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()
