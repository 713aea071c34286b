"""Tuning region by region, from package to package: no more than one region trains at a time.

Masks and codes stay, as in a polish. A region that does not come nearer on samples that are held
out keeps the values that it had.
"""

from __future__ import annotations

import os
from dataclasses import asdict, replace

from mlpass.finetune.region_journal import RegionJournal
from mlpass.finetune.region_run import tune_module
from mlpass.finetune.stored import StoredModule
from mlpass.finetune.stored_writing import write_stored
from mlpass.finetune.training import functions_run
from mlpass.ledger import journal_path
from mlpass.options import check_count
from mlpass.plan.regions import Regions
from mlpass.program.mlmodel import ModelLike, check_outside, open_single
from mlpass.report.records import Report
from mlpass.runtime.digests import digest_of
from mlpass.runtime.replay import MEMORY_BUDGET
from mlpass.runtime.samples import SampleData, check_unnamed, load_samples

_MOST_BYTES = (1 << 63) - 1


def tune(
    model: ModelLike,
    output: str | os.PathLike[str],
    dense: ModelLike,
    sample_data: SampleData,
    options: Regions | None = None,
    *,
    memory_budget: int = MEMORY_BUDGET,
    device: str | None = None,
    function_name: str | None = None,
    force: bool = False,
    resume: bool = False,
) -> Report:
    """Tunes a compressed model region by region and writes it, in the same forms.

    Each region is trained, on what the tuned regions before it make, towards what the dense model
    has at its end; the notes of the report tell what each came to.

    Args:
        model: path of an `.mlpackage`, or an `MLModel`: pruned, quantized, palettized or several.
        output: path of the `.mlpackage` to write. It appears whole or not at all.
        dense: the model to come close to.
        sample_data: two inputs or more without labels, as for calibration; of several functions,
            as for `prune`, each gets two or more.
        options: of the training.
        memory_budget: bytes that the training of a region may take, where the model can be cut that
            small, and bytes of activations that may stay in memory; the rest goes to files.
        device: torch's.
        function_name: of a model with several functions, the one that samples without a name are
            for.
        force: whether to replace an `output` that exists.
        resume: whether to go on with the regions that a run that died had finished.

    Raises:
        ConfigError: an option is not valid, or there is no such function.
        CalibrationError: there are too few samples, or what is to be gone on with is of another
            run.
        InputError: a sample does not fit the models.
        ExecutionError: an op failed.
        ModelFormatError: a model cannot be read, or has nothing to train; or the dense one is not
            the model that the other was made from.
        UnsupportedOpError: a model has ops that cannot be run.
        OutputExistsError: `output` exists and `force` is False; where it came into being meanwhile,
            the result is kept beside it, by the name that the message has.
        OutputBusyError: another run is writing it.
        OSError: a file cannot be read or written.
    """
    options = options or Regions()
    check_count("memory_budget", memory_budget, low=0, high=_MOST_BYTES)
    settings: dict[str, object] = {"device": device, "function_name": function_name}
    settings["memory_budget"] = memory_budget
    with open_single(model) as package, open_single(dense) as whole:
        package.check_target(output, force=force)  # now, not after an hour of work
        check_outside(output, dense, "the model to learn from")
        for name, one in (("message", package), ("dense", whole)):
            if one.edited:  # then its files do not tell all
                settings[name] = one.message_digest()
        samples = load_samples(sample_data, functions=True)
        functions = functions_run(samples)
        check_unnamed(functions or (None,), function_name)
        files = [*package.files, *whole.files]
        digest = digest_of(files, {**settings, **asdict(options)}, samples)
    with RegionJournal(journal_path(output), digest, resume=resume) as journal:
        module, solved, teacher = (
            StoredModule(one, device=device, function_name=functions or function_name, held=False)
            for one in (model, model, dense)
        )
        done = tune_module(module, teacher, samples, options, journal, memory_budget, solved)
        report = write_stored(module, output, trained=done.trained, force=force)
    return replace(report, notes=done.notes)
