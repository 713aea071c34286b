"""The smallest or best pruned model that holds a target: found by climbing from cheap to costly."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mlpass.errors import ConfigError, brief, close_matches
from mlpass.examine.processors import check_processor
from mlpass.files import temporary_folder
from mlpass.literals import Backend
from mlpass.options import check_count
from mlpass.plan.sizes import parse_size
from mlpass.program.hosted import check_copy, is_for_host, write_copy
from mlpass.program.mlmodel import ModelLike, check_outside
from mlpass.program.mlpackage import Package
from mlpass.program.opsets.packages import path_of
from mlpass.report.choice import Choice, Target
from mlpass.runtime.samples import SampleData
from mlpass.study.climb import RUNGS, Climb, Finetune, built_in_finetune
from mlpass.study.evaluate import Evaluate, evaluated
from mlpass.study.held_out import divided, told_of
from mlpass.study.space import NEEDS_NEWER
from mlpass.study.sweep import check_backend, write_outputs
from mlpass.study.trial import Setting, compressed_left, given_as

_LARGEST = float(1 << 62)  # of a number
_STEPS = 200


def choose(
    model: ModelLike,
    output: str | os.PathLike[str],
    *,
    sample_data: SampleData,
    max_size: str | int | None = None,
    min_snr: float | None = None,
    min_accuracy: float | None = None,
    evaluate: Evaluate | None = None,
    test_data: SampleData | None = None,
    up_to: str = "fine-tuning",
    finetune: Finetune | None = None,
    finetune_steps: int = _STEPS,
    backend: Backend = "numpy",
    function_name: str | None = None,
    minimum_deployment_target: object = None,
    joint_compression: bool = False,
    processor: str | None = None,
    force: bool = False,
) -> Choice:
    """Writes a pruned model that holds a target, and returns what was tried and what it gave.

    The model as it is must hold `min_accuracy`, which is seen to first, unless your own `finetune`
    may teach it. It climbs from zeros by magnitude to storages without zeros (int8, palettes, int4,
    then the best of them solved on samples), SparseGPT, ADMM, a form for each weight within the
    size, and fine-tuning. With a size and a quality it stops at the first step that holds both.
    With a size alone it goes through all and picks the best outputs, with a quality alone the
    smallest model. Where no step holds the target, nothing is written, and `picked` is None.

    Args:
        model: path of an `.mlpackage`, or an `MLModel`.
        output: path of the `.mlpackage` to write; or, of a model in an ExecuTorch `.pte`, of a
            `.pte` with what is chosen in its place.
        sample_data: to calibrate on, as for `prune`. Of several functions, the worst counts.
        max_size: of all files that are written: bytes, a text such as "3.5MB", or a share such as
            "0.4x" of the package, or of the `.pte` where a `.pte` is written.
        min_snr: in dB, of the worst output, against the model as it is.
        min_accuracy: what `evaluate` must give at least.
        evaluate: your own measure: given the path of a package, returns a number, the higher the
            better.
        test_data: samples to measure on. Without them a quarter of `sample_data` is kept back for
            that, where there are 8 or more: no method sees those.
        up_to: the last rung to climb: "data-free", "storages", "sparsegpt", "admm", "budget" or
            "fine-tuning".
        finetune: your own training: given the path of a pruned package, that of the one to write,
            the samples and the path of the model as it is, returns a report. None is
            `mlpass.finetune` (the torch extra).
        finetune_steps: batches that it trains on.
        backend: that models run on, "numpy" or "torch".
        function_name: of a model with several functions, the one that the samples are for.
        minimum_deployment_target: that the model is raised to first, as for `prune`.
        joint_compression: whether weights that are compressed already take part, as for `prune`.
        processor: "ane", "cpu" or "gpu", that it is for: attempts say which of their forms that
            takes badly, as far as is known, and of two that noise does not tell apart the one with
            fewer such is picked.
        force: whether to replace an `output` that exists.

    Raises:
        ConfigError: the target or an option is not valid, or `evaluate` fails on the model.
        CalibrationError: the samples do not fit the model.
        ModelFormatError: `model` is not a package with an ML Program, or is broken.
        UnsupportedOpError: the program has ops without kernels.
        OutputExistsError: `output` exists and `force` is False; where it came into being meanwhile,
            the result is kept beside it, by the name that the message has.
        OSError: a file cannot be read or written.
    """
    _check(max_size, min_snr, min_accuracy, evaluate, up_to)
    check_count("finetune_steps", finetune_steps)
    check_backend(backend)
    check_processor(processor)
    check_outside(output, model, "the model to prune")
    with temporary_folder() as folder:
        path, shown, named = path_of(model, folder, minimum_deployment_target)
        samples, judged = divided(sample_data, test_data)
        setting = Setting(
            path,
            sample_data=samples,
            test_data=judged,
            evaluate=evaluate,
            backend=backend,
            function_name=function_name or named,
            processor=processor,
            joint_compression=joint_compression,
            host=os.path.abspath(shown) if is_for_host(model, output) else None,
            **given_as(shown, sample_data, minimum_deployment_target),
        )
        with Package(path) as package:
            check_copy(model, package, output, force=force)
            before = setting.nbytes
            left = compressed_left(setting, package)
            setting = setting.having(reference=str(write_outputs(package, setting, folder)))
        nbytes = None if max_size is None else parse_size("max_size", max_size, before)
        value = None if evaluate is None else evaluated(evaluate, path)
        climb = Climb(setting, Target(nbytes, min_snr, min_accuracy), folder)
        rungs = RUNGS[: RUNGS.index(up_to) + 1]
        lacking = _lacking(climb.target, value)
        if lacking is not None and (finetune is None or "fine-tuning" not in rungs):
            reason = (
                f"{climb.target} cannot be met: {lacking}, before anything is pruned; ask for "
                "less, or look at what evaluate measures"
            )
            lacking = None  # told
        else:  # training of the user's own may teach what the model did not know
            reason = _go(climb, rungs, finetune, finetune_steps)
        fitted = any(attempt.rung != "data-free" for attempt in climb.attempts)
        best = climb.best
        if best is not None:
            write_copy(model, Path(climb.packages[best]), output, force=force)
    told = [lacking, told_of(samples, judged, test_data) if fitted else None]
    if {"storages", "budget"} & {each.rung for each in climb.attempts} and climb.is_old:
        told.append(NEEDS_NEWER)
    picked = None if best is None else climb.attempts[best].trial
    told += left if picked is None or picked.report is None else picked.report.notes
    return Choice(
        model=shown,
        bytes_before=before,
        target=climb.target,
        attempts=tuple(climb.attempts),
        picked=picked,
        output=None if best is None else os.fspath(output),
        reason=reason,
        notes=tuple(filter(None, told)),
    )


def _lacking(target: Target, value: float | None) -> str | None:
    """Returns what the model as it is falls short of, given its value; None where it does not."""
    if target.value is None or value is None or value >= target.value:
        return None
    return f"evaluate gives {value:g} for the model as it is"


def _go(climb: Climb, rungs: Sequence[str], finetune: Finetune | None, finetune_steps: int) -> str:
    """Climbs, and returns why it ended where it did."""
    target, sparsity, note = climb.target, None, ""
    if target.nbytes is not None:
        sparsity = climb.smallest_sparsity()
        if sparsity is None:
            return (
                f"{target} cannot be met: with every weight that can be pruned zero, the model is "
                "still larger"
            )
    stops = target.nbytes is not None and climb.wants_quality
    for rung in rungs:
        if rung != "fine-tuning":
            climb.try_rung(rung, sparsity)
        elif train := finetune or built_in_finetune(finetune_steps, climb.setting.function_name):
            climb.train(train)
        else:
            note = "; fine-tuning was not tried, it needs torch"
        if stops and climb.best is not None:
            return _picked(climb, "the first step that holds both")
    if climb.best is not None:
        why = "the smallest that holds it" if climb.wants_quality else "the best of that size"
        return _picked(climb, why) + note
    if climb.nearest is None:
        return f"{target} could not be met: every step failed{note}"
    nearest = climb.attempts[climb.nearest]
    return (
        f"{target} could not be met; nearest came {nearest.trial.label} ({nearest.rung}): "
        f"{'; '.join(nearest.misses)}{note}"
    )


def _picked(climb: Climb, why: str) -> str:
    assert climb.best is not None  # the caller looked
    attempt = climb.attempts[climb.best]
    return f"picked {attempt.trial.label} ({attempt.rung}), {why}"


def _check(
    max_size: str | int | None,
    min_snr: float | None,
    min_accuracy: float | None,
    evaluate: Evaluate | None,
    up_to: str,
) -> None:
    """Raises ConfigError where there are no targets, or they do not go together."""
    for name, least in (("min_snr", min_snr), ("min_accuracy", min_accuracy)):
        number = isinstance(least, int | float) and not isinstance(least, bool)
        if least is not None and not (number and abs(least) < _LARGEST):
            raise ConfigError(f"{name}: must be a number. Got {brief(least)}.")
    if max_size is None and min_snr is None and min_accuracy is None:
        raise ConfigError("target: give max_size, min_snr or min_accuracy")
    if min_accuracy is not None and evaluate is None:
        raise ConfigError("min_accuracy: needs evaluate, which measures it")
    if up_to not in RUNGS:
        raise ConfigError(
            f"up_to: must be one of {', '.join(RUNGS)}. "
            f"Got {brief(up_to)}{close_matches(up_to, RUNGS) or '.'}"
        )
