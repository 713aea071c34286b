"""A compressed model as a module: what trains are the floats that its weights are stored with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlpass.finetune.module import Names, ProgramModule, values_of
from mlpass.finetune.places import floats_of, places_of, slots_of
from mlpass.finetune.weights import is_trained, is_weight
from mlpass.program.ir import Constant, Value
from mlpass.program.mlmodel import ModelLike
from mlpass.weights.reading import decoded
from mlpass.weights.sites import Site


def to_stored_module(
    model: ModelLike, *, device: str | None = None, function_name: Names = None
) -> StoredModule:
    """Returns a compressed model as a module to polish; raises as `to_module` does."""
    return StoredModule(model, device=device, function_name=function_name)


class _Made(NamedTuple):
    """How a weight is made of its parameter: see `Places`.

    Attributes:
        levels: None where they are 1 throughout.
        places: None where each element has a float of its own, in order.
        slots: of a weight that is its floats and zeros, the element that each float is, flat; then
            there is nothing else, as that is made in a fraction of the time.
    """

    levels: Tensor | None = None
    places: Tensor | None = None
    slots: Tensor | None = None


class StoredModule(ProgramModule):
    """A model whose parameters are the floats of its weights as they are stored, in fp32.

    The kept values of a sparse weight, the tables of a palettized one, the scales of a quantized
    one; a dense weight, bias or gain itself. Masks, codes and offsets stay, and so does what is
    zero of a weight. Weights that share their floats share a parameter.

    In evaluation (`module.eval()`) weights are, to the last bit, those of the package that would be
    written; in training nothing is rounded.

    All parameters are held, or only some for a while (`holding`): the program then reads the other
    weights from the package, as far as it runs, and lets go of them.

    Attributes:
        floats: the constant that each parameter holds, by the parameter's name.
        gains: how far an element of a weight goes where its float goes by 1: the root mean square
            of its levels, by the parameter's name; of those that were held.
        trained: where the values of parameters are read that are not those of the package any more.
    """

    def __init__(
        self,
        model: ModelLike,
        *,
        device: str | None,
        function_name: Names,
        held: bool = True,
    ) -> None:
        """Reads the model: see `to_stored_module`.

        Args:
            model: as for `to_module`, and so are `device` and `function_name`.
            device: torch's.
            function_name: of a model with several functions, or a list of those.
            held: whether all parameters are held from the start.
        """
        self.floats: dict[str, Constant] = {}
        self.gains: dict[str, float] = {}
        self.trained: dict[str, Callable[[], NDArray[np.float32]]] = {}
        self._parameter_of: dict[str, str] = {}  # by the name of a site
        self._made: dict[str, _Made] = {}
        self._known: dict[Hashable, str] = {}
        super().__init__(model, device=device, function_name=function_name)
        if held:
            for name in self.floats:
                self._hold(name)

    @contextmanager
    def holding(self, names: Iterable[str]) -> Iterator[None]:
        """Holds parameters, as they are stored or were trained; lets go of those that were not."""
        new = [name for name in names if not self.holds(name)]
        for name in new:
            self._hold(name)
        try:
            yield
        finally:
            for name in new:
                self._let_go(name)

    def weight(self, name: str) -> Tensor:
        """Returns a weight as the program reads it, by the name of its site in `sites`."""
        made, site, parameter = self._made[name], self.sites[name], self.parameter_of(name)
        floats = self._moved(parameter) if self.training else self.rounded(parameter)
        if made.slots is not None:
            zeros = floats.new_zeros(prod(site.shape))
            return zeros.index_copy(0, made.slots, floats.reshape(-1)).reshape(site.shape)
        if made.places is None:
            return floats
        picked = floats.reshape(-1).index_select(0, made.places).reshape(site.shape)
        weight = picked if made.levels is None else picked * made.levels
        return weight.half().float() if site.dtype == "fp16" and not self.training else weight

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
        return self._parameter_of[name]

    def read_as(self, values: Collection[Value]) -> set[str]:
        """Returns the parameters with the floats of weights that are among the program's values."""
        return {
            self.parameter_of(name)
            for name, site in self.sites.items()
            if any(value in values for value in values_of(site))
        }

    def is_beside(self, parameter: str) -> bool:
        """Returns whether a parameter is a bias, a gain or the like rather than a weight."""
        return not any(is_weight(self.sites[name]) for name in self._sites_of(parameter))

    def holds(self, parameter: str) -> bool:
        """Returns whether a parameter is held now."""
        return parameter in self._parameters

    def is_elsewhere(self, parameter: str) -> bool:
        """Returns whether functions read a parameter that this module does not run."""
        run, sites = self.run_values, map(self.sites.__getitem__, self._sites_of(parameter))
        return any(not run.issuperset(values_of(site)) for site in sites)

    def _take(self, stored: Site) -> None:
        """Makes the floats of a site a parameter, where they may train."""
        floats = floats_of(stored)
        if floats is None or not is_trained(decoded(stored)):
            return
        name = self._free_name(stored.name)
        key: Hashable = floats if floats.storage is None else (floats.storage, floats.type)
        parameter = self._known.setdefault(key, name)
        self.floats.setdefault(parameter, floats)
        self.sites[name] = stored
        self._parameter_of[name] = parameter

    def _sites_of(self, parameter: str) -> list[str]:
        return [name for name, one in self._parameter_of.items() if one == parameter]

    def _hold(self, parameter: str) -> None:
        """Reads a parameter, and how the weights are made of it."""
        floats = self.floats[parameter]
        read: Callable[[], Any] = self.trained.get(parameter, floats.read)
        values = torch.from_numpy(np.array(read(), np.float32)).to(self.device)
        self.register_parameter(parameter, nn.Parameter(values))
        if is_weight(self.sites[parameter]) and not bool(values.all()):
            self.set_mask(parameter, values != 0)
        made = {name: self._made_of(self.sites[name]) for name in self._sites_of(parameter)}
        self.gains[parameter] = max(_gain(one.levels) for one in made.values())
        self._made.update(made)

    def _made_of(self, site: Site) -> _Made:
        floats = floats_of(site)
        if site.constant is not None or floats is None:
            return _Made()
        found = places_of(site, floats)
        if (slots := slots_of(found, floats.size)) is not None:
            return _Made(slots=torch.from_numpy(slots).to(self.device))
        places = torch.from_numpy(found.places).to(self.device)
        levels = found.levels
        return _Made(None if levels is None else torch.from_numpy(levels).to(self.device), places)

    def _let_go(self, parameter: str) -> None:
        """Forgets a parameter; it can be held again."""
        delattr(self, parameter)
        if self.mask_of(parameter) is not None:
            delattr(self, f"{parameter}_mask")
        for name in self._sites_of(parameter):
            del self._made[name]


def _gain(levels: Tensor | None) -> float:
    """Returns the root mean square of the levels that are not zero, 1 where all are."""
    used = None if levels is None else levels[levels != 0]
    return 1.0 if used is None or not used.numel() else float(used.square().mean().sqrt())
