"""The interactive viewer: `fit3d view` on the command line, `fit3d.view.show` in Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fit3d.reconstruction import Reconstruction


def show(reconstruction: Reconstruction, folder: str | Path = ".", *, port: int = 0, browser: bool = True) -> None:
    """Show a fit in the browser until Ctrl-C.

    Args:
        reconstruction: what `fit3d.fit` returned.
        folder: where exports go.
        port: 0 takes a free one.
        browser: whether to open it.

    Raises:
        UsageError: the port is taken, or viser is not installed.
    """
    from fit3d.view import serve

    serve.show(reconstruction, folder, port=port, browser=browser)
