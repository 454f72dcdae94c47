"""Opens the viewer and keeps it open until the user has seen enough."""

from __future__ import annotations

import signal
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fit3d.errors import UsageError
from fit3d.export.read_result import result_paths
from fit3d.resources import install_command
from fit3d.view.gallery import Gallery, OneSubject
from fit3d.view.subject import subject_of

if TYPE_CHECKING:
    from fit3d.reconstruction import Reconstruction
    from fit3d.view.page import Page

POLL_S = 0.5
"""How often waiting is interrupted: on Windows a wait without an end cannot be."""


def view(path: str | Path, *, port: int = 0, browser: bool = True, say: Callable[[str], None] = print) -> None:
    """Show the result or the folder of results at `path` until Ctrl-C.

    Args:
        path: folder that `fit3d fit` wrote for one photo or for several, or the JSON of one.
        port: 0 takes a free one.
        browser: whether to open it.
        say: takes the line that tells the address.

    Raises:
        UsageError: there is no result, it is damaged, the port is taken, or viser is not installed.
    """
    _serve(Gallery(result_paths(path)), port, browser, say)


def show(reconstruction: Reconstruction, folder: str | Path = ".", *, port: int = 0, browser: bool = True) -> None:
    """Show a fit that lies in memory until Ctrl-C; exports go to `folder`. Errors as of `view`."""
    _serve(OneSubject(subject_of(reconstruction, Path(folder))), port, browser, print)


def _serve(gallery: Gallery, port: int, browser: bool, say: Callable[[str], None]) -> None:
    page = open_page(gallery, port)
    try:
        count = f"{len(gallery)} results" if len(gallery) > 1 else page.state.subject.name
        say(f"viewing {count} at {page.url} (Ctrl-C ends)")
        if browser:
            # a browser in a terminal would hold us up, and must not keep us from ending
            threading.Thread(target=webbrowser.open, args=(page.url,), daemon=True).start()
        never = threading.Event()
        while not never.wait(POLL_S):
            pass
    except KeyboardInterrupt:
        pass
    finally:
        _undisturbed(page.close)


def open_page(gallery: Gallery, port: int = 0) -> Page:
    """The page of a gallery, being served; to be closed. Raises UsageError where viser is not installed."""
    try:
        import viser  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"the viewer needs a package that is missing (viser); run: {install_command('view')}"
        ) from error
    from fit3d.view.page import Page

    return Page(gallery, port)


def _undisturbed(close: Callable[[], None]) -> None:
    """Close without a second Ctrl-C getting between."""
    if threading.current_thread() is not threading.main_thread():
        close()
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        close()
    finally:
        signal.signal(signal.SIGINT, before)
