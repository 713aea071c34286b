"""Compression-aware training of the converted model itself. It needs the torch extra.

`to_module` makes a model a `torch.nn.Module`; `MagnitudePruner` prunes it while it trains, and
writes it back; `distill` trains it with nothing but sample inputs.
"""

from __future__ import annotations

from importlib import import_module

from mlpass.errors import BackendError

for _needed in ("torch", "array_api_compat"):
    try:
        import_module(_needed)
    except ModuleNotFoundError as error:
        raise BackendError(
            f"mlpass.finetune needs {error.name}: pip install 'mlpass[torch]'"
        ) from None

from mlpass.finetune.distillation import distill, distillation_loss  # noqa: E402
from mlpass.finetune.label_free import finetune  # noqa: E402
from mlpass.finetune.module import ProgramModule, to_module  # noqa: E402
from mlpass.finetune.pruner import MagnitudePruner  # noqa: E402
from mlpass.finetune.schedules import (  # noqa: E402
    ConstantSparsity,
    PolynomialDecay,
    Schedule,
)

__all__ = [
    "ConstantSparsity",
    "MagnitudePruner",
    "PolynomialDecay",
    "ProgramModule",
    "Schedule",
    "distill",
    "distillation_loss",
    "finetune",
    "to_module",
]
