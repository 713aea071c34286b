"""Tuning region by region, from package to package: no more than one region trains at a time.

Masks and codes stay, as in a polish. A region that does not come nearer on samples that are held
out keeps the values that it had.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from typing import NamedTuple, NoReturn

from tqdm import tqdm

from mlpass.errors import CalibrationError, ModelFormatError
from mlpass.examine.matching import match_values
from mlpass.finetune.cutting import Region, cut, cut_alike
from mlpass.finetune.features import read_feature
from mlpass.finetune.feeding import read_sample
from mlpass.finetune.module import ProgramModule, Stage, values_of
from mlpass.finetune.region_journal import RegionJournal
from mlpass.finetune.stored import StoredModule
from mlpass.finetune.stored_writing import write_stored
from mlpass.finetune.streams import Named, Stream, values_read
from mlpass.finetune.training import divided, trained_of
from mlpass.finetune.tuning import Tuned, Tuning, goal_of, tune_region
from mlpass.finetune.weights import is_weight
from mlpass.ledger import journal_path
from mlpass.plan.regions import Regions
from mlpass.program.ir import Value
from mlpass.program.mlmodel import ModelLike, check_outside, open_package
from mlpass.report.records import Report
from mlpass.runtime.backends.threads import fixed_threads
from mlpass.runtime.digests import digest_of
from mlpass.runtime.doubts import warn_of
from mlpass.runtime.replay import MEMORY_BUDGET
from mlpass.runtime.samples import Sample, SampleData, load_samples


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
        sample_data: two inputs or more without labels, as for calibration.
        options: of the training.
        memory_budget: bytes that the training of a region may take, where the model can be cut that
            small, and bytes of activations that may stay in memory; the rest goes to files.
        device: torch's.
        function_name: of a model with several functions, the one that the samples are for.
        force: whether to replace an `output` that exists.
        resume: whether to go on with the regions that a run that died had finished.

    Raises:
        ConfigError: an option is not valid, or there is no such function.
        CalibrationError: there are too few samples, or they differ in shape; or what is to be gone
            on with is of another run.
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
    places = {"device": device, "function_name": function_name}
    settings: dict[str, object] = {**places, "memory_budget": memory_budget}
    with open_package(model) as package, open_package(dense) as whole:
        package.check_target(output, force=force)  # now, not after an hour of work
        check_outside(output, dense, "the model to learn from")
        for name, one in (("message", package), ("dense", whole)):
            if one.edited:  # then its files do not tell all
                settings[name] = one.message_digest()
        samples, files = load_samples(sample_data), [*package.files, *whole.files]
        digest = digest_of(files, {**settings, **asdict(options)}, samples)
    with RegionJournal(journal_path(output), digest, resume=resume) as journal:
        module, teacher = (StoredModule(one, **places, held=False) for one in (model, dense))
        done = tune_module(module, teacher, samples, options, journal, memory_budget)
        report = write_stored(module, output, trained=done.trained, force=force)
    return replace(report, notes=done.notes)


class Done(NamedTuple):
    """What the tuning of a module came to: what to tell, and the parameters that changed."""

    notes: tuple[str, ...]
    trained: Collection[str]


@fixed_threads()
def tune_module(
    module: StoredModule,
    teacher: ProgramModule,
    samples: Sequence[Sample],
    options: Regions,
    journal: RegionJournal | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> Done:
    """Tunes a module in place, and returns what that came to.

    Args:
        module: to tune.
        teacher: to come close to.
        samples: two or more.
        options: of the training.
        journal: of the run; without one the module must hold its parameters.
        memory_budget: see `tune`.

    Raises:
        CalibrationError: there are too few samples, or they differ in shape.
        ModelFormatError: the teacher is another model.
    """
    warn_of(module, samples)
    parts = divided(len(samples), options.held_out, options.seed)
    _check_alike(module, teacher)
    cuts = [
        cut(stage.plan, _weights(module, stage), memory_budget, options.batch_size)
        for stage in module.stages
    ]
    own = _own(module, cuts, options)
    given, wanted = _inputs(module, samples, options), _inputs(teacher, samples, options)
    settings = {"batch_size": options.batch_size, "memory_budget": memory_budget // 2}
    journal = journal or RegionJournal()
    found: dict[int, Tuned | None] = {}
    module.eval()
    with tqdm(total=len(own) * options.epochs, desc="tuning", unit="epoch", disable=None) as bar:
        for stage, its, regions in zip(module.stages, teacher.stages, cuts, strict=True):
            blocks = [(each.part.plan.function.block) for each in (stage, its)]
            matched = match_values([(blocks[0], blocks[1])])
            likes = {like: value for value, like in matched.items()}
            others = cut_alike(its.plan, regions, likes)
            with (
                closing(Stream(module, stage, regions, given, **settings)) as stream,
                closing(Stream(teacher, its, others, wanted, **settings)) as dense,
            ):
                for region, other in zip(regions, others, strict=True):
                    number = len(found)
                    if options.target == "dense":
                        dense.advance()
                    goal = goal_of(dense, region, other, likes, options.target)
                    tuning = Tuning(stream, region, goal, own[number], number)
                    with module.holding(own[number]):
                        found[number] = _tuned(tuning, options, parts, journal, bar)
                        stream.advance()
                    if options.target == "own":
                        dense.advance()  # only now: it gives the region the inputs that match none
                given, wanted = stream.results(), dense.results()
    names = {name for number, one in found.items() if one and one.kept for name in own[number]}
    return Done(_notes(module, found, own, parts, options), names)


def _tuned(
    tuning: Tuning,
    options: Regions,
    parts: tuple[Sequence[int], Sequence[int]],
    journal: RegionJournal,
    bar: tqdm[NoReturn],
) -> Tuned | None:
    """Returns what a region came to: tuned now, or by the run that this one goes on with.

    None where it has nothing to train, or nothing to aim at.
    """
    module, names = tuning.module, tuning.names
    done = options.epochs * (tuning.number + 1)

    def tell(epoch: Tuned) -> None:
        bar.update()
        losses = f"{epoch.before:.4g} -> {epoch.after:.4g}"
        bar.set_postfix_str(f"region {tuning.number + 1}, held-out loss {losses}")

    found = journal.get(tuning.number, module, names)
    if found is None and names and tuning.goal.values:
        found = tune_region(tuning, options, parts, tell)
        journal.add(tuning.number, found, module, names)
    if found is not None and found.kept:
        module.trained.update(journal.readers(tuning.number, names))
    bar.update(done - bar.n)
    return found


def _check_alike(module: ProgramModule, teacher: ProgramModule) -> None:
    """Raises ModelFormatError where a teacher is another model."""
    mine, its = (
        (len(one.stages), sorted(each.name for each in one.inputs)) for one in (module, teacher)
    )
    if mine != its:
        raise ModelFormatError(
            "dense: must be the model that the other was made from: it has "
            f"{its[0]} program(s) with the inputs {', '.join(its[1])}, the other {mine[0]} with "
            f"{', '.join(mine[1])}"
        )


def _weights(module: StoredModule, stage: Stage) -> dict[Value, int]:
    """Returns how many elements train of each constant value of a stage that is a weight."""
    return {
        value: module.floats[module.parameter_of(name)].size
        for name, site in module.sites.items()
        if is_weight(site)
        for value in values_of(site)
        if value in stage.plan.makers
    }


def _own(
    module: StoredModule, cuts: Sequence[Sequence[Region]], options: Regions
) -> list[list[str]]:
    """Returns for each region the parameters that it alone reads, and that train."""
    reading = [
        values_read(stage, region)
        for stage, regions in zip(module.stages, cuts, strict=True)
        for region in regions
    ]
    readers: defaultdict[str, set[int]] = defaultdict(set)
    for name, site in module.sites.items():
        values = set(values_of(site))
        found = (number for number, read in enumerate(reading) if not read.isdisjoint(values))
        readers[module.parameter_of(name)].update(found)
    names = trained_of(module, weights_only=options.weights_only)
    return [[name for name in names if readers[name] == {n}] for n in range(len(reading))]


def _inputs(module: ProgramModule, samples: Sequence[Sample], options: Regions) -> Named:
    """Returns what a module is given, by sample, step and name.

    Raises:
        CalibrationError: samples that are to make a batch differ in shape or length.
        InputError: a sample does not fit.
    """
    read = [
        [
            {
                each.name: read_feature(each, step[each.name], module.device)
                for each in module.inputs
            }
            for step in read_sample(module, sample, number)
        ]
        for number, sample in enumerate(samples)
    ]
    for number, sample in enumerate(read if options.batch_size > 1 else ()):
        shapes = [
            [{name: tuple(tensor.shape) for name, tensor in step.items()} for step in one]
            for one in (read[0], sample)
        ]
        if shapes[0] != shapes[1]:
            raise CalibrationError(
                f"sample_data: sample {number} is of another shape or length than the first: use a "
                "batch_size of 1"
            )
    return read


def _notes(
    module: StoredModule,
    found: Mapping[int, Tuned | None],
    own: Sequence[Sequence[str]],
    parts: tuple[Sequence[int], Sequence[int]],
    options: Regions,
) -> tuple[str, ...]:
    """Returns what to tell of a run."""
    tuned = {number: one for number, one in found.items() if one is not None}
    better = sum(one.kept > 0 for one in tuned.values())
    aim = "the dense model" if options.target == "dense" else "what their dense weights give"
    first = (
        f"tuned {len(tuned)} regions on {len(parts[1])} samples; {better} came nearer to {aim} "
        f"on {len(parts[0])} samples held out, the others are as they were"
    )
    lines = [first]
    for number, one in tuned.items():
        kept = f"epoch {one.kept}" if one.kept else "as it was"
        losses = f"loss {one.before:.4g} -> {one.after:.4g}, {kept}"
        lines.append(f"region {number + 1}, from {own[number][0]!r}: {losses}")
    aimless = [name for number in found.keys() - tuned.keys() for name in own[number]]
    if aimless:
        lines.append(
            "in regions that end in no float of the dense model's, so left as they were: "
            f"{', '.join(aimless)}"
        )
    alone = {name for names in own for name in names}
    names = trained_of(module, weights_only=options.weights_only)
    if shared := [name for name in names if name not in alone]:
        lines.append(f"read by several regions, so left as they were: {', '.join(shared)}")
    return tuple(lines)
