"""Where the files that come with fit3d lie, and how fit3d is installed."""

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


def install_command(extra: str | None = None) -> str:
    """What to type to install fit3d with all that it needs, and its extra of that name.

    In a checkout that is the checkout, with the versions that it was tested with.
    """
    suffix = f"[{extra}]" if extra else ""
    if (_PACKAGE.parent / "setup.cfg").is_file():
        return f'pip install -c constraints.txt ".{suffix}"'
    return f'pip install "fit3d{suffix}"'
