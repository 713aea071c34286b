"""Pruning within converters that do not hand a pass pipeline on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import ContextDecorator, suppress
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from functools import wraps
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from coremltools import PassPipeline
from coremltools.converters.mil import converter

from mlpass.errors import ConfigError
from mlpass.plugin.passes import pass_options, reports, with_pruning
from mlpass.program.opsets.targets import opset_of, specification_version
from mlpass.storage.given import StorageLike

if TYPE_CHECKING:
    from mlpass.report.records import Report
    from mlpass.runtime.samples import SampleData
    from mlpass.solvers.problem import Method

Convert = Callable[..., Any]  # `ct.convert`, or `mil_convert`

# What coremltools leaves out where `mil_convert` is called without a pipeline.
_NOT_WITHOUT_A_PIPELINE = ("common::add_fp16_cast", "common::add_int16_cast")

# What it is told where no target is stated: nothing, or iOS15.
_UNSTATED = (None, specification_version(15))

_NEURAL_NETWORK = "neuralnetwork"  # what has no compressed weights


@dataclass(eq=False)
class _Block:
    kind: str
    options: Mapping[str, object]
    version: int | None
    outer: _Block | None
    reports: list[Report] = field(default_factory=list)
    is_open: bool = True


_own: ContextVar[_Block | None] = ContextVar("own", default=None)
_open: list[_Block] = []
_replaced: WeakKeyDictionary[Convert, Convert] = WeakKeyDictionary()  # theirs, by ours
_handed_on: ContextVar[object] = ContextVar("handed_on", default=None)  # a pipeline that prunes
_lock = Lock()


def converting(
    config: object = None,
    *,
    method: Method | str | None = None,
    sample_data: SampleData | None = None,
    storage: StorageLike = None,
    minimum_deployment_target: object = None,
    **options: object,
) -> Converting:
    """Prunes whatever coremltools converts inside the block; it gives the list of the reports.

    It is for converters that call `coremltools.convert` or `mil_convert` themselves and take no
    `pass_pipeline`:

        with mlpass.converting(Percentile(0.5)) as reports:
            model = their_converter.export(...)

    Conversions in threads that are begun inside are pruned as well. Of nested blocks the innermost
    holds; a thread goes by a block of its own, or else by the one that was entered last. What
    coremltools converts again, as its own functions for compression do, is pruned again.

    Args:
        config: as for `mlpass.pipeline`, like all that follow.
        method: likewise.
        sample_data: likewise; read here, once.
        storage: likewise.
        minimum_deployment_target: "iOS18", `coremltools.target.iOS18`: for what is converted
            without one. That would be for iOS15, which has no sparse weights.
        **options: likewise.

    Warns:
        UserWarning: no conversion ran inside, so that nothing was pruned; or coremltools was put
            back as it was by another package meanwhile, and what came after that was not pruned.

    Raises:
        ConfigError: an option, the target or the config is not valid; from inside, a conversion
            has a pipeline that prunes with a config already, or makes no ML Program.
        CalibrationError: the samples are in a form that `prune` does not take.
    """
    kind, given = pass_options(
        config, method=method, sample_data=sample_data, storage=storage, **options
    )
    target = minimum_deployment_target
    version = None if target is None else specification_version(opset_of(target))
    return Converting(kind, given, version)


class Converting(ContextDecorator):
    """What `converting` returns: blocks to enter, one after another or within each other."""

    def __init__(self, kind: str, options: Mapping[str, object], version: int | None) -> None:
        """Takes what the pass needs, and the version for what is converted without one."""
        self._pass = kind, options, version
        self._entered: list[tuple[_Block, Token[_Block | None]]] = []

    def __enter__(self) -> list[Report]:
        block = _Block(*self._pass, _own.get())
        self._entered.append((block, _own.set(block)))
        _enter(block)
        return block.reports

    def __exit__(self, kind: object, *_: object) -> None:
        """Leaves coremltools as it was."""
        with _lock:  # that of this thread, where several have entered it
            mine = (n for n, (each, _) in enumerate(self._entered) if each is _own.get())
            block, token = self._entered.pop(next(mine, -1))
        undone = _leave(block)
        # A generator or a fixture may be ended in another context than it began in.
        with suppress(ValueError):
            _own.reset(token)
        if kind is None and not block.reports:
            warnings.warn(
                "mlpass.converting: no conversion of coremltools ended inside the block, so "
                "nothing was pruned; prune the finished package with mlpass.prune",
                stacklevel=2,
            )
        elif kind is None and undone:
            warnings.warn(
                "mlpass.converting: another package put coremltools back as it was inside the "
                "block, so what was converted after that was not pruned; prune those packages with "
                "mlpass.prune",
                stacklevel=2,
            )


def _enter(block: _Block) -> None:
    with _lock:
        theirs = converter.mil_convert_to_proto
        if _replaced_by(theirs) is None:
            converter.mil_convert_to_proto = ours = _pruning(theirs)
            _replaced[ours] = theirs
        _open.append(block)


def _leave(block: _Block) -> bool:
    """Closes a block, and returns whether coremltools' own function is there in place of ours."""
    with _lock:
        block.is_open = False
        _open.remove(block)
        found = converter.mil_convert_to_proto
        theirs = _replaced_by(found)
        # Where others have put a function of theirs above it meanwhile, ours stays below that one,
        # and hands on what it is given.
        if theirs is not None and not _open:
            converter.mil_convert_to_proto = theirs
    code = getattr(found, "__code__", None)
    return code is not None and code.co_filename == converter.__file__


def _replaced_by(convert: Convert) -> Convert | None:
    """Returns what a function of ours is in the place of; None of a function of others'."""
    return next((theirs for ours, theirs in _replaced.items() if ours is convert), None)


def _pruning(convert: Convert) -> Convert:
    """Returns `mil_convert_to_proto`, which all conversions go through, with the pruning in it."""

    @wraps(convert)
    def mil_convert_to_proto(
        model: object,
        convert_from: str,
        convert_to: str,
        converter_registry: object,
        main_pipeline: Any = None,
        **kwargs: object,
    ) -> object:
        if main_pipeline is not None and main_pipeline is _handed_on.get():
            return convert(  # ours lies above a function of others', which lies above this one
                model, convert_from, convert_to, converter_registry, main_pipeline, **kwargs
            )
        block = _holding()
        if block is not None:
            _check_made(convert_to)
            if main_pipeline is None:
                main_pipeline = kwargs.get("pass_pipeline", PassPipeline.DEFAULT)
                main_pipeline.remove_passes(_NOT_WITHOUT_A_PIPELINE)
            main_pipeline = with_pruning(main_pipeline, block.kind, block.options)
            if block.version is not None and kwargs.get("specification_version") in _UNSTATED:
                kwargs["specification_version"] = block.version
        token = reports.set(None if block is None else block.reports)
        handed = _handed_on.set(None if block is None else main_pipeline)
        try:
            return convert(
                model, convert_from, convert_to, converter_registry, main_pipeline, **kwargs
            )
        finally:
            _handed_on.reset(handed)
            reports.reset(token)

    return mil_convert_to_proto


def _check_made(convert_to: str) -> None:
    """Raises ConfigError where a conversion makes a neural network."""
    if str(convert_to).lower() == _NEURAL_NETWORK:
        raise ConfigError(
            "mlpass.converting: a conversion inside makes a neural network, whose weights mlpass "
            "cannot prune; make it an ML Program (convert_to='mlprogram', and a "
            "minimum_deployment_target of iOS16 or later), or convert it outside the block"
        )


def _holding() -> _Block | None:
    """Returns the block that holds for the calling thread."""
    block = _own.get()
    while block is not None and not block.is_open:
        block = block.outer
    if block is not None:
        return block
    with _lock:
        return _open[-1] if _open else None
