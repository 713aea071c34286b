"""Pruning a pymil `Program` in place."""

from __future__ import annotations

from typing import Any

from mlpass.calibrate.calibration import Calibration, make_calibration
from mlpass.errors import ConfigError
from mlpass.literals import Allocate, Backend, Fallback, Propagate, Target
from mlpass.plan.config import as_config, configured
from mlpass.plan.steps import rank_globally
from mlpass.program.pymil_edit import edit_program
from mlpass.pruning.carrying import carry_out_all, plan_programs
from mlpass.pruning.notes import whole_outputs
from mlpass.report.records import Report
from mlpass.runtime.replay import MEMORY_BUDGET
from mlpass.runtime.sources import is_pymil
from mlpass.solvers.problem import Method
from mlpass.storage.given import StorageLike
from mlpass.weights.record import function_records


def prune_program(
    program: object,
    config: object = None,
    *,
    method: Method | None = None,
    sample_data: Any = None,
    storage: StorageLike = None,
    allocate: Allocate = "uniform",
    max_nbytes: int | None = None,
    propagate: Propagate = "pruned",
    target: Target | None = None,
    fallback: Fallback = "skip",
    memory_budget: int = MEMORY_BUDGET,
    backend: Backend = "numpy",
    device: str | None = None,
    function_name: str | None = None,
    joint_compression: bool = False,
) -> Report:
    """Prunes the weights of a pymil `Program` in place, and returns what was done.

    Sizes in the report are those of the constants that go to a weight file.

    `program` is for iOS16 or later; all else is as for `prune`, and samples are keyed by the names
    of the program's inputs.

    Raises:
        ConfigError: `program` is not a `Program`; or the config or the options are wrong.
        CalibrationError: the samples do not fit the program, or a layer's inputs hold NaN or inf.
        ModelFormatError: the program is older than iOS16; than iOS18 for joint forms.
        UnsupportedOpError: samples are given, and the program has ops without kernels.
    """
    if not is_pymil(program):
        raise ConfigError(
            f"program: must be a pymil Program. Got {type(program).__name__}; a package or an "
            "MLModel is pruned to a new package, by prune(source, output, config)."
        )
    calibration = make_calibration(
        method,
        sample_data,
        allocate=allocate,
        max_nbytes=max_nbytes,
        propagate=propagate,
        target=target,
        fallback=fallback,
        memory_budget=memory_budget,
        backend=backend,
        device=device,
        function_name=function_name,
    )
    given = configured(config, storage)
    return prune_in_place(program, given, calibration, joint_compression=joint_compression)


def prune_in_place(
    program: Any,
    config: object,
    calibration: Calibration | None = None,
    *,
    joint_compression: bool = False,
) -> Report:
    """Prunes the weights of a pymil `Program` in place and returns what was done.

    Args:
        program: as for `prune_program`, and so are the others.
        config: which mode each weight gets.
        calibration: how weights are solved for on samples; None where they are not.
        joint_compression: whether compressed weights are pruned, too.

    Raises:
        MlpassError: as `prune_program`.
    """
    config = as_config(config)
    with edit_program(program) as editor:
        steps = plan_programs(editor.programs, config, joint=joint_compression)
        functions, before = function_records(editor.programs), editor.nbytes
        (model,) = editor.programs
        layers = carry_out_all(model, rank_globally(steps), calibration, editor)
    notes = whole_outputs(steps, layers)
    after = before - sum(layer.bytes_before - layer.bytes_after for layer in layers)
    return Report("program", "program, in place", before, after, functions, tuple(layers), notes)
