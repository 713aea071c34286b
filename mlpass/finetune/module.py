"""A Core ML model as a `torch.nn.Module` that trains."""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlpass.errors import InputError, ModelFormatError, UnsupportedOpError
from mlpass.finetune.batching import Batch, mapped
from mlpass.finetune.features import batch_size, read_feature, write_value
from mlpass.finetune.weights import find_trained, is_trained, is_weight, opened
from mlpass.program.ir import Argument, StateType, Value
from mlpass.program.mlmodel import ModelLike, open_single
from mlpass.runtime.backends.base import Backend
from mlpass.runtime.execute import execute
from mlpass.runtime.features import check_names
from mlpass.runtime.function_plan import FunctionPlan, OpPlan
from mlpass.runtime.interpreter import Interpreter, Part
from mlpass.runtime.kernels.states import Cell
from mlpass.runtime.sources import close_with
from mlpass.weights.reading import weight_of
from mlpass.weights.sites import Site


def to_module(
    model: ModelLike, *, device: str | None = None, function_name: str | None = None
) -> ProgramModule:
    """Returns a model as a module to train.

    Args:
        model: path of an `.mlpackage`, or an `MLModel`; it is not changed.
        device: torch's: "cpu", "mps" or "cuda".
        function_name: of a model with several functions; its default one where None.

    Raises:
        ConfigError: there is no such function.
        BackendError: torch has no such device here.
        ModelFormatError: the model cannot be read.
        UnsupportedOpError: it has ops without kernels, all named at once.
        OSError: its files cannot be read.
    """
    return ProgramModule(model, device=device, function_name=function_name)


@dataclass(frozen=True, eq=False)
class Stage:
    """A program of the model, ready to train.

    Attributes:
        part: of the Interpreter.
        plan: its plan with ops that take batches, without classifiers.
        results: the value of each output by name.
        single: the steps of the plan as they take one sample.
    """

    part: Part
    plan: FunctionPlan
    results: Mapping[str, Argument]
    single: Sequence[OpPlan]


class ProgramModule(nn.Module):
    """A model whose parameters are the float weights of its program, under their names there.

    Weights, biases and the gains of normalizations train, in fp32 whatever their stored type is;
    other constants stay, and so do weights that are quantized or palettized. The statistics of a
    batch_norm are those of the conversion (mostly it is folded into a convolution): training and
    evaluation are the same.

    Attributes:
        source: the model.
        inputs: what `forward` takes.
        ignored: names of a pipeline's other inputs, for parts that are not run.
        outputs: what it gives.
        states: the shape of each state by its name.
        parts: its programs, as an Interpreter has them.
        stages: the same, ready to train.
        backend: that they run on.
        device: where that is.
        sites: the site of each parameter, by the parameter's name; sparse ones opened.
        weights: the sites of all weights as they are stored, the untrained ones included.
        sparse: names of the parameters that are stored sparse: they keep their zeros.
    """

    def __init__(self, model: ModelLike, *, device: str | None, function_name: str | None) -> None:
        """Reads the model: see `to_module`."""
        super().__init__()
        self.source = model
        self._options = {"device": device, "function_name": function_name}
        package = open_single(model)
        close_with(self, package)
        runner = Interpreter(
            package, backend="torch", device=device, function_name=function_name, partial=True
        )
        if kinds := sorted({each.kind for part in runner.parts for each in part.before}):
            raise UnsupportedOpError(
                f"{package.path}: has programs behind parts of kind {', '.join(kinds)}, which have "
                "no gradients; prune it on samples without fine-tuning"
            )
        read = {each.name for part in runner.parts for each in part.description.inputs}
        self.inputs = tuple(each for each in runner.inputs if each.name in read)
        self.ignored = {each.name for each in runner.inputs} - read
        self.outputs = runner.outputs
        self.states = {name: state.shape for name, state in runner.states.items()}
        assert runner.backend is not None  # Core ML runs nothing here
        self.backend = runner.backend
        self.device = torch.device(device or "cpu")
        self.parts = runner.parts
        self.stages = [stage_of(part) for part in self.parts]
        self.sites: dict[str, Site] = {}
        self.sparse: set[str] = set()
        found = find_trained(package.programs)
        self.weights = [site for site in found if is_weight(site)]
        made = {value for part in runner.parts for value in part.plan.makers}
        for stored in found:
            if not made.isdisjoint(values_of(stored)):
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
        self, state: dict[str, Cell] | None = None, /, **inputs: object
    ) -> dict[str, Tensor]:
        """Returns the outputs by name, floats as fp32.

        A batch is what single samples are, one after another along their leading axis; so are its
        outputs. Of a classifier's outputs the probabilities are given, in the order of its labels,
        and no label.

        Args:
            state: from `make_state`, for the steps of a sequence, which read and write it, and
                through which gradients flow from step to step; all zeros where None.
            inputs: by name, tensors or arrays; images as (samples, channels, height, width) in the
                model's order. One that is as a single sample's while others are a batch is shared.

        Raises:
            InputError: names or shapes that do not fit.
            ExecutionError: an op failed, or cannot run on a batch.
        """
        values: dict[str, Any] = self.taken(inputs)
        sizes: dict[str, int | None] = {}
        for feature in self.inputs:
            values[feature.name] = read_feature(feature, values.get(feature.name), self.device)
            sizes[feature.name] = batch_size(feature, values[feature.name])
        count = _agreed(sizes)
        for name, size in sizes.items():
            if size is not None:
                samples = values[name]
                values[name] = Batch(samples.unflatten(0, (size, -1)) if samples.ndim else samples)
        cells = self.make_state() if state is None else state
        with running(self.backend):
            for stage in self.stages:
                values.update(self._run(stage, values, cells))
        wanted = [feature.name for feature in self.outputs if feature.name in values]
        return {name: write_value(values[name], count) for name in wanted}

    def __deepcopy__(self, memo: dict[int, object]) -> ProgramModule:
        twin = type(self)(self.source, **self._options)
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

    def taken(self, inputs: Mapping[str, object]) -> dict[str, object]:
        """Returns what the programs take of inputs by name.

        Raises:
            InputError: names that are not the model's.
        """
        taken = {name: value for name, value in inputs.items() if name not in self.ignored}
        check_names(taken, self.inputs)
        return taken

    def weight(self, name: str) -> Tensor:
        """Returns a parameter as the program reads it: times its mask, where it has one."""
        master, mask = self._parameters[name], self.mask_of(name)
        assert master is not None
        return master if mask is None else master * mask

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


def stage_of(part: Part) -> Stage:
    """Returns a part ready to train: a classifier's probabilities are an output of their own."""
    block = part.plan.block
    results: dict[str, Argument] = {value.name: value for value in block.outputs}
    for step in block.steps:
        if step.op.type == "classify":
            label, probabilities = step.op.outputs
            results.pop(label.name, None)
            if probabilities.name in results:
                (results[probabilities.name],) = step.op.inputs["probabilities"]
    steps = tuple(step for step in block.steps if step.op.type != "classify")
    outputs = tuple(value for value in results.values() if isinstance(value, Value))
    trimmed = mapped(replace(block, steps=steps, outputs=outputs))
    return Stage(part, replace(part.plan, block=trimmed), results, steps)


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
