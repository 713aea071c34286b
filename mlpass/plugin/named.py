"""Passes that carry their own options, for converters that take names of passes alone."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

from coremltools import PassPipeline
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

from mlpass.errors import ConfigError, close_matches
from mlpass.plugin.options import PassKind, pass_kinds
from mlpass.plugin.passes import PrunePass, check_base, pass_options, pruning_last
from mlpass.storage.given import StorageLike

if TYPE_CHECKING:
    from mlpass.runtime.samples import SampleData
    from mlpass.solvers.problem import Method

_RESERVED = "mlpass"
_UNNAMED = "mlpass_recipe::{}"


class NamedPass(PrunePass):
    """Base of the passes that `register` makes: one that has its options from the beginning."""

    given: ClassVar[Mapping[str, Any]]

    def __init__(self) -> None:
        """Makes it with the options that it was registered with."""
        self.options = dict(self.given)

    def __str__(self) -> str:
        return type(self).__name__

    def set_options(self, pass_options: Any = None) -> None:
        """Keeps the options that it was registered with.

        Raises:
            ConfigError: others are given.
        """
        if pass_options:
            raise ConfigError(
                f"{self}: takes no options, since it was registered with its own; "
                f"register another pass for {pass_options[0].option_name!r}"
            )


def register(
    name: str,
    config: object = None,
    *,
    method: Method | str | None = None,
    sample_data: SampleData | None = None,
    storage: StorageLike = None,
    **options: Any,
) -> None:
    """Registers a pass with coremltools that prunes as it is told to here.

    A converter then only needs its name. It is there for the rest of the process, or until
    `mlpass.plugin.uninstall()`; registered again it is replaced.

    Args:
        name: with a namespace of your own, as "mine::half".
        config: as for `mlpass.pipeline`, like all that follow.
        method: likewise.
        sample_data: likewise; read here, once.
        storage: likewise.
        **options: likewise.

    Raises:
        ConfigError: the name has no namespace, or belongs to another pass; an option or the config
            is not valid.
        CalibrationError: the samples are in a form that `mlpass.prune` does not take.
        OSError: a file that is named cannot be read.
    """
    namespace, colons, rest = name.partition("::")
    if not (namespace and colons and rest) or namespace == _RESERVED:
        raise ConfigError(
            f'name: must have a namespace of your own, as in "mine::half". Got {name!r}.'
        )
    taken = PASS_REGISTRY.passes.get(name)
    if taken is not None and not _is_named(taken):
        raise ConfigError(f"name: {name!r} is a pass of coremltools or another package already")
    kind, given = pass_options(
        config, method=method, sample_data=sample_data, storage=storage, **options
    )
    PASS_REGISTRY.passes[name] = type(name, (NamedPass,), {"kind": _kind(kind), "given": given})


def names(config: object = None, *, base: PassPipeline | None = None, **options: Any) -> list[str]:
    """Returns the names of a whole pipeline that prunes at its end, the default passes included.

    It is for converters that take a list of names in place of the default one, and no options, as
    ExecuTorch's `generate_compile_specs(pass_names=...)`.

    Args:
        config: the name of a pass that `register` made; or anything that `mlpass.pipeline` takes,
            which is registered under a new name.
        base: the `PassPipeline` whose passes come first; `PassPipeline.DEFAULT` where None. Its
            options are not in the list.
        **options: as for `register`, where `config` is not the name of a pass.

    Raises:
        ConfigError: the config or an option is not valid; there is no pass of that name; or `base`
            is not a pipeline.
        CalibrationError: the samples are in a form that `mlpass.prune` does not take.
        OSError: a file that is named cannot be read.
    """
    base = PassPipeline.DEFAULT if base is None else base
    check_base(base)
    if isinstance(config, str) and "::" in config:
        known = [each for each, kind in PASS_REGISTRY.passes.items() if _is_named(kind)]
        if config not in known:
            raise ConfigError(
                f"{config!r} is not a pass of mlpass.plugin.register{close_matches(config, known)}"
            )
        if options:
            raise ConfigError(f"{config}: takes no options, since it was registered with its own")
        return pruning_last(base.passes, config)
    name = next(each for each in map(_UNNAMED.format, count(1)) if each not in PASS_REGISTRY)
    register(name, config, **options)
    return pruning_last(base.passes, name)


def _is_named(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, NamedPass)


def _kind(name: str) -> PassKind:
    return next(kind for kind in pass_kinds() if kind.name == name)
