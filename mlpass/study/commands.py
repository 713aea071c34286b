"""A candidate as the line of a shell that makes its model."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace

from mlpass.plan.config import Config
from mlpass.solvers.admm import ADMM
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.solvers.wanda import Magnitude, Wanda
from mlpass.sparsity.modes import NM, Channel, Kernel, Mode
from mlpass.study.grid import Candidate

_PLAIN = (Magnitude(), Wanda(), SparseGPT(), ADMM())
_GRANULARITIES: dict[type[Mode], str] = {Kernel: "per_kernel", Channel: "per_channel"}


def prune_command(model: str, candidate: Candidate) -> str | None:
    """Returns the `mlpass prune` that does what a candidate does; None where no options say it.

    Args:
        model: path of the package.
        candidate: how to prune it.
    """
    mode = candidate.config.global_config
    plain = candidate.config == Config(
        global_config=mode, weight_threshold=candidate.config.weight_threshold
    )
    if not isinstance(mode, Mode) or not plain or candidate.method not in _PLAIN:
        return None
    words = ["mlpass", "prune", model, "-o", "pruned.mlpackage", *_mode_options(mode)]
    if candidate.config != replace(Config(), global_config=mode):
        words += ["--weight-threshold", str(candidate.config.weight_threshold)]
    if not candidate.data_free:
        words += ["--sample-data", "samples.npz", "--method", candidate.method_name]
    for name, value in candidate.options.items():
        words += [_flag(name), str(value)]
    return shlex.join(words)


def _mode_options(mode: Mode) -> list[str]:
    values = {field.name: getattr(mode, field.name) for field in fields(mode)}
    if isinstance(mode, NM):
        values = {"n_m_ratio": f"{mode.n}:{mode.m}", "dim": mode.dim}
    defaults = {field.name: field.default for field in fields(mode)}
    words = []
    for name, value in values.items():
        if name not in defaults or value != defaults[name] or name in ("threshold",):
            words += [_flag(name), str(value)]
    if type(mode) in _GRANULARITIES:
        words += ["--granularity", _GRANULARITIES[type(mode)]]
    return words


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
