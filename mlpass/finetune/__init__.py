"""Compression-aware training of the converted model itself. It needs the torch extra.

`to_module` makes a model a `torch.nn.Module`; `MagnitudePruner` prunes it while it trains, and
writes it back; `distill` trains it with nothing but sample inputs. `polish` trains what a
compressed model stores as floats, in the forms that it has; `tune` does so stretch by stretch.
"""

from __future__ import annotations

from mlpass.errors import BackendError

try:
    import torch  # noqa: F401
except ModuleNotFoundError:
    raise BackendError("mlpass.finetune needs torch: pip install torch") from None

from mlpass.finetune.distillation import distill, distillation_loss
from mlpass.finetune.label_free import finetune
from mlpass.finetune.module import ProgramModule, to_module
from mlpass.finetune.polishing import polish
from mlpass.finetune.pruner import MagnitudePruner
from mlpass.finetune.regions import tune
from mlpass.finetune.schedules import (
    ConstantSparsity,
    PolynomialDecay,
    Schedule,
)
from mlpass.finetune.stored import to_stored_module
from mlpass.plan.polish import Polish
from mlpass.plan.regions import Regions

__all__ = [
    "ConstantSparsity",
    "MagnitudePruner",
    "Polish",
    "PolynomialDecay",
    "ProgramModule",
    "Regions",
    "Schedule",
    "distill",
    "distillation_loss",
    "finetune",
    "polish",
    "to_module",
    "to_stored_module",
    "tune",
]
