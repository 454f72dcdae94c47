"""Whether fit3d is still the one that was started: an upgrade or an editor may change its files during a batch."""

from __future__ import annotations

import hashlib
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def source_hash() -> str:
    """Of all Python files of the package, as they are on the disk now."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(_PACKAGE).as_posix()}\0".encode())
        try:
            digest.update(path.read_bytes())
        except OSError:  # it is being replaced
            digest.update(b"\0")
    return digest.hexdigest()


AT_START = source_hash()
"""When this process loaded it."""
