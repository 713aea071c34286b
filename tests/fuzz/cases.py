"""Cases of the fuzzer: a fixture, changed at random, given to a command, which is then judged."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import resource
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np

from mlpass import cli
from mlpass.examine.inspect import inspect
from mlpass.program.pipelines import pipeline_of
from tests.fuzz.mutations import Names, mutate, names_of
from tests.program.packages import (
    FIXTURES,
    MODEL,
    Hang,
    copy_fixture,
    read_spec,
    time_limit,
    tree,
    write_spec,
)
from tests.runtime.programs import truth

LIMIT = 30.0  # seconds for a case
GROWTH = 500 << 20  # bytes
_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss

FILES = {
    "branches": 4,
    "digits_classifier": 3,
    "digits_ios15": 3,
    "digits_pipeline": 2,
    "palettized_digits": 2,
    "quantized_digits": 2,
    "tiny_lm": 1,
    "multifunction_lm": 1,
    "stateful_lm": 1,
    "silero_vad": 2,
}

# {m} the model, {o} the output, {s} samples, {x} one sample, {d} the model before it was changed.
_SMALL = "--weight-threshold 64"
COMMANDS = {
    "inspect {m}": 2,
    f"prune {{m}} -o {{o}}.mlpackage --target-sparsity 0.5 {_SMALL}": 2,
    f"prune {{m}} -o {{o}}.mlpackage --n-m-ratio 2:4 --json {_SMALL}": 1,
    f"prune {{m}} -o {{o}}.mlpackage --target-sparsity 0.5 --scope global {_SMALL}": 1,
    f"prune {{m}} -o {{o}}.mlpackage --target-sparsity 0.5 --block-size 2 {_SMALL}": 1,
    f"prune {{m}} -o {{o}}.mlpackage --target-sparsity 0.5 --sample-data {{s}} {_SMALL}": 5,
    f"prune {{m}} -o {{o}}.mlpackage --target-sparsity 0.5 --sample-data {{s}} --method wanda "
    f"--backend torch {_SMALL}": 2,
    f"prune {{m}} -o {{o}}.mlpackage --n-m-ratio 2:4 --sample-data {{s}} --method admm "
    f"--iterations 2 --propagate dense {_SMALL}": 2,
    f"prune {{m}} -o {{o}}.mlpackage --target-sparsity 0.5 --sample-data {{s}} --quantize int8 "
    f"--allocate error --fallback magnitude {_SMALL}": 1,
    "predict {m} --inputs {x} -o {o}.npz": 4,
    "predict {m} --inputs {x} -o {o}.npz --backend torch": 2,
    "compare {d} {m} --sample-data {s}": 3,
    "sweep {m} --sample-data {s} --configs {c} --jobs 1 -o {o}.json": 1,
    "choose {m} --sample-data {s} --max-size 0.7x --up-to data-free -o {o}.mlpackage": 1,
}
GRID = "- {target_sparsity: 0.5}\n- {target_sparsity: 0.5, method: sparsegpt}\n"


class FaultError(AssertionError):
    """Something that no hostile model may bring about."""


class Outcome(NamedTuple):
    """How a case ended.

    Attributes:
        status: of the command.
        command: its name.
        loads: whether coremltools' own loader took what was written; None where nothing was that
            it could load, or it did not take the source either.
    """

    status: int
    command: str
    loads: bool | None


@dataclass
class Ground:
    """A folder with fixtures to change, and samples for them."""

    folder: Path
    _specs: dict[str, tuple[Any, Names]] = field(default_factory=dict)

    def prepare(self, name: str) -> Path:
        """Returns a package of its own, with its samples beside it."""
        package = self.folder / name / f"{name}.mlpackage"
        if name not in self._specs:
            package.parent.mkdir()
            copy_fixture(name, package.parent)
            spec = read_spec(package)
            self._specs[name] = spec, names_of(spec)
            sample = _sample(name)
            stacked = {key: np.stack([array] * 2) for key, array in sample.items()}
            np.savez(package.parent / "samples.npz", **stacked)  # type: ignore[arg-type]
            np.savez(package.parent / "one.npz", **sample)  # type: ignore[arg-type]
            (package.parent / "grid.yaml").write_text(GRID)
        return package

    def change(self, generator: Random, package: Path, count: int) -> list[str]:
        """Writes the fixture's message with so many changes, and returns them."""
        original, names = self._specs[package.stem]
        spec = type(original)()
        spec.CopyFrom(original)
        changes = [mutate(generator, spec, names) for _ in range(count)]
        write_spec(package, spec)
        return changes


def _sample(name: str) -> dict[str, Any]:
    if name != "branches":
        return truth(name)[0]
    generator = np.random.default_rng(0)
    shapes = {"x": (1, 64), "sequence": (48, 1, 64), "grid": (1, 8, 8, 16)}
    return {key: generator.standard_normal(shape, np.float32) for key, shape in shapes.items()}


def run_case(ground: Ground, seed: int, *, changes: int | None = None) -> Outcome:
    """Runs the case of a seed and returns how it ended.

    Args:
        ground: where.
        seed: of the case, which is the same in every run.
        changes: how many; as the seed has it where None.

    Raises:
        FaultError: it did what no model may bring about; the text says which case.
    """
    generator = Random(f"case {seed}")
    (name,) = generator.choices([*FILES], [*FILES.values()])
    (command,) = generator.choices([*COMMANDS], [*COMMANDS.values()])
    package = ground.prepare(name)
    count = generator.choice((1, 1, 1, 2, 3)) if changes is None else changes
    done = ground.change(generator, package, count)
    with _about(f"case {seed}: {name}, {done}, mlpass {command}"):
        return _judge(package, command)


def _judge(package: Path, command: str) -> Outcome:
    folder = package.parent
    files = {
        "m": package,
        "o": folder / "out",
        "s": folder / "samples.npz",
        "x": folder / "one.npz",
        "c": folder / "grid.yaml",
        "d": FIXTURES / package.name,
    }
    arguments = [part.format(**files) for part in command.split()]
    before, listed, peak = tree(package), sorted(os.listdir(folder)), _peak()
    status, out, err = _run(arguments)
    _hold(_peak() - peak < GROWTH, f"grew by {(_peak() - peak) >> 20} MB")
    _hold(tree(package) == before, "changed its source")
    made = sorted(set(os.listdir(folder)) - set(listed))
    _hold("\x1b" not in out + err, f"printed control characters: {out + err!r}")
    err = re.sub(r"(?m)^mlpass: warning: .+\n", "", err)  # samples of zeros are warned of
    loads = None
    if status == 0:
        _hold(err == "", f"printed {err!r}")
        wanted = [Path(arguments[arguments.index("-o") + 1]).name] if "-o" in arguments else []
        _hold(made == wanted, f"wrote {made}, not {wanted}")
        loads = _written(folder / wanted[0], package) if wanted else None
    else:
        _hold(status == 1, f"ended with {status}: {err!r}")
        _hold(re.fullmatch(r"mlpass: error: .+\n", err) is not None, f"printed {err!r}")
        _hold(len(err) < 20_000, f"printed {len(err)} characters: {err[:200]!r}")
        # What a run had finished is kept, and said to be.
        kept = [left for left in made if left.endswith(".resume") and left in err]
        _hold(made == kept, f"left {made}")
    for left in made:
        path = folder / left
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return Outcome(status, arguments[0], loads)


def _run(arguments: Sequence[str]) -> tuple[int, str, str]:
    """Returns the exit status of a command, and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            time_limit(LIMIT),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            warnings.simplefilter("error", RuntimeWarning)
            return cli.main(arguments), out.getvalue(), err.getvalue()
    except Hang as error:
        raise FaultError(
            f"hangs: {error} {''.join(traceback.format_tb(error.__traceback__)[-3:])}"
        ) from error
    except SystemExit as error:
        raise FaultError(f"exits by {error!r}: {err.getvalue()}") from error
    except Exception as error:
        places = "".join(traceback.format_tb(error.__traceback__)[-4:])
        raise FaultError(f"raises {error!r}\n{places}") from error


def _written(path: Path, source: Path) -> bool | None:
    """Returns whether coremltools takes what was written; None where that is not for it to say."""
    if path.suffix != ".mlpackage":
        _hold(path.stat().st_size > 0, "wrote an empty file")
        return None
    inspect(path)
    problem = load_problem(path)
    if problem is None:
        return True
    _hold(load_problem(source) is not None, f"coremltools takes the source, not {path}: {problem}")
    return None


def load_problem(package: Path) -> str | None:
    """Returns why coremltools' own loader does not take a package; None where it does."""
    from coremltools.converters.mil.frontend.milproto.load import load

    spec = read_spec(package)
    weights = str((package / MODEL).parent / "weights")
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for model in _programs(spec):
            try:
                load(model, model.specificationVersion, weights)
            except Exception as error:
                return f"{type(error).__name__}: {error}"
    return None


def _programs(spec: Any) -> Iterator[Any]:
    pipeline = pipeline_of(spec)
    if pipeline is None:
        yield spec
        return
    for part in pipeline.models:
        yield from _programs(part)


def _hold(true: bool, what: str) -> None:
    if not true:
        raise FaultError(what)


@contextlib.contextmanager
def _about(case: str) -> Iterator[None]:
    try:
        yield
    except FaultError as fault:
        raise FaultError(f"{case}: {fault}") from fault.__cause__


def _peak() -> int:
    """Returns the most memory that this process ever held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
