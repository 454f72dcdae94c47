"""Ctrl-C: once to finish what is in flight, twice to stop at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fit3d.batch.run import Run
    from fit3d.batch.work import Engine

_ERASE_LINE = "\r\x1b[2K"
"""Takes the progress bar off a terminal's line."""


@contextmanager
def stoppable(engine: Engine, run: Run) -> Iterator[None]:
    """While the block runs, SIGINT and SIGTERM let the photos in flight end; a second one raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():  # signals go to that one alone
        yield
        return
    signals = 0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            run.is_given_up = True
            raise KeyboardInterrupt
        engine.stop()
        count = run.in_flight
        text = f"finishing {count} photo{'' if count == 1 else 's'} in flight; Ctrl-C again to stop at once\n"
        # not through rich or a buffer: the signal may have come in the middle of either
        with suppress(OSError):  # nobody reads it any more
            os.write(2, (_ERASE_LINE * sys.stderr.isatty() + text).encode())

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
