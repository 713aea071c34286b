"""A module tuned window by window: each learns on what the windows tuned before it make."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import deepcopy
from math import isnan
from typing import NamedTuple, NoReturn

from tqdm import tqdm

from mlpass.errors import ModelFormatError
from mlpass.finetune.abreast import Abreast, Models, Window
from mlpass.finetune.apart import run_apart
from mlpass.finetune.feeding import Given, inputs_of, shapes_of
from mlpass.finetune.judging import Judged
from mlpass.finetune.losses import kinds_of
from mlpass.finetune.module import ProgramModule
from mlpass.finetune.owning import owned_by_windows, readers_of, regions_of
from mlpass.finetune.region_journal import RegionJournal
from mlpass.finetune.region_notes import region_notes
from mlpass.finetune.stored import StoredModule
from mlpass.finetune.streams import values_read
from mlpass.finetune.training import divided_by_functions, put_back
from mlpass.finetune.tuning import Tuned, Tuning, shares_of, tune_region
from mlpass.plan.regions import Regions
from mlpass.runtime.backends.threads import fixed_threads
from mlpass.runtime.given import warn_of_each
from mlpass.runtime.replay import MEMORY_BUDGET
from mlpass.runtime.samples import Sample, functions_in


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
        ConfigError: there is no output of a name.
        CalibrationError: there are too few samples.
        ModelFormatError: the teacher is another model.
    """
    warn_of_each(module, samples)
    parts = divided_by_functions(samples, options.held_out, options.seed)
    _check_alike(module, teacher)
    models = Models(module, teacher, solved or deepcopy(module))
    run = _Run(models, samples, parts, options, journal or RegionJournal(), memory_budget)
    with run.bar:
        for number in range(len(module.stages)):
            run.tune_stage(number)
    return run.done()


class _Run:
    """A tuning on its way through the stages of a model."""

    def __init__(
        self,
        models: Models,
        samples: Sequence[Sample],
        parts: tuple[Sequence[int], Sequence[int]],
        options: Regions,
        journal: RegionJournal,
        memory_budget: int,
    ) -> None:
        """Says what each window of regions is to train; nothing runs yet."""
        self._kinds = kinds_of(models.tuned, options.logits, functions_in(samples))
        self._models, self._options, self._journal = models, options, journal
        self._parts, self._memory_budget = parts, memory_budget
        self._regions, self._firsts = (
            regions_of(one, options, memory_budget) for one in (models.tuned, models.first)
        )
        self._readers = readers_of(models.tuned, self._regions)
        self._owned = owned_by_windows(models.tuned, self._regions, self._readers, options)
        tuned, dense, first = (inputs_of(one, samples) for one in models)
        self._given: list[Given] = [tuned, dense, [first[number] for number in parts[0]]]
        self._together = 1 if run_apart(models.tuned) else _together(tuned, options)
        self._found: dict[int, Tuned | None] = {}
        self._outputs: tuple[Judged, Judged] | None = None
        for one in models:
            one.eval()
        self._turns = options.epochs * len(shares_of(options))  # of a window
        total = len(self._owned) * self._turns
        self.bar: tqdm[NoReturn] = tqdm(total=total, desc="tuning", unit="epoch", disable=None)

    def tune_stage(self, number: int) -> None:
        """Tunes one window after another; what the stage makes then goes into the next.

        Of what the last stage makes, the outputs for what is held out are all that is of use.
        """
        held = self._parts[0] if number == len(self._regions) - 1 else None
        with Abreast(
            self._models,
            number,
            (self._regions[number], self._firsts[number]),
            self._given,
            self._options.window,
            held,
            batch_size=self._together,
            memory_budget=self._memory_budget,
        ) as stage:
            for window in stage.windows:
                self._tune_window(stage, window)
            if held is None:
                self._given = stage.results()
            else:
                self._outputs = stage.outputs(held, self._kinds)

    def _tune_window(self, stage: Abreast, window: Window) -> None:
        number, module = len(self._found), self._models.tuned
        names = self._owned[number]
        goal = stage.goal(window, trains=bool(names))
        tuning = Tuning(stage.tuned, window.tuned, goal, names, number)
        read = module.read_as(values_read(stage.tuned.stage, window.tuned))
        with module.holding({*names, *(read & module.trained.keys())}):
            self._found[number] = self._tuned(tuning)
            stage.go_on(window)

    def _tuned(self, tuning: Tuning) -> Tuned | None:
        """Returns what a window came to: tuned now, or by the run that this one goes on with.

        None where it has nothing to train, or nothing to aim at for it.
        """
        module, names, number = tuning.module, tuning.names, tuning.number

        def tell(epoch: Tuned) -> None:
            self.bar.update()
            losses = f"{epoch.before:.4g} -> {epoch.after:.4g}"
            self.bar.set_postfix_str(f"region {number + 1}, held-out loss {losses}")

        found = self._journal.get(number, module, names)
        if found is None and tuning.heard(self._parts[0]):
            found = tune_region(tuning, self._options, self._parts, tell)
            self._journal.add(number, found, module, names)
        if found is not None and found.kept:
            module.trained.update(self._journal.readers(number, names))
        self.bar.update(self._turns * (number + 1) - self.bar.n)
        return found

    def done(self) -> Done:
        """Returns what all came to; where the outputs are worse for it, all is put back."""
        module, found, owned = self._models.tuned, self._found, self._owned
        notes = region_notes(module, found, owned, self._parts, self._options, self._readers)
        better = {
            name for number, one in found.items() if one and one.kept for name in owned[number]
        }
        if self._outputs is None:
            return Done(notes, better)
        before, after = self._outputs
        told = f"outputs on these: loss {before.loss:.4g} -> {after.loss:.4g}"
        if after.loss > before.loss or (isnan(after.loss) and not isnan(before.loss)):
            _put_back(module, self._models.first, better)
            told, better = f"{told}: that is worse, so all was left as it was", set()
        return Done((notes[0], told, *before.told(after), *notes[1:]), better)


def _together(given: Given, options: Regions) -> int:
    """Returns how many samples run at once: one at a time where those of a function differ."""
    shapes = {shapes_of(step) for steps in given for step in steps}
    functions = {step.function for steps in given for step in steps}
    return options.batch_size if len(shapes) == len(functions) else 1


def _put_back(module: StoredModule, first: StoredModule, names: Collection[str]) -> None:
    """Sets parameters to what they were before the run."""
    for name in names:
        module.trained.pop(name, None)
    put_back(module, {name: first.get_parameter(name) for name in names if module.holds(name)})


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
