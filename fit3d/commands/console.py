"""What the command line says, and where: results on stdout; progress, warnings and errors on stderr, a line each."""

from __future__ import annotations

import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from fit3d.errors import Fit3dError, PhotoError, printable

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID
    from rich.status import Status


LINE_EVERY_S = 30.0
"""How often progress is told where there is no terminal."""
STATUS_EVERY_S = 0.1
"""How often a count on a terminal changes."""


def debug() -> bool:
    """Whether FIT3D_DEBUG asks for tracebacks and for the log lines of native libraries."""
    return os.environ.get("FIT3D_DEBUG", "") not in ("", "0")


def open_closed_streams() -> None:
    """Let standard streams that the caller closed, as `fit3d ... 2>&-` does, lead nowhere. Otherwise the next file that
    is opened gets the stream's number, and what libraries and workers print goes into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def print_error(message: str) -> None:
    """One line on stderr; with FIT3D_DEBUG=1 the traceback of the exception in flight before it."""
    if debug() and sys.exc_info()[0] is not None:
        traceback.print_exc()
    print(f"error: {one_line(message)}", file=sys.stderr, flush=True)


def one_line(message: str) -> str:
    """`message` without line breaks, and with what a terminal might obey, as names from files may hold it, escaped."""
    return printable(" ".join(message.split()))


def with_hint(message: str, arguments: Sequence[str]) -> str:
    """`message` of what is wrong with the `arguments`, and what to do where a file's name begins like an option."""
    files = [each for each in arguments if each.startswith("-") and "=" not in each and os.path.lexists(each)]
    return message + "".join(f"; for the file of that name write .{os.sep}{file}" for file in files[:1])


def failure_of_photo(error: Exception) -> tuple[str, str]:
    """Status word and message for a photo that could not be done; raises again what concerns the whole call."""
    if isinstance(error, PhotoError):
        return error.status, str(error)
    if isinstance(error, Fit3dError):
        raise error
    return "failed", unexpected(error)


def unexpected(error: Exception) -> str:
    """Message for an exception that nobody foresaw."""
    return f"unexpected {type(error).__name__}: {error} (FIT3D_DEBUG=1 shows where)"


def json_line(data: Any) -> str:
    """`data` as one line of JSON; numbers that JSON has no word for become null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(data), ensure_ascii=False, allow_nan=False)


def table_row(name: str, cells: Sequence[str]) -> str:
    """A line of a table: what it is about, then its cells, right-aligned in columns."""
    return f"{name:20}" + "".join(f"{cell:>7}" for cell in cells)


class Console:
    """Speaks to the user during one command."""

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet = quiet
        self.as_json = as_json
        self._progress: Progress | None = None
        self._status: Status | None = None
        self._task: TaskID | None = None
        self._lines: _Lines | None = None
        self._failed = 0
        self._noted: set[str] = set()

    def result(self, line: str, data: dict[str, Any]) -> None:
        """A result on stdout: `line` for people or, with --json, `data` as one line of JSON."""
        with self._paused():
            if self.as_json:
                print(json_line(data), flush=True)
            elif not self.quiet:
                print(line, flush=True)

    def warn(self, message: str) -> None:
        """A warning on stderr."""
        if not self.quiet:
            with self._paused():
                print(f"warning: {one_line(message)}", file=sys.stderr, flush=True)

    def note(self, message: str) -> None:
        """Something to know of the whole call, on stderr, once however often it is said; with --json the records say
        it."""
        if not (self.quiet or self.as_json or message in self._noted):
            self._noted.add(message)
            with self._paused():
                print(one_line(message), file=sys.stderr, flush=True)

    def error(self, message: str) -> None:
        """An error on stderr, with --quiet too."""
        with self._paused():
            print_error(message)

    @contextmanager
    def progress(self, total: int) -> Iterator[None]:
        """Shows a bar over `total` photos while the block runs; only on a terminal, and not with --quiet."""
        if self.quiet or not sys.stderr.isatty():
            yield
            return
        from rich.progress import TextColumn, TimeElapsedColumn
        from rich.table import Column

        description = TextColumn(
            "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")
        )
        with self._bar(total, TimeElapsedColumn(), description):
            yield

    @contextmanager
    def progress_of_batch(self, total: int) -> Iterator[None]:
        """The same of very many photos, with those that failed, their rate and the time left; where there is no
        terminal, a line with these every `LINE_EVERY_S`."""
        if self.quiet or not total:
            yield
        elif sys.stderr.isatty():
            from rich.progress import TextColumn, TimeRemainingColumn

            texts = [TextColumn("{task.fields[failed]} failed"), TextColumn("{task.fields[rate]}")]
            with self._bar(total, *texts, TimeRemainingColumn()):
                yield
        else:
            self._lines = _Lines(total)
            try:
                yield
            finally:
                self._lines = None

    @contextmanager
    def counting(self) -> Iterator[Callable[[str, int, int | None], None]]:
        """Takes what is being done, of how many photos it was done, and of how many it is to be done, None where nobody
        knows. A terminal shows it while the block runs; elsewhere it is a line every `LINE_EVERY_S`."""
        if self.quiet:
            yield lambda what, done, total: None
            return
        last, every_s, show = time.monotonic(), LINE_EVERY_S, _print_line
        with ExitStack() as shown:
            if sys.stderr.isatty():
                from rich.console import Console as RichConsole
                from rich.text import Text

                status = shown.enter_context(RichConsole(file=sys.stderr).status("looking for photos"))
                self._status = status
                shown.callback(setattr, self, "_status", None)
                every_s, show = STATUS_EVERY_S, lambda line: status.update(Text(line))

            def tell(what: str, done: int, total: int | None) -> None:
                nonlocal last
                if time.monotonic() - last >= every_s:
                    last = time.monotonic()
                    show(f"{what}: {done:,} {'' if total is None else f'of {total:,} '}photos")

            yield tell

    @contextmanager
    def _bar(self, total: int, *columns: ProgressColumn) -> Iterator[None]:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn

        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            *columns,
            console=RichConsole(file=sys.stderr),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=total, failed=0, rate="")
        try:
            with self._progress:
                yield
        finally:
            self._progress = self._task = None

    def stage(self, description: str) -> None:
        """Says beside the bar what is being done now."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=description)

    def advance(self, photos: int = 1, *, failed: bool = False) -> None:
        """So many photos more are done, or have failed."""
        self._failed += photos * failed
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, photos)
            speed = self._progress.tasks[self._task].speed  # of the last half minute
            rate = "" if speed is None else f"{speed:.2g} photos/s"
            self._progress.update(self._task, failed=self._failed, rate=rate)
        if self._lines is not None and (line := self._lines.advance(photos, self._failed)):
            _print_line(line)

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Takes the bar off the screen while a line is printed."""
        live = self._progress or self._status
        if live is None:
            yield
            return
        live.stop()
        try:
            yield
        finally:
            live.start()


def _print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Lines:
    """Progress over many photos as plain lines, one from time to time."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._done = 0
        self._last = time.monotonic(), 0

    def advance(self, photos: int, failed: int) -> str | None:
        """The line, where it is time for one: the rate is that since the one before."""
        self._done += photos
        now = time.monotonic()
        since, done = self._last
        if now - since < LINE_EVERY_S or self._done == self.total:
            return None
        rate = (self._done - done) / (now - since)
        self._last = now, self._done
        left = time.strftime("%H:%M:%S", time.gmtime((self.total - self._done) / rate))
        days = int((self.total - self._done) / rate / 86400)
        return (
            f"{self._done} of {self.total} photos, {failed} failed, {rate:.2g} photos/s, "
            f"{f'{days} d ' if days else ''}{left} left"
        )
