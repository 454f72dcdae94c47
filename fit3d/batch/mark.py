"""A file in OUT by which the workers of a run know that the OUT they see is the run's own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from fit3d.batch.storage import Storage
from fit3d.errors import UsageError

FOLDER = ".fit3d"
"""Of hidden files."""


@dataclass(frozen=True)
class Mark:
    """Travels to the workers with their work."""

    name: str
    """Of the file."""
    token: str
    """What is in it; no other run has the same."""

    def is_in(self, out: Storage) -> bool:
        """Whether the file is there."""
        try:
            return out.read(self.name) == self.token.encode()
        except OSError:
            return False


@contextmanager
def marked(out: Storage, manifest: str) -> Iterator[Mark]:
    """The mark of the run that holds `manifest`, in OUT while the block lasts. Raises UsageError."""
    mark = Mark(f"{FOLDER}/{manifest}.run", secrets.token_hex(16))
    out.write(mark.name, mark.token.encode())
    try:
        yield mark
    finally:
        with suppress(UsageError, OSError):  # hides no error, and the next run replaces it
            out.remove(mark.name)
