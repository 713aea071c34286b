"""Chooses the sample that runs by default, from the log of a whole run.

    MLPASS_CONFORMANCE_LOG=log.jsonl python tests/conformance/run.py -n 2
    python tests/conformance/choose_sample.py log.jsonl

Every op is in it at every opset that it was tested at, and whatever else those tests hold.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from run import SAMPLE

_NOT_OPS = {"const"}


def choose(records: Iterable[dict[str, Any]]) -> list[str]:
    """Returns the tests that cover what all of them do, greedily, fewest first."""
    covers = {
        record["test"]: {(op, _opset(record["test"])) for op in record["ops"] if op not in _NOT_OPS}
        for record in records
        if record["compared"] and not record["failed"] and " at 0x" not in record["test"]
    }
    left = set().union(*covers.values())
    chosen = []
    while left:
        best = max(sorted(covers), key=lambda test: (len(covers[test] & left), -len(test)))
        left -= covers[best]
        chosen.append(best)
    return sorted(chosen)


def _opset(test: str) -> str:
    stated = re.search(r"AvailableTarget\.(iOS\d+)", test)
    return stated.group(1) if stated else test.split("/")[0]


def main() -> None:
    """Writes the sample."""
    records: dict[str, dict[str, Any]] = {}
    for path in sys.argv[1:]:
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            records[record["test"]] = record
    chosen = choose(records.values())
    SAMPLE.write_text("\n".join(chosen) + "\n", encoding="utf-8")
    ops = {op for record in records.values() if record["compared"] for op in record["ops"]}
    print(f"{len(chosen)} tests cover {len(ops)} ops")


if __name__ == "__main__":
    main()
