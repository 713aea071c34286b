"""How weights are solved for: the options of a calibrated run, checked."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, fields
from typing import Any, Literal

from mlpass.calibrate.gram_folder import GramFolder
from mlpass.errors import ConfigError, brief
from mlpass.options import check_options, option
from mlpass.registries import METHODS
from mlpass.runtime.replay import MEMORY_BUDGET
from mlpass.runtime.samples import (
    Sample,
    check_functions,
    check_unnamed,
    functions_in,
    load_samples,
)
from mlpass.solvers.problem import Method
from mlpass.solvers.sparsegpt import SparseGPT


@dataclass(frozen=True)
class Calibration:
    """How weights are solved for.

    Attributes:
        method: that scores, and may update what is kept.
        sample_data: what the program is run on, {input name: array} each, or a sequence of such.
        allocate: how one target sparsity is divided among layers: "uniform"; "owl", which spares
            layers with many outliers; or "error", for the least summed error of all layers.
        max_nbytes: with "error": what the pruned weights may take together, instead of the target.
        propagate: "pruned" where a layer meets what the pruned layers before it make, "dense"
            where it meets what the model made before.
        target: what a layer's outputs are to be: "own", those of its dense weight on what it meets;
            "dense", those of the dense model, so that it makes up for the layers before it; None is
            "dense" where something can make up for anything.
        fallback: what becomes of a weight that no sample reaches: "skip", or "magnitude".
        memory_budget: bytes of activations that may stay in memory.
        backend: that the program runs on, "numpy" or "torch".
        device: torch's.
        function_name: of a model with several functions, the one that the samples are for.
        executor: whose workers divide the samples among them; None where this process runs all.
        dense_grams: what layers meet in the model as it is, where that was gathered before.
        functions: those that samples name; None where they name none.
    """

    method: Method
    sample_data: Sequence[Sample]
    allocate: str = option(
        default="uniform",
        choices=("uniform", "owl", "error"),
        help="how the target sparsity is divided among layers",
    )
    max_nbytes: int | None = option(
        default=None,
        low=0,
        help="with allocate error: what the pruned weights may take, in place of the target",
    )
    propagate: str = option(
        default="pruned",
        choices=("pruned", "dense"),
        help="what a layer meets: the outputs of pruned layers, or of dense ones",
    )
    target: str | None = option(
        default=None,
        choices=("own", "dense"),
        help="what a layer aims at: its own weight's outputs, or the dense model's, which is the "
        "default of methods that change what they keep",
    )
    fallback: str = option(
        default="skip",
        choices=("skip", "magnitude"),
        help="what becomes of a weight that no sample reaches",
    )
    memory_budget: int = option(
        default=MEMORY_BUDGET,
        low=0,
        help="bytes; activations beyond that go to temporary files, 2 GiB without it",
    )
    backend: Literal["numpy", "torch"] = option(
        default="numpy", choices=("numpy", "torch"), help="what runs the model"
    )
    device: str | None = option(default=None, help="torch's: cpu, mps or cuda")
    function_name: str | None = option(default=None, help="the function that the samples are for")
    executor: Executor | None = None
    dense_grams: GramFolder | None = None
    functions: tuple[str | None, ...] = (None,)

    @property
    def settings(self) -> dict[str, object]:
        """The options that the result depends on, by name; samples left out."""
        others = ("sample_data", "memory_budget", "executor", "dense_grams")
        return {name: value for name, value in vars(self).items() if name not in others}

    @property
    def aims_at_dense(self) -> bool:
        """Whether layers make up for what pruning changes before them."""
        if self.target is None:
            return self.method.updates and self.propagate == "pruned"
        return self.target == "dense"

    def __post_init__(self) -> None:
        check_options(self)
        if self.max_nbytes is not None and self.allocate != "error":
            raise ConfigError("max_nbytes: needs allocate='error', which divides it among layers")
        if self.executor is not None:
            _check_divided(self)
        check_functions(self.functions)
        check_unnamed(self.functions, self.function_name)
        if self.target == "dense" and self.propagate == "dense":
            raise ConfigError(
                "target: 'dense' makes up for what pruning changed before a layer, and with "
                "propagate='dense' none meets that; give one of the two"
            )


def make_calibration(
    method: Method | None,
    sample_data: object,
    **options: Any,
) -> Calibration | None:
    """Returns how weights are solved for; None where that is by magnitude, without data.

    Args:
        method: None is `SparseGPT()` with samples, `Magnitude()` without.
        sample_data: in any form that `load_samples` takes, or None.
        **options: the other fields of a `Calibration`.

    Raises:
        ConfigError: the options do not go together.
        CalibrationError: the samples are in a form that `load_samples` does not take.
        OSError: they cannot be read.
    """
    if method is not None and not isinstance(method, Method):
        raise ConfigError(f"method: must be {_method_names()}. Got {brief(method)}.")
    if sample_data is None:
        if options.get("executor") is not None:
            raise ConfigError("executor: divides samples among workers; needs sample_data")
        if method is not None and method.needs_samples:
            raise ConfigError(f"method: {method!r} needs sample_data")
        defaults = {field.name: field.default for field in fields(Calibration)}
        if spare := [name for name, value in options.items() if value != defaults[name]]:
            raise ConfigError(f"{', '.join(spare)}: says how samples are used; needs sample_data")
        return None
    samples = load_samples(sample_data, functions=True)
    functions = functions_in(samples)
    return Calibration(method or SparseGPT(), samples, functions=functions, **options)


def _check_divided(calibration: Calibration) -> None:
    """Raises ConfigError where a run cannot be divided among workers."""
    if not isinstance(calibration.executor, Executor):
        raise ConfigError(
            "executor: must be a concurrent.futures.Executor, such as client.get_executor() of "
            f"dask. Got {brief(calibration.executor)}."
        )
    if calibration.backend != "numpy":
        raise ConfigError(
            f"executor: goes with backend='numpy' alone. Got {calibration.backend!r}."
        )
    if calibration.functions != (None,):
        raise ConfigError("executor: goes with samples that name no functions; drop it")


def _method_names() -> str:
    *most, last = (f"{METHODS[name].kind.__name__}()" for name in METHODS)
    return f"{', '.join(most)} or {last}"
