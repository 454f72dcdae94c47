"""Tables in Markdown, and figures as their cells show them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MarkdownTable:
    """A table that is printed row by row, its columns aligned."""

    headers: Sequence[str]
    widths: Sequence[int]
    """Least characters of each column."""

    @classmethod
    def around(cls, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> MarkdownTable:
        """As wide as the rows need."""
        return cls(headers, [max(len(row[column]) for row in (headers, *rows)) for column in range(len(headers))])

    def head(self) -> str:
        """Names and ruler."""
        ruler = ["-" * max(len(name), width) for name, width in zip(self.headers, self.widths, strict=True)]
        return f"{self.row(self.headers)}\n{self.row(ruler)}"

    def row(self, cells: Sequence[str]) -> str:
        """One line."""
        fitted = [
            cell.replace("|", "\\|").ljust(max(len(name), width))
            for cell, name, width in zip(cells, self.headers, self.widths, strict=True)
        ]
        return f"| {' | '.join(fitted)} |"


def as_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The whole table."""
    table = MarkdownTable.around(headers, rows)
    return "\n".join([table.head(), *map(table.row, rows)])


def number(value: Any, digits: int = 2) -> str:
    """A number with `digits` decimals; '-' where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent."""
    return "-" if share is None else number(100.0 * share, digits)
