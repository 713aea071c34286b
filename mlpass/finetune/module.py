"""A Core ML model as a `torch.nn.Module` that trains."""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlpass.errors import ConfigError, InputError, ModelFormatError, close_matches
from mlpass.finetune.batching import PerSample
from mlpass.finetune.entry import Entry, Stage, beside, entry_of
from mlpass.finetune.features import batch_size, read_feature, write_value
from mlpass.finetune.weights import find_trained, is_trained, is_weight, opened
from mlpass.program.ir import StateType, Value
from mlpass.program.mlmodel import ModelLike, open_single
from mlpass.runtime.backends.base import Backend
from mlpass.runtime.calls import function_of
from mlpass.runtime.execute import execute
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.kernels.states import Cell
from mlpass.runtime.samples import Inputs
from mlpass.runtime.sources import close_with
from mlpass.weights.reading import weight_of
from mlpass.weights.sites import Site

Names = str | Sequence[str] | None  # of a function, or of several


def to_module(
    model: ModelLike, *, device: str | None = None, function_name: Names = None
) -> ProgramModule:
    """Returns a model as a module to train.

    Args:
        model: path of an `.mlpackage`, or an `MLModel`; it is not changed.
        device: torch's: "cpu", "mps" or "cuda".
        function_name: of a model with several functions, the one to run, or a list of those; its
            default one where None.

    Raises:
        ConfigError: there is no such function; or two keep different states of one name.
        BackendError: torch has no such device here.
        ModelFormatError: the model cannot be read.
        UnsupportedOpError: it has ops without kernels, all named at once.
        OSError: its files cannot be read.
    """
    return ProgramModule(model, device=device, function_name=function_name)


class ProgramModule(nn.Module):
    """A model whose parameters are the float weights of its program, under their names there.

    Weights, biases and the gains of normalizations train, in fp32 whatever their stored type is;
    other constants stay, and so do weights that are quantized or palettized. The statistics of a
    batch_norm are those of the conversion (mostly it is folded into a convolution): training and
    evaluation are the same.

    Of several functions the parameters are those that any of them reads.

    Attributes:
        source: the model.
        function_name: as it was given.
        entries: the functions that are run, by name.
        inputs: what the first of them takes.
        outputs: what it gives.
        stages: the programs; of several functions, theirs beside each other.
        states: the shape of each state, of all functions, by its name.
        backend: that they run on.
        device: where that is.
        sites: the site of each parameter, by the parameter's name; sparse ones opened.
        weights: the sites of all weights as they are stored, the untrained ones included.
        sparse: names of the parameters that are stored sparse: they keep their zeros.
    """

    def __init__(self, model: ModelLike, *, device: str | None, function_name: Names) -> None:
        """Reads the model: see `to_module`."""
        super().__init__()
        self.source = model
        self.function_name, self._device_name = function_name, device
        package = open_single(model)
        close_with(self, package)
        self.entries: dict[str, Entry] = {}
        self.states: dict[str, tuple[int, ...]] = {}
        names: Sequence[str | None] = [None]
        if function_name:
            names = [function_name] if isinstance(function_name, str) else function_name
        for name in names:
            runner = Interpreter(
                package, backend="torch", device=device, function_name=name, partial=True
            )
            assert runner.backend is not None  # Core ML runs nothing here
            self.backend = runner.backend
            self._enter(name, entry_of(runner, package))
        self.device = torch.device(device or "cpu")
        first = self.entry()
        self.inputs, self.outputs = first.inputs, first.outputs
        self.stages = beside(self.entries, self.backend)
        self.sites: dict[str, Site] = {}
        self.sparse: set[str] = set()
        found = find_trained(package.programs)
        self.weights = [site for site in found if is_weight(site)]
        run = self.run_values
        for stored in found:
            if not run.isdisjoint(values_of(stored)):
                self._take(stored)
        if not self.sites:
            raise ModelFormatError(f"{package.name}: has no float weights to train")

    def make_state(self) -> dict[str, Cell]:
        """Returns a new state, all zeros; nothing is in it where the model keeps none."""
        return {
            name: Cell(torch.zeros(shape, device=self.device))
            for name, shape in self.states.items()
        }

    def forward(
        self,
        state: dict[str, Cell] | None = None,
        function: str | None = None,
        count: int | None = None,
        /,
        **inputs: object,
    ) -> dict[str, Tensor]:
        """Returns the outputs by name, floats as fp32.

        A batch is what single samples are, one after another along their leading axis; so are its
        outputs. Of a classifier's outputs the probabilities are given, in the order of its labels,
        and no label.

        Args:
            state: from `make_state`, for the steps of a sequence, which read and write it, and
                through which gradients flow from step to step; all zeros where None.
            function: the one to run of those of the module; its first where None.
            count: of the samples that each input holds, which shapes do not tell where a leading
                axis has no fixed size: where None, what the model takes as one sample is one.
            inputs: by name, tensors or arrays; images as (samples, channels, height, width) in the
                model's order. One that is as a single sample's while others are a batch is shared.

        Raises:
            InputError: names or shapes that do not fit, or a function that is not the module's.
            ExecutionError: an op failed, or cannot run on a batch.
        """
        entry = self.entry(function)
        values: dict[str, Any] = entry.taken(inputs)
        sizes: dict[str, int | None] = {}
        for feature in entry.inputs:
            values[feature.name] = read_feature(feature, values.get(feature.name), self.device)
            sizes[feature.name] = batch_size(feature, values[feature.name], count)
        agreed = _agreed(sizes)
        for name, size in sizes.items():
            if size is not None:
                samples = values[name]
                if samples.ndim:
                    samples = samples.unflatten(0, (size, len(samples) // size))
                values[name] = PerSample(samples)
        cells = self.make_state() if state is None else state
        with running(self.backend):
            for stage in entry.stages:
                values.update(self._run(stage, values, cells))
        wanted = [feature.name for feature in entry.outputs if feature.name in values]
        return {name: write_value(values[name], agreed) for name in wanted}

    def __deepcopy__(self, memo: dict[int, object]) -> ProgramModule:
        twin = type(self)(self.source, device=self._device_name, function_name=self.function_name)
        for name in self.sites:
            if (mask := self.mask_of(name)) is not None:
                twin.set_mask(name, mask.clone())
        twin.load_state_dict(self.state_dict())
        return twin.train(self.training)

    @property
    def parameter_names(self) -> dict[str, str]:
        """The name of each parameter by that of its site."""
        return {site.name: name for name, site in self.sites.items()}

    def parameter_of(self, name: str) -> str:
        """Returns the name of the parameter that a site in `sites` is made of: its own."""
        return name

    def mask_of(self, name: str) -> Tensor | None:
        """Returns the keep mask of a parameter; None where it has none."""
        return self._buffers.get(f"{name}_mask")

    def set_mask(self, name: str, mask: Tensor) -> None:
        """Lets a parameter be multiplied with a keep mask from now on."""
        self.register_buffer(f"{name}_mask", mask.to(self.device))

    def entry(self, function: str | None = None) -> Entry:
        """Returns a function that the module runs; its first where None.

        Raises:
            InputError: it does not run that one.
        """
        if function is None:
            return next(iter(self.entries.values()))
        if function not in self.entries:
            raise InputError(
                f"is for the function {function!r}{close_matches(function, self.entries)}: the "
                f"module runs {', '.join(self.entries)}"
            )
        return self.entries[function]

    def runner(self, step: Inputs) -> Entry:
        """Returns the function that a step of a sample is for; raises as `entry`."""
        return self.entry(function_of(step))

    @property
    def run_values(self) -> set[Value]:
        """What the ops of all functions that are run make."""
        parts = (part for entry in self.entries.values() for part in entry.parts)
        return {value for part in parts for value in part.plan.makers}

    def weight(self, name: str) -> Tensor:
        """Returns a parameter as the program reads it: times its mask, where it has one."""
        master, mask = self._parameters[name], self.mask_of(name)
        assert master is not None
        return master if mask is None else master * mask

    def _enter(self, name: str | None, entry: Entry) -> None:
        """Adds a function to those that are run."""
        for state, shape in entry.states.items():
            if self.states.setdefault(state, shape) != shape:
                raise ConfigError(
                    f"function_name: {name!r} keeps a state {state!r} of shape {shape}, and "
                    f"another function one of shape {self.states[state]}: run one of them alone"
                )
        first = (part.plan.function.name for part in entry.parts)
        self.entries[name or next(first, "")] = entry

    def _take(self, stored: Site) -> None:
        """Makes a site a parameter, where it may train."""
        site = opened(stored)
        if not is_trained(site):
            return
        name = self._free_name(site.name)
        master = torch.from_numpy(np.array(weight_of(site), np.float32)).to(self.device)
        self.register_parameter(name, nn.Parameter(master))
        self.sites[name] = site
        if stored.is_sparse:
            self.sparse.add(name)
            self.set_mask(name, master != 0)

    @contextmanager
    def lending(self, stage: Stage, read: Container[Value]) -> Iterator[None]:
        """Lets a stage run with the parameters in the place of those constants that are `read`."""
        constants = stage.part.constants
        trained = {
            value: self.weight(name)
            for name, site in self.sites.items()
            if self.parameter_of(name) in self._parameters
            for value in values_of(site)
            if value in stage.plan.makers and value in read
        }
        for value, weight in trained.items():
            constants.replace(value, weight)
        try:
            yield
        finally:
            for value in trained:
                constants.forget(value)

    def _run(
        self, stage: Stage, values: Mapping[str, object], cells: Mapping[str, Cell]
    ) -> dict[str, object]:
        plan, constants = stage.plan, stage.part.constants
        with self.lending(stage, plan.makers):
            wanted = [value for value in stage.results.values() if isinstance(value, Value)]
            bound = dict(_bind(stage, values, cells))
            made = execute(plan, constants, self.backend, bound, wanted=wanted)
        return {
            name: made[value] if isinstance(value, Value) else constants[value]
            for name, value in stage.results.items()
        }

    def _free_name(self, wanted: str) -> str:
        """Returns a name that torch takes for a parameter."""
        name = wanted.replace(".", "_") or "weight"
        # Some names are torch's own, and a name's mask must be free, too.
        while any(
            hasattr(self, each) or each in self.sites
            for each in (name, f"{name}_mask", name.removesuffix("_mask"))
        ):
            name += "_"
        return name


@contextmanager
def running(backend: Backend) -> Iterator[None]:
    """Holds what running needs where gradients may be asked for."""
    recording = torch.is_grad_enabled()
    with ExitStack() as stack:
        # A constant that is first read in inference mode could not be trained with later.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(recording))
        stack.enter_context(backend.session(True))
        stack.enter_context(warnings.catch_warnings())
        # vmap says so where it goes sample by sample within an op, which is what it is for.
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        yield


def _bind(
    stage: Stage, values: Mapping[str, object], cells: Mapping[str, Cell]
) -> Iterator[tuple[Value, Any]]:
    """Yields each input of a stage with what it is in one run."""
    for value in stage.plan.block.inputs:
        of = cells if isinstance(value.type, StateType) else values
        yield value, of[value.name]


def values_of(site: Site) -> list[Value]:
    """Returns the values that ops read a site by."""
    return [maker.outputs[-1] for maker in site.makers]


def _agreed(sizes: Mapping[str, int | None]) -> int | None:
    """Returns how many samples there are, None for a single one without a batch axis."""
    given = {name: size for name, size in sizes.items() if size is not None}
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{name!r} {size}" for name, size in given.items())
        raise InputError(f"inputs: must be batches of one size. Got {listed}.")
    return next(iter(given.values()), None)
