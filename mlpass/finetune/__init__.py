"""Compression-aware training of the converted model itself. It needs the torch extra.

`to_module` makes a model a `torch.nn.Module`; `MagnitudePruner` prunes it while it trains, and
writes it back; `distill` trains it with nothing but sample inputs.
"""

from __future__ import annotations

from mlpass.errors import BackendError

try:
    import torch  # noqa: F401
except ModuleNotFoundError:
    raise BackendError("mlpass.finetune needs torch: pip install 'mlpass[torch]'") from None

from mlpass.finetune.distillation import distill, distillation_loss
from mlpass.finetune.label_free import finetune
from mlpass.finetune.module import ProgramModule, to_module
from mlpass.finetune.pruner import MagnitudePruner
from mlpass.finetune.schedules import (
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
