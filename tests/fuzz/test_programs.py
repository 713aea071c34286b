"""Programs changed at random, given to every command: one line of error, or a valid result.

A sample by default; `python -m tests.fuzz` runs all.
"""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.cases import COMMANDS, FILES, FaultError, Ground, load_problem, run_case
from tests.fuzz.mutations import CHANGES, names_of
from tests.program.packages import FIXTURES, copy_fixture, edit_spec, first_of, read_spec

CASES = int(os.environ.get("MLPASS_FUZZ_CASES", "60"))


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("tenth", range(10))
def test_changed_programs_end_in_a_result_or_one_line(tenth: int, ground: Ground) -> None:
    for seed in range(tenth, CASES, 10):
        run_case(ground, seed)


def test_each_change_is_one_that_can_be_made() -> None:
    """Else a case would be one of an unchanged model."""
    generator, spec = Random(0), read_spec(FIXTURES / "branches.mlpackage")
    names = names_of(spec)
    for change in dict.fromkeys(CHANGES):
        before = spec.SerializeToString(deterministic=True)
        for _ in range(50):
            change(generator, spec, names)
            if spec.SerializeToString(deterministic=True) != before:
                break
        else:
            raise AssertionError(change.__name__)
        spec.ParseFromString(before)


def test_what_is_not_changed_passes_through_every_command(ground: Ground) -> None:
    seeds: dict[str, int] = {}
    for seed in range(2000):
        generator = Random(f"case {seed}")
        (name,) = generator.choices([*FILES], [*FILES.values()])
        if name != "branches":
            continue
        (command,) = generator.choices([*COMMANDS], [*COMMANDS.values()])
        seeds.setdefault(command, seed)
    assert set(seeds) == set(COMMANDS)
    for command, seed in seeds.items():
        outcome = run_case(ground, seed, changes=0)
        assert outcome.status == 0 or "--quantize" in command, command  # which not all take


def test_coremltools_loader_tells_what_it_does_not_take(tmp_path: Path) -> None:
    package = copy_fixture("digits_ios15", tmp_path)
    assert load_problem(package) is None
    edit_spec(package, lambda spec: first_of(spec, "linear").inputs["x"].arguments.pop())
    assert load_problem(package) is not None


def test_a_traceback_is_a_fault_that_says_which_case(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("tests.fuzz.cases.cli.main", fail)
    with pytest.raises(FaultError, match=r"case 3: .*: raises ZeroDivisionError\('planted'\)"):
        run_case(ground, 3)
