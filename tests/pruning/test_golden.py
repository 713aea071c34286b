"""What pruning makes of a program, as text: before and after, side by side in fixtures/golden.

`python -m tests.pruning.test_golden` writes the files anew; read the difference before it is kept.
"""

from __future__ import annotations

import difflib
import tempfile
from pathlib import Path

import pytest

import mlpass
from mlpass import NM, Percentile
from mlpass.program.mlpackage import Package
from mlpass.program.text import program_text
from tests.conftest import FIXTURES

GOLDEN = FIXTURES / "golden"
CASES = {
    "branches": (NM(2, 4), False),
    "digits_ios15": (Percentile(0.5), False),
    "stateful_lm": (Percentile(0.75), False),
    "palettized_digits": (Percentile(0.5), True),
    "quantized_digits": (Percentile(0.5), True),
}


def change(name: str, directory: Path) -> str:
    """The lines of a program that pruning changes."""
    mode, joint = CASES[name]
    source, out = FIXTURES / f"{name}.mlpackage", directory / f"{name}.mlpackage"
    mlpass.prune(source, out, mode, joint_compression=joint)
    return "".join(
        line
        for line in difflib.unified_diff(lines(source), lines(out), "before", "after", n=0)
        if not line.startswith("@@")
    )


def lines(package: Path) -> list[str]:
    with Package(package) as opened:
        return [line for program in opened.programs for line in text_lines(program)]


def text_lines(program) -> list[str]:
    return program_text(program).splitlines(keepends=True)


@pytest.mark.parametrize("name", CASES)
def test_the_change_is_the_one_on_file(name, tmp_path):
    assert change(name, tmp_path) == (GOLDEN / f"{name}.diff").read_text()


def test_every_type_and_block_can_be_shown():
    text = "".join(lines(FIXTURES / "branches.mlpackage"))
    assert "cond(" in text
    assert "while_loop(" in text
    assert "    -> " in text
    assert "state[fp16[" in "".join(lines(FIXTURES / "stateful_lm.mlpackage"))
    assert "dict[string[], fp" in "".join(lines(FIXTURES / "digits_classifier.mlpackage"))


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for case in CASES:
        with tempfile.TemporaryDirectory() as directory:
            (GOLDEN / f"{case}.diff").write_text(change(case, Path(directory)))
