"""A compressed model as a module: what trains are the floats that its weights are stored with."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mlpass.finetune.module import ProgramModule
from mlpass.finetune.places import floats_of, places_of
from mlpass.finetune.weights import is_trained, is_weight
from mlpass.program.ir import Constant
from mlpass.program.mlmodel import ModelLike
from mlpass.weights.reading import decoded
from mlpass.weights.sites import Site


def to_stored_module(model: ModelLike, *, device: str | None = None) -> StoredModule:
    """Returns a compressed model as a module to polish; raises as `to_module` does."""
    return StoredModule(model, device=device, function_name=None)


class _Made(NamedTuple):
    """How a weight is made: see `Places`.

    Attributes:
        parameter: name of the one that has its floats.
        shape: of the weight.
        levels: None where they are 1 throughout.
        places: None where each element has a float of its own, in order.
        half: whether the weight is fp16.
    """

    parameter: str
    shape: tuple[int, ...]
    levels: Tensor | None
    places: Tensor | None
    half: bool


class StoredModule(ProgramModule):
    """A model whose parameters are the floats of its weights as they are stored, in fp32.

    The kept values of a sparse weight, the tables of a palettized one, the scales of a quantized
    one; a dense weight, bias or gain itself. Masks, codes and offsets stay, and so does what is
    zero of a weight. Weights that share their floats share a parameter.

    In evaluation (`module.eval()`) weights are, to the last bit, those of the package that would be
    written; in training nothing is rounded.

    Attributes:
        floats: the constant that each parameter holds, by the parameter's name.
        gains: how far an element of a weight goes where its float goes by 1: the root mean square
            of its levels, by the parameter's name.
    """

    def __init__(self, model: ModelLike, *, device: str | None, function_name: str | None) -> None:
        """Reads the model: see `to_stored_module`."""
        self.floats: dict[str, Constant] = {}
        self.gains: dict[str, float] = {}
        self._made: dict[str, _Made] = {}
        self._known: dict[Hashable, str] = {}
        super().__init__(model, device=device, function_name=function_name)

    def weight(self, name: str) -> Tensor:
        """Returns a weight as the program reads it, by the name of its site in `sites`."""
        made = self._made[name]
        floats = self._moved(made.parameter) if self.training else self.rounded(made.parameter)
        if made.places is None:
            return floats
        picked = floats.reshape(-1).index_select(0, made.places).reshape(made.shape)
        weight = picked if made.levels is None else picked * made.levels
        return weight.half().float() if made.half and not self.training else weight

    def rounded(self, parameter: str) -> Tensor:
        """Returns a parameter with the values that its stored type holds."""
        floats = self._moved(parameter)
        return floats.half().float() if self.floats[parameter].dtype.name == "fp16" else floats

    def _moved(self, parameter: str) -> Tensor:
        """Returns a parameter as it is used: what is to stay zero is zero."""
        floats: Tensor = self.get_parameter(parameter)
        mask = self.mask_of(parameter)
        return floats if mask is None else floats * mask

    def parameter_of(self, name: str) -> str:
        """Returns the name of the parameter that has the floats of a weight in `sites`."""
        return self._made[name].parameter

    def is_beside(self, parameter: str) -> bool:
        """Returns whether a parameter is a bias, a gain or the like rather than a weight."""
        sites = [
            self.sites[name] for name, made in self._made.items() if made.parameter == parameter
        ]
        return not any(map(is_weight, sites))

    def _take(self, stored: Site) -> None:
        """Makes the floats of a site a parameter, where they may train."""
        floats = floats_of(stored)
        if floats is None or not is_trained(decoded(stored)):
            return
        name = self._free_name(stored.name)
        key: Hashable = floats if floats.storage is None else (floats.storage, floats.type)
        parameter = self._known.setdefault(key, name)
        levels = places = None
        if stored.constant is None:
            found = places_of(stored, floats)
            places = torch.from_numpy(found.places).to(self.device)
            if found.levels is not None:
                levels = torch.from_numpy(found.levels).to(self.device)
        if parameter == name:
            self._add(name, floats, fixed=is_weight(stored))
        gain = 1.0
        if levels is not None and bool(levels.any()):
            gain = float(levels[levels != 0].square().mean().sqrt())
        self.gains[parameter] = max(gain, self.gains.get(parameter, 0.0))
        self.sites[name] = stored
        self._made[name] = _Made(parameter, stored.shape, levels, places, stored.dtype == "fp16")

    def _add(self, name: str, floats: Constant, *, fixed: bool) -> None:
        """Makes a constant a parameter; `fixed` where what is zero stays so."""
        values = torch.from_numpy(np.array(floats.read(), np.float32)).to(self.device)
        self.register_parameter(name, nn.Parameter(values))
        self.floats[name] = floats
        if fixed and not bool(values.all()):
            self.set_mask(name, values != 0)
