"""Three models side by side in a stage: the one that is tuned, the dense one, the first as it was.

The dense model is a window of regions ahead: what it has at the end of that is what is aimed at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple

from torch import Tensor

from mlpass.examine.matching import match_values
from mlpass.finetune.cutting import Region, cut_alike, windows
from mlpass.finetune.entry import Stage
from mlpass.finetune.features import write_value
from mlpass.finetune.feeding import Given, Step
from mlpass.finetune.judging import Judged, Pair, judged
from mlpass.finetune.losses import Kinds
from mlpass.finetune.module import ProgramModule
from mlpass.finetune.stored import StoredModule
from mlpass.finetune.streams import Stream
from mlpass.finetune.tuning import Goal, goal_of
from mlpass.program.ir import Value


class Models(NamedTuple):
    """The models of a run.

    Attributes:
        tuned: the one that is tuned.
        dense: the one to come close to.
        first: the tuned one as it was.
    """

    tuned: StoredModule
    dense: ProgramModule
    first: StoredModule


class Window(NamedTuple):
    """Neighbouring regions that train as one.

    Attributes:
        tuned: of the tuned model.
        dense: of the dense one, the same.
    """

    tuned: Region
    dense: Region


class Abreast:
    """Three models on their way through a stage.

    Attributes:
        tuned: the samples in the tuned model.
        windows: of regions, in the order in which they train.
    """

    def __init__(
        self,
        models: Models,
        number: int,
        cuts: tuple[Sequence[Region], Sequence[Region]],
        given: Sequence[Given],
        count: int,
        held: Sequence[int] | None,
        *,
        batch_size: int,
        memory_budget: int,
    ) -> None:
        """Starts; the dense model has yet to end the first window.

        Args:
            models: all three.
            number: of the stage.
            cuts: its regions in the tuned model, and in that as it was.
            given: for each of the models what is known by name before the stage.
            count: of regions that make a window.
            held: the numbers of the samples that what comes after the stage is wanted of; None
                where it is of all.
            batch_size: samples that run together.
            memory_budget: bytes of values of all three that may stay in memory.
        """
        stages = [one.stages[number] for one in models]
        self._held, self._likes = held, _likes(stages[0], stages[1])
        others = cut_alike(stages[1].plan, cuts[0], self._likes)
        pairs = zip(
            windows(stages[0].plan, cuts[0], count),
            windows(stages[1].plan, others, count),
            strict=True,
        )
        self.windows = [Window(*pair) for pair in pairs]
        self._ahead = len(others) - len(self.windows)
        regions, behind = (cuts[0], others, cuts[1]), (0, self._ahead + 1, 0)
        settings = {"batch_size": batch_size, "memory_budget": memory_budget // len(models)}
        with ExitStack() as opened:
            streams = [
                opened.enter_context(
                    closing(Stream(one, stage, some, named, behind=at, **settings))
                )
                for one, stage, some, named, at in zip(
                    models, stages, regions, given, behind, strict=True
                )
            ]
            self.tuned, self._dense, self._first = streams
            for _ in range(self._ahead):
                self._dense.advance()
            self._closing = opened.pop_all()

    def __enter__(self) -> Abreast:
        return self

    def __exit__(self, *_: object) -> None:
        """Lets go of all samples."""
        self._closing.close()

    def goal(self, window: Window, *, trains: bool) -> Goal:
        """Has the dense model come to the end of a window, and returns what that is to give.

        Args:
            window: the next.
            trains: whether it has something to train, which takes all samples.
        """
        self._dense.advance(self._held if self._ends(window) and not trains else None)
        return goal_of(self._dense, window.tuned, window.dense, self._likes)

    def go_on(self, window: Window) -> None:
        """Has the other two come to where the next window starts; after the last, to the end."""
        self._dense.forget(window.dense)
        for left in range(self._ahead if self._ends(window) else 0, -1, -1):
            self.tuned.advance(self._held if self._ends(window) and not left else None)
            self._first.advance()

    def _ends(self, window: Window) -> bool:
        """Returns whether a window is the last of the stage."""
        return window is self.windows[-1]

    def results(self) -> list[Given]:
        """Returns what is known by name after the stage, for each of the models."""
        return [one.all_results() for one in (self.tuned, self._dense, self._first)]

    def outputs(self, held: Sequence[int], kinds: Kinds) -> tuple[Judged, Judged] | None:
        """Returns how near the model's outputs were to the dense one's, and are, on some samples.

        None where not one of them is a float of both models.

        Args:
            held: the numbers of the samples. Those of the model as it was are these alone.
            kinds: of the outputs.
        """

        def pairs(one: Stream, numbers: Sequence[int]) -> Iterator[Pair]:
            for mine, its in zip(numbers, held, strict=True):
                for step, like in zip(one.results(mine), self._dense.results(its), strict=True):
                    made, wanted = _written(step), _written(like)
                    shared = (kinds[step.function].keys() & made.keys()) & wanted.keys()
                    if any(wanted[name].is_floating_point() for name in shared):
                        yield Pair(made, wanted, 1, step.function)

        if next(pairs(self.tuned, held), None) is None:
            return None
        before = judged(kinds, pairs(self._first, range(len(held))))
        return before, judged(kinds, pairs(self.tuned, held))


def _likes(stage: Stage, dense: Stage) -> dict[Value, Value]:
    """Returns for values of a stage those of the dense one."""
    mine, its = (list(each.members.values()) or [each] for each in (stage, dense))
    blocks = [
        (one.part.plan.function.block, other.part.plan.function.block)
        for one, other in zip(mine, its, strict=True)
    ]
    return {like: value for value, like in match_values(blocks).items()}


def _written(step: Step) -> dict[str, Tensor]:
    return {name: write_value(value, None) for name, value in step.inputs.items()}
