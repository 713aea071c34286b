"""`python -m tests.fuzz [CASES] [FIRST]`: so many cases from a seed on; prints the faults."""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.fuzz.cases import FaultError, Ground, run_case

CASES = 3000
_ROOM = 12 << 30  # of address space: what asks for more is refused, rather than the machine lost


def main(cases: int = CASES, first: int = 0) -> int:
    """Returns 1 where there was a fault, else 0."""
    resource.setrlimit(resource.RLIMIT_AS, (_ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))
    ended: Counter[str] = Counter()
    faults = 0
    folder = Path(tempfile.mkdtemp(prefix="mlpass-fuzz-"))
    ground = Ground(folder)
    for seed in range(first, first + cases):
        try:
            status, command, loads = run_case(ground, seed)
        except FaultError as fault:
            faults += 1
            print(f"FAULT {fault}", flush=True)
            shutil.rmtree(folder)
            folder.mkdir()
            ground = Ground(folder)
            continue
        ended[f"{command}: {'refused' if status else 'done'}"] += 1
        ended["coremltools takes the result"] += bool(loads)
        if (seed - first + 1) % 100 == 0:
            print(f"{seed - first + 1} cases, {faults} faults", flush=True)
    shutil.rmtree(folder)
    for what, count in sorted(ended.items()):
        print(f"{count:6} {what}")
    print(f"{faults} faults in {cases} cases from {first} on")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
