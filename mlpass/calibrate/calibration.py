"""How weights are solved for: the options of a calibrated run, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlpass.calibrate.gram_folder import GramFolder
from mlpass.errors import ConfigError
from mlpass.runtime.replay import MEMORY_BUDGET
from mlpass.runtime.samples import load_samples
from mlpass.solvers.palettize import Palettization
from mlpass.solvers.problem import Method
from mlpass.solvers.quantize import Quantization
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.solvers.storage import Storage
from mlpass.solvers.wanda import Magnitude

_ALLOCATIONS = ("uniform", "owl", "error")


@dataclass(frozen=True)
class Calibration:
    """How weights are solved for.

    Attributes:
        method: that scores, and may update what is kept.
        sample_data: what the program is run on, {input name: array} each.
        quantize: how kept weights become integers in the same solve; None where they do not.
        palettize: how they become indices into a table; None where they do not.
        allocate: how one target sparsity is divided among layers: "uniform"; "owl", which spares
            layers with many outliers; or "error", for the least summed error of all layers.
        max_nbytes: with "error": what the pruned weights may take together, instead of the target.
        propagate: "pruned" where a layer meets what the pruned layers before it make, "dense"
            where it meets what the model made before.
        fallback: what becomes of a weight that no sample reaches: "skip", or "magnitude".
        memory_budget: bytes of activations that may stay in memory.
        backend: that the program runs on, "numpy" or "torch".
        device: torch's.
        function_name: of a model with several functions, the one that the samples are for.
        dense_grams: what layers meet in the model as it is, where that was gathered before.
    """

    method: Method
    sample_data: Sequence[Mapping[str, Any]]
    quantize: Quantization | None = None
    palettize: Palettization | None = None
    allocate: str = "uniform"
    max_nbytes: int | None = None
    propagate: str = "pruned"
    fallback: str = "skip"
    memory_budget: int = MEMORY_BUDGET
    backend: str = "numpy"
    device: str | None = None
    function_name: str | None = None
    dense_grams: GramFolder | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The options that the result depends on, by name; samples left out."""
        others = ("sample_data", "memory_budget", "dense_grams")
        return {name: value for name, value in vars(self).items() if name not in others}

    @property
    def storage(self) -> Storage | None:
        """How values are to be kept; None as they come."""
        return self.quantize or self.palettize

    def __post_init__(self) -> None:
        _check_choice("allocate", self.allocate, _ALLOCATIONS)
        _check_choice("propagate", self.propagate, ("pruned", "dense"))
        _check_choice("fallback", self.fallback, ("skip", "magnitude"))
        _check_choice("backend", self.backend, ("numpy", "torch"))
        if self.quantize is not None and self.palettize is not None:
            raise ConfigError("quantize: does not go with palettize; choose one")
        if self.max_nbytes is not None and self.allocate != "error":
            raise ConfigError("max_nbytes: needs allocate='error', which divides it among layers")


def make_calibration(
    method: Method | None,
    sample_data: Any,
    *,
    quantize: str | Quantization | None = None,
    palettize: int | Palettization | None = None,
    **options: Any,
) -> Calibration | None:
    """Returns how weights are solved for; None where that is by magnitude, without data.

    Args:
        method: None is `SparseGPT()` with samples, `Magnitude()` without.
        sample_data: in any form that `load_samples` takes, or None.
        quantize: a dtype, or a `Quantization`.
        palettize: the bits, 4, or a `Palettization`.
        **options: the other fields of a `Calibration`.

    Raises:
        ConfigError: the options do not go together.
        CalibrationError: the samples are of no such form.
        OSError: they cannot be read.
    """
    if method is not None and not isinstance(method, Method):
        raise ConfigError(
            f"method: must be Magnitude(), Wanda(), SparseGPT() or ADMM(). Got {method!r}."
        )
    if isinstance(quantize, str):
        quantize = Quantization(quantize)
    if isinstance(palettize, int):
        if palettize != 4:
            raise ConfigError(f"palettize: must be 4 bits. Got {palettize!r}.")
        palettize = Palettization()
    if sample_data is None:
        if method not in (None, Magnitude()):
            raise ConfigError(f"method: {method!r} needs sample_data")
        if quantize is not None or palettize is not None:
            raise ConfigError("quantize and palettize need sample_data")
        return None
    return Calibration(
        method or SparseGPT(), load_samples(sample_data), quantize, palettize, **options
    )


def _check_choice(option: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"{option}: must be {' or '.join(map(repr, known))}. Got {value!r}.")
