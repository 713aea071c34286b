"""An `.mlpackage`: opened as graphs, and written anew with some ops replaced.

Nothing is converted. The new package is made beside its target and renamed, so that the target is
whole at every moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mlpass.errors import ModelFormatError
from mlpass.files import check_apart, check_free, whole_folder
from mlpass.program.manifest import check_items
from mlpass.program.opened import OpenPackage, package_nbytes
from mlpass.program.pte_paths import PTE_SUFFIX, check_whole
from mlpass.program.rewriter import Rewriter
from mlpass.program.writing import Targets, single


class Package(OpenPackage):
    """An `.mlpackage`, read, and written anew."""

    @property
    def chunks(self) -> Sequence[Package]:
        """The packages that it is made of: itself, or several that run one after another."""
        return (self,)

    @contextmanager
    def rewrite(
        self, target: Targets, *, force: bool = False, keep: bool = False
    ) -> Iterator[Rewriter]:
        """Writes a copy to `target`, with the ops replaced that the caller replaces meanwhile.

        A package can be rewritten once: its message is edited.

        Args:
            target: a new `.mlpackage`.
            force: whether to replace one that is there.
            keep: whether one that may not take its place is kept beside it: see `whole_folder`.

        Raises:
            OutputExistsError: it is there, now or at the end, and `force` is False.
            ModelFormatError: its name does not end in `.mlpackage`; or it is in this package, or
                this package in it. Or something that its manifest lists is missing.
            OSError: it cannot be written.
        """
        target = self.check_target(target, force=force or keep)
        with (
            whole_folder(target, force=force, keep=keep) as building,
            self.rewriting(building, target) as rewriter,
        ):
            yield rewriter

    @contextmanager
    def rewriting(self, building: Path, target: Path) -> Iterator[Rewriter]:
        """Writes a copy to an empty folder that is going to be `target`: see `rewrite`."""
        check_items(self.path)
        weights = [path.relative_to(self.path) for path in self.weight_paths]
        with Rewriter(self, building) as rewriter:
            yield rewriter
        if rewriter.holds is not None:
            rewriter.holds(self, building, target)
        rewriter.nbytes = package_nbytes(building)
        rewriter.weights_nbytes = sum((building / path).stat().st_size for path in weights)

    def check_target(self, target: Targets, *, force: bool = False) -> Path:
        """Returns the absolute path of a target that `rewrite` would write; raises as it does."""
        target = Path(single(target)).absolute()
        check_whole(target)
        if target.suffix != ".mlpackage":
            instead = "; a .pte is written of a model in a .pte alone"
            raise ModelFormatError(
                f"{target}: a package's name must end in .mlpackage"
                f"{instead if target.suffix == PTE_SUFFIX else ''}"
            )
        check_free(target, force=force)
        check_apart(target, self.path, "the model to prune")
        return target
