"""What a program states, as arrays of a backend: read at first use, each once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from mlpass.arrays import Array
from mlpass.errors import ExecutionError, ModelFormatError
from mlpass.halves import widened
from mlpass.program.ir import Constant, Op, Value
from mlpass.runtime.backends.base import Backend
from mlpass.runtime.function_plan import FunctionPlan, OpPlan
from mlpass.runtime.materialize import decompress
from mlpass.runtime.ops import Source, label_of


class Constants:
    """The constants of a function: a mapping from a value, or a stated constant, to its array.

    Floats are widened to fp32, compressed weights decompressed. An array is kept once it was read;
    constants that are one blob of a weight file are one array.
    """

    def __init__(self, plan: FunctionPlan, backend: Backend, shared: dict[Hashable, Array]) -> None:
        """Reads nothing yet."""
        self._plan = plan
        self._backend = backend
        self._arrays: dict[Source, Array] = {}
        self._shared = shared
        self._arguments: dict[OpPlan, dict[str, object]] = {}

    def __contains__(self, source: Source) -> bool:
        return isinstance(source, Constant) or source in self._plan.makers

    def __getitem__(self, source: Source) -> Array:
        array = self._arrays.get(source)
        if array is None:
            array = self._arrays[source] = self._read(source)
        return array

    def arguments(self, step: OpPlan) -> dict[str, object]:
        """Returns what the program itself gives to the kernel of `step`; not to be changed."""
        found = self._arguments.get(step)
        if found is None:
            found = self._arguments[step] = {
                parameter: self.argument(step, parameter, source)
                for parameter, source in step.arguments
                if (parameter, source) not in step.given
            }
        return found

    def argument(self, step: OpPlan, parameter: str, source: Source | tuple[Source, ...]) -> object:
        """Returns what the program itself gives to a parameter of the kernel of `step`.

        Raises:
            ExecutionError: it is not what the kernel is annotated with.
        """
        if not isinstance(source, tuple):
            return self._read_as(step, parameter, self[source])
        return tuple([self._read_as(step, parameter, self[item]) for item in source])

    def _read_as(self, step: OpPlan, parameter: str, value: Array) -> object:
        """Returns an attribute as the Python value that it is annotated as, data as they are."""
        reader = step.attributes.get(parameter)
        if reader is None:
            return value
        try:
            return reader(value)
        except (TypeError, ValueError) as error:
            raise ExecutionError(
                f"{step.op.type} {label_of(step.op)!r}: {parameter}: {error}"
            ) from None

    def replace(self, source: Source, array: Array) -> None:
        """Replaces the array of `source` with `array`, one of the backend's, from now on."""
        self._arrays[source] = array
        self._arguments.clear()

    def forget(self, source: Source) -> None:
        """Lets go of the array of `source`, to be read again when it is used again."""
        self._arrays.pop(source, None)
        self._arguments.clear()
        constant = self._stated_by(source)
        if constant is not None:
            self._shared.pop(self._key(constant, source), None)

    def _read(self, source: Source) -> Any:
        constant = self._stated_by(source)
        if constant is not None:
            key = self._key(constant, source)
            if constant.storage is None:
                return self._placed(source, _widened(constant.read()))
            if key not in self._shared:
                self._shared[key] = self._placed(source, _widened(constant.read()))
            return self._shared[key]
        maker = self._plan.makers[source]  # type: ignore[index]
        for output, array in zip(maker.outputs, self._decompress(maker), strict=True):
            if output is source:
                return self._placed(source, _widened(array))
        raise ModelFormatError(f"{label_of(maker)}: makes no {source!r}")

    def _stated_by(self, source: Source) -> Constant | None:
        """Returns the constant that `source` is, or that its `const` op states."""
        if isinstance(source, Constant):
            return source
        maker = self._plan.makers[source]
        return self._constant_of(maker, source) if maker.type == "const" else None

    def _key(self, constant: Constant, source: Source) -> Hashable:
        # One blob may be stated in several shapes, and be data here and an axis there.
        return constant.storage, constant.type, source in self._plan.attributes

    def _constant_of(self, maker: Op, value: Value) -> Constant:
        (constant,) = maker.inputs.get("val", (None,))
        if not isinstance(constant, Constant):
            raise ModelFormatError(f"const {value.name!r}: states no value")
        return constant

    def _decompress(self, maker: Op) -> tuple[object, ...]:
        """Returns what a `constexpr_*` op makes; its parts are not kept."""
        arguments = {}
        for parameter, (argument,) in maker.inputs.items():
            if isinstance(argument, Constant):
                arguments[parameter] = argument.read()
                continue
            part = self._plan.makers.get(argument)
            if part is None:
                raise ModelFormatError(
                    f"{maker.type} {label_of(maker)!r}: its {parameter} is not a constant"
                )
            if part.type == "const":
                arguments[parameter] = self._constant_of(part, argument).read()
            else:
                made = dict(zip(part.outputs, self._decompress(part), strict=True))
                arguments[parameter] = made[argument]
        return decompress(maker, arguments, self._opset_of(maker))

    def _opset_of(self, maker: Op) -> int:
        """Returns the opset of the function that an op is in."""
        return self._plan.function.opset

    def _placed(self, source: Source, value: object) -> Any:
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
            return value
        stays = source in self._plan.attributes
        if self._backend.name == "numpy" or stays:
            value.flags.writeable = False
            return value
        return self._backend.from_numpy(value)


class Others(Constants):
    """The constants of a function but for some, which are other arrays."""

    def __init__(self, constants: Constants, arrays: Mapping[Value, Array]) -> None:
        """Reads nothing yet.

        Args:
            constants: all of them.
            arrays: those in place of some, of the backend.
        """
        self._all = constants
        self._arrays = dict(arrays.items())

    def __contains__(self, source: Source) -> bool:
        return source in self._all

    def __getitem__(self, source: Source) -> Array:
        return self._arrays[source] if source in self._arrays else self._all[source]

    def arguments(self, step: OpPlan) -> dict[str, object]:
        """Returns what the program gives to the kernel of `step`, others among it."""
        found = self._all.arguments(step)
        for parameter, source in step.arguments:
            if not self._arrays.keys().isdisjoint(
                source if isinstance(source, tuple) else (source,)
            ):
                found = {**found, parameter: self.argument(step, parameter, source)}
        return found


def _widened(value: object) -> object:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return widened(value)
    if isinstance(value, np.ndarray) and value.dtype == np.int64:
        return value.astype(np.int32) if _fits_int32(value) else value
    return value


def _fits_int32(value: Any) -> bool:
    return bool(value.size == 0 or (abs(value) <= np.iinfo(np.int32).max).all())
