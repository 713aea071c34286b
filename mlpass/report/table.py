"""Records as a plain text table."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from mlpass.errors import visible


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns rows of text under their headers, aligned, without wrapping.

    What does not print is escaped: a name may hold what steers a terminal.
    """
    return _formatted("simple", headers, rows)


def html_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns the same as HTML; whatever a text holds is escaped."""
    return _formatted("html", headers, rows)


def _formatted(form: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    numbers = {"sparsity", "before", "after", "bytes", "ops"}
    return tabulate(
        [[visible(cell) for cell in row] for row in rows],
        [visible(header) for header in headers],
        tablefmt=form,
        disable_numparse=True,
        colalign=[("right" if header in numbers else "left") for header in headers]
        if rows
        else None,
    )


def sizes_apart(nbytes: int, other: int) -> tuple[str, str]:
    """Returns two sizes as people read them, with as many digits as tell one from the other."""
    for digits in range(1, 10):  # nine digits of a gigabyte are bytes
        texts = bytes_text(nbytes, digits), bytes_text(other, digits)
        if nbytes == other or texts[0] != texts[1]:
            break
    return texts


def bytes_text(nbytes: int, digits: int = 1) -> str:
    """Returns a size as people read it, in powers of 1,000 as file managers show it."""
    size = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.{digits}f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")
