"""What a run tells, as text and as a notebook shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import import_module
from typing import Any, ClassVar

from mlpass.errors import BackendError, visible
from mlpass.report.table import html_table, table


@dataclass(frozen=True)
class Table:
    """A table among the parts of a record.

    Attributes:
        headers: of its columns.
        rows: texts, one for each column; a row may end before the last.
        more: a line below it.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    more: str = ""

    def __str__(self) -> str:
        return table(self.headers, self.rows) + (f"\n{self.more}" if self.more else "")

    def html(self) -> str:
        """Returns it as HTML."""
        return html_table(self.headers, self.rows) + (_paragraph(self.more) if self.more else "")


class Shown:
    """Base of the records that a run returns: a text, in a notebook tables, and rows for pandas."""

    listed: ClassVar[str]
    """What `to_dict` calls the records that `to_pandas` makes rows of."""

    def parts(self) -> Sequence[Table | str]:
        """Returns its tables and paragraphs, in order; paragraphs have no control characters."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Returns everything ready for JSON."""
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """Returns its records as the rows of a pandas `DataFrame`.

        Raises:
            BackendError: pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ImportError:
            raise BackendError("to_pandas needs pandas: pip install pandas") from None
        records: list[Mapping[str, object]] = self.to_dict()[self.listed]
        return pandas.DataFrame([_flat(record) for record in records])

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.parts()))

    def _repr_html_(self) -> str:
        return "\n".join(
            part.html() if isinstance(part, Table) else _paragraph(part) for part in self.parts()
        )


def _flat(record: Mapping[str, object]) -> dict[str, object]:
    """Returns a record without the whole reports that it may hold."""
    return {name: value for name, value in record.items() if name != "report"}


def _paragraph(text: str) -> str:
    lines = [escape(visible(line)) for line in text.split("\n")]
    return f"<p>{'<br>'.join(lines)}</p>"
