"""How many edits were confirmed and why others were not, by recipe."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fit3d.batch.record import STATUSES, Status
from fit3d.synthesise.record import EDIT_STATUSES, EditsRecord, EditStatus

_FIGURE = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?|\bnan\b")
"""In a reason."""


@dataclass
class Tally:
    """Of one recipe's edits."""

    edits: Counter[EditStatus] = field(default_factory=Counter)
    reasons: dict[EditStatus, Counter[str]] = field(default_factory=dict)
    """Of those that are not confirmed, without their figures; an edit may have several."""

    def commonest(self, status: EditStatus) -> str:
        """The commonest reason, with the number of edits; empty where there is none."""
        ((reason, count),) = self.reasons.get(status, Counter()).most_common(1) or [("", 0)]
        return f"{reason} ({count})" if count else ""


@dataclass
class Summary:
    """Of a whole data set."""

    photos: Counter[Status] = field(default_factory=Counter)
    recipes: dict[str, Tally] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[EditsRecord]) -> Summary:
        """Of all photos of OUT."""
        summary = cls()
        for record in records:
            summary.add(record)
        return summary

    def add(self, record: EditsRecord) -> None:
        """Count a photo and its edits."""
        self.photos[record.status] += 1
        for edit in record.edits:
            tally = self.recipes.setdefault(edit.recipe, Tally())
            tally.edits[edit.status] += 1
            if edit.reasons:
                tally.reasons.setdefault(edit.status, Counter()).update({_kind(reason) for reason in edit.reasons})

    @property
    def edits(self) -> Counter[EditStatus]:
        """Of all recipes together."""
        return sum((tally.edits for tally in self.recipes.values()), Counter())

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "photos": {status: self.photos[status] for status in STATUSES},
            "edits": _counts(self.edits),
            "recipes": {
                name: _counts(tally.edits)
                | {"reasons": {status: dict(sorted(found.items())) for status, found in sorted(tally.reasons.items())}}
                for name, tally in sorted(self.recipes.items())
            },
        }

    def rows(self) -> list[list[str]]:
        """Cells for people, a row for each recipe and one for all; see `HEADERS`."""
        named = [(name, tally) for name, tally in sorted(self.recipes.items())]
        every = Tally(self.edits)
        for _, tally in named:
            for status, found in tally.reasons.items():
                every.reasons.setdefault(status, Counter()).update(found)
        return [_row(name, tally) for name, tally in [*named, ("all", every)]]


HEADERS = ("recipe", "edits", "confirmed", "rejected", "skipped", "mostly because")


def _row(name: str, tally: Tally) -> list[str]:
    total = tally.edits.total()
    why = "; ".join(filter(None, (tally.commonest("rejected"), tally.commonest("skipped"))))
    share = f"{tally.edits['confirmed']} ({100.0 * tally.edits['confirmed'] / max(total, 1):.0f} %)"
    return [name, str(total), share, str(tally.edits["rejected"]), str(tally.edits["skipped"]), why]


def _counts(edits: Counter[EditStatus]) -> dict[str, int]:
    return {status: edits[status] for status in EDIT_STATUSES}


def _kind(reason: str) -> str:
    """A reason without its figures and particulars."""
    return _FIGURE.sub("...", reason.partition(": ")[0])
