"""Where the files that come with fit3d lie, where it keeps those of the user, and how it is installed."""

from __future__ import annotations

import os
from pathlib import Path

from fit3d.errors import ModelFileError

HOME_VARIABLE = "FIT3D_HOME"
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


def home() -> Path:
    """The folder of all that fit3d keeps for this user: the one that the environment variable FIT3D_HOME names, else
    the user's data folder of the system. It need not exist."""
    import platformdirs

    chosen = os.environ.get(HOME_VARIABLE)
    return Path(chosen) if chosen else Path(platformdirs.user_data_dir("fit3d", appauthor=False))


def install_command(extra: str | None = None) -> str:
    """What to type to install fit3d with all that it needs, and its extra of that name.

    In a checkout that is the checkout, with the versions that it was tested with.
    """
    suffix = f"[{extra}]" if extra else ""
    if (_PACKAGE.parent / "setup.cfg").is_file():
        return f'pip install -c constraints.txt ".{suffix}"'
    return f'pip install "fit3d{suffix}"'
