"""Tuning region by region, from package to package: no more than one region trains at a time.

Masks and codes stay, as in a polish. A region that does not come nearer on samples that are held
out keeps the values that it had.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import asdict, replace
from typing import NamedTuple, NoReturn

from tqdm import tqdm

from mlpass.errors import ModelFormatError
from mlpass.examine.matching import match_values
from mlpass.finetune.cutting import Region, cut, cut_alike, windows
from mlpass.finetune.features import read_feature, write_value
from mlpass.finetune.feeding import Outputs, read_sample
from mlpass.finetune.judging import Judged, judged
from mlpass.finetune.losses import kinds_of
from mlpass.finetune.module import ProgramModule, Stage, values_of
from mlpass.finetune.region_journal import RegionJournal
from mlpass.finetune.region_notes import region_notes
from mlpass.finetune.stored import StoredModule
from mlpass.finetune.stored_writing import write_stored
from mlpass.finetune.streams import Named, Stream, values_read
from mlpass.finetune.training import divided, put_back, trained_of
from mlpass.finetune.tuning import Tuned, Tuning, goal_of, shares_of, tune_region
from mlpass.finetune.weights import is_weight
from mlpass.ledger import journal_path
from mlpass.plan.regions import Regions
from mlpass.program.ir import Value
from mlpass.program.mlmodel import ModelLike, check_outside, open_single
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
    places = {"device": device, "function_name": function_name}
    settings: dict[str, object] = {**places, "memory_budget": memory_budget}
    with open_single(model) as package, open_single(dense) as whole:
        package.check_target(output, force=force)  # now, not after an hour of work
        check_outside(output, dense, "the model to learn from")
        for name, one in (("message", package), ("dense", whole)):
            if one.edited:  # then its files do not tell all
                settings[name] = one.message_digest()
        samples, files = load_samples(sample_data), [*package.files, *whole.files]
        digest = digest_of(files, {**settings, **asdict(options)}, samples)
    with RegionJournal(journal_path(output), digest, resume=resume) as journal:
        module, solved, teacher = (
            StoredModule(one, **places, held=False) for one in (model, model, dense)
        )
        done = tune_module(module, teacher, samples, options, journal, memory_budget, solved)
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
    solved: StoredModule | None = None,
) -> Done:
    """Tunes a module in place, and returns what that came to.

    Args:
        module: to tune.
        teacher: to come close to.
        samples: two or more.
        options: of the training.
        journal: of the run; without one the module must hold its parameters.
        memory_budget: see `tune`.
        solved: the module as it is, which its outputs are compared with; a copy where None.

    Raises:
        CalibrationError: there are too few samples.
        ModelFormatError: the teacher is another model.
    """
    warn_of(module, samples)
    parts = divided(len(samples), options.held_out, options.seed)
    _check_alike(module, teacher)
    solved = solved or deepcopy(module)
    models = (module, teacher, solved)
    cuts, firsts = (_cuts(one, options, memory_budget) for one in (module, solved))
    own = _own(module, cuts, options)
    journal = journal or RegionJournal()
    given: list[Named] = [_inputs(one, samples) for one in models]
    given[-1] = [given[-1][number] for number in parts[0]]
    settings = {
        "batch_size": _together(given[0], options),
        "memory_budget": memory_budget // len(models),
    }
    found: dict[int, Tuned | None] = {}
    outputs: tuple[Judged, Judged] | None = None
    for one in models:
        one.eval()
    total = len(own) * options.epochs * len(shares_of(options))
    with tqdm(total=total, desc="tuning", unit="epoch", disable=None) as bar:
        for at, regions in enumerate(cuts):
            stages = [one.stages[at] for one in models]
            likes = _likes(stages[0], stages[1])
            others = cut_alike(stages[1].plan, regions, likes)
            mine, its = (
                windows(stage.plan, some, options.window)
                for stage, some in zip(stages[:2], (regions, others), strict=True)
            )
            wide = len(regions) - len(mine) + 1  # of a window, in regions
            # Only what is held out has a use for what the last of all regions makes.
            ends = parts[0] if at == len(cuts) - 1 else None
            with (
                closing(Stream(module, stages[0], regions, given[0], **settings)) as stream,
                closing(
                    Stream(teacher, stages[1], others, given[1], **settings, behind=wide)
                ) as dense,
                closing(Stream(solved, stages[2], firsts[at], given[2], **settings)) as first,
            ):
                for _ in range(wide - 1):
                    dense.advance()
                for place, (region, other) in enumerate(zip(mine, its, strict=True), 1):
                    names, is_last = own[len(found)], place == len(mine)
                    dense.advance(ends if is_last and not names else None)
                    goal = goal_of(dense, region, other, likes)
                    tuning = Tuning(stream, region, goal, names, len(found))
                    with module.holding({*names, *_trained(module, stages[0], region)}):
                        found[tuning.number] = _tuned(tuning, options, parts, journal, bar)
                        dense.forget(other)
                        for behind in range(wide if is_last else 1, 0, -1):
                            stream.advance(ends if is_last and behind == 1 else None)
                            first.advance()
                streams = (stream, dense, first)
                if ends is None:
                    given = [one.all_results() for one in streams]
                else:
                    outputs = _outputs(module, streams, parts[0])
    better = {name for number, one in found.items() if one and one.kept for name in own[number]}
    notes = region_notes(module, found, own, parts, options, _readers(module, cuts))
    if outputs is None:
        return Done(notes, better)
    before, after = outputs
    told = f"outputs on these: loss {before.loss:.4g} -> {after.loss:.4g}"
    if after.loss > before.loss:
        _put_back(module, solved, better)
        told, better = f"{told}: that is worse, so all was left as it was", set()
    return Done((notes[0], told, *before.told(after), *notes[1:]), better)


def _trained(module: StoredModule, stage: Stage, region: Region) -> set[str]:
    """Returns the parameters that a region reads and that windows before it have trained."""
    read = values_read(stage, region)
    return {
        parameter
        for name, site in module.sites.items()
        if (parameter := module.parameter_of(name)) in module.trained
        and not read.isdisjoint(values_of(site))
    }


def _put_back(module: StoredModule, first: StoredModule, names: Collection[str]) -> None:
    """Sets parameters to what they were before the run."""
    for name in names:
        module.trained.pop(name, None)
    put_back(module, {name: first.get_parameter(name) for name in names if module.holds(name)})


def _likes(stage: Stage, dense: Stage) -> dict[Value, Value]:
    """Returns for values of a stage those of the dense one."""
    blocks = [each.part.plan.function.block for each in (stage, dense)]
    matched = match_values([(blocks[0], blocks[1])])
    return {like: value for value, like in matched.items()}


def _outputs(
    module: ProgramModule, streams: Sequence[Stream], held: Sequence[int]
) -> tuple[Judged, Judged] | None:
    """Returns how near the model's outputs were to the dense one's, and are, on what is held out.

    None where not one of them is a float of both models.

    Args:
        module: the model.
        streams: of it, of the dense model, and of it as it was, which has what is held out alone.
        held: the numbers of these samples.
    """
    kinds = kinds_of(module)
    stream, dense, first = streams

    def pairs(one: Stream, numbers: Sequence[int]) -> Iterator[tuple[Outputs, Outputs, int]]:
        for mine, its in zip(numbers, held, strict=True):
            for step, like in zip(one.results(mine), dense.results(its), strict=True):
                yield _written(step), _written(like), 1

    made, wanted, _ = next(pairs(stream, held))
    if not any(
        each in wanted and wanted[each].is_floating_point() for each in kinds if each in made
    ):
        return None
    return judged(kinds, pairs(first, range(len(held)))), judged(kinds, pairs(stream, held))


def _written(step: Mapping[str, object]) -> Outputs:
    return {name: write_value(value, None) for name, value in step.items()}


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
    done = options.epochs * len(shares_of(options)) * (tuning.number + 1)

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


def _cuts(module: StoredModule, options: Regions, memory_budget: int) -> list[list[Region]]:
    """Returns the regions of each stage, small enough for as many as train together."""
    budget = memory_budget // options.window
    return [
        cut(stage.plan, _weights(module, stage), budget, options.batch_size)
        for stage in module.stages
    ]


def _own(
    module: StoredModule, cuts: Sequence[Sequence[Region]], options: Regions
) -> list[list[str]]:
    """Returns for each window of regions the parameters that it alone reads, and that train.

    Where there is no weight among them nothing is: biases alone are not worth a training.
    """
    found: list[list[str]] = []
    readers = _readers(module, cuts)
    names = trained_of(module, weights_only=options.weights_only)
    start = 0
    for regions in cuts:
        for first in range(max(1, len(regions) - options.window + 1)):
            mine = set(range(start, start + len(regions))[first : first + options.window])
            own = [name for name in names if readers[name] and readers[name] <= mine]
            found.append([] if all(map(module.is_beside, own)) else own)
        start += len(regions)
    return found


def _readers(module: StoredModule, cuts: Sequence[Sequence[Region]]) -> Mapping[str, set[int]]:
    """Returns the numbers of the regions that read each parameter."""
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
    return readers


def _inputs(module: ProgramModule, samples: Sequence[Sample]) -> Named:
    """Returns what a module is given, by sample, step and name.

    Raises:
        InputError: a sample does not fit.
    """
    return [
        [
            {
                each.name: read_feature(each, step[each.name], module.device)
                for each in module.inputs
            }
            for step in read_sample(module, sample, number)
        ]
        for number, sample in enumerate(samples)
    ]


def _together(given: Named, options: Regions) -> int:
    """Returns how many samples run at once: one at a time where they differ in shape or length."""
    shapes = {
        tuple((name, tensor.shape) for step in one for name, tensor in step.items())
        for one in given
    }
    return options.batch_size if len(shapes) == 1 else 1
