"""What a weight site is: a constant, what makes it, and every op that reads it as a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mlpass.program.ir import Constant, Op, TensorType
from mlpass.weights.computed import AMONG

_FLOATS = {"fp16", "fp32", "fp64", "bf16", "fp8e4m3fn", "fp8e5m2"}


class Apart(NamedTuple):
    """What a weight has beside its codes.

    Attributes:
        parts: the ops that make it.
        sums: for each op that reads the codes, the one that adds what is made with the rest.
    """

    parts: tuple[Op, ...]
    sums: dict[Op, Op]


@dataclass(frozen=True, eq=False)
class Use:
    """One reading of a constant.

    Attributes:
        op: that reads it.
        parameter: by which it does.
        position: among the arguments of that parameter.
        settings: the op's other parameters that are constant and small, as Python values.
    """

    op: Op
    parameter: str
    position: int
    settings: Mapping[str, object]


@dataclass(frozen=True, eq=False)
class Site:
    """A weight: what makes it, and who reads it.

    Attributes:
        name: of the value that the ops read, with the part and function it is in where the model
            has several of that name.
        names: of all values that share the storage, without those.
        makers: the ops that make them: `const`, or a `constexpr_*` where it is compressed, or any
            op that makes it of constants as the model runs, see `computed_values`.
        parts: where it is not `const` that makes it, every op that takes part, the maker last.
        constant: the stored constant; None where the makers are others.
        uses: every reading, by an op that takes it as a weight.
        opsets: iOS version of the function that each of the makers is in.
        other_use: who else reads it, so that it must be left as it is; None where nobody does.
        apart: what it has beside its codes; None where those are all.
        is_last: whether its outputs are the model's, as `last_readers`.
        adds_up: whether every op that reads it is a sum over the parts of it, and reads no other
            weight: it can have outliers.
        functions: that read it, with the part of a pipeline that they are in.
        is_adapter: whether it is a half of an adapter, beside a weight that more functions share.
    """

    name: str
    names: tuple[str, ...]
    makers: tuple[Op, ...]
    parts: tuple[Op, ...]
    constant: Constant | None
    uses: tuple[Use, ...]
    opsets: tuple[int, ...]
    other_use: str | None
    apart: Apart | None = None
    is_last: bool = False
    adds_up: bool = False
    functions: tuple[str, ...] = ()
    is_adapter: bool = False

    @property
    def every_part(self) -> tuple[Op, ...]:
        """The ops that take part in making it, those of what it has beside its codes as well."""
        return self.parts if self.apart is None else (*self.parts, *self.apart.parts)

    @property
    def opset(self) -> int:
        """The oldest iOS version of the functions it is in."""
        return min(self.opsets)

    @property
    def refusal(self) -> str | None:
        """Why it must be left as it is; None where it may be pruned."""
        if self.constant is None:
            return self._made
        if self.dtype not in _FLOATS:
            return f"its elements are {self.dtype}, not floats"
        if self.dtype not in ("fp16", "fp32"):
            return f"its elements are {self.dtype}; fp16 and fp32 can be pruned"
        return self.other_use

    @property
    def is_computed(self) -> bool:
        """Whether the model makes it of constants as it runs."""
        return self.constant is None and not self.makers[0].type.startswith("constexpr_")

    @property
    def is_compressed(self) -> bool:
        """Whether `constexpr_*` ops make it, which are done before the model runs."""
        return self.constant is None and not self.is_computed

    @property
    def is_sparse(self) -> bool:
        """Whether it is stored as floats beside a mask, with nothing else done to it."""
        return self.is_masked and len(self.parts) == 1

    @property
    def has_codes(self) -> bool:
        """Whether its values are quantized or palettized, with a mask or without."""
        return self.is_compressed and not self.is_sparse

    @property
    def is_masked(self) -> bool:
        """Whether a mask says which of its elements are zero, whatever the others are stored as."""
        return self.makers[0].type == "constexpr_sparse_to_dense"

    @property
    def _made(self) -> str:
        """What makes it, where that is not `const`."""
        types = list(dict.fromkeys(part.type for part in self.parts if part.type != "const"))
        compressing = [name for name in types if name.startswith("constexpr_")]
        others = ", ".join(name for name in types if name not in compressing)
        if not self.is_computed:
            return f"it is already compressed, by {self.makers[0].type}"
        if compressing:
            return f"it is already compressed, by {compressing[-1]}, and read through {others}"
        if any(AMONG in part.inputs for part in self.parts):
            return (
                f"the model makes it as it runs, by {others} of constants and of what it is given: "
                "it is not one stored weight"
            )
        return (
            f"the model makes it as it runs, by {others} of constants: convert it again with "
            "coremltools' pass common::const_elimination, which stores what they make"
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight as the ops read it."""
        return self._type.sizes

    @property
    def dtype(self) -> str:
        """Element type of the weight as the ops read it."""
        return self._type.dtype

    @property
    def _type(self) -> TensorType:
        value_type = self.makers[0].outputs[-1].type
        assert isinstance(value_type, TensorType)  # find_sites only takes tensors
        return value_type
