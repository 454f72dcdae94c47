"""Downloads files so that an interrupted download goes on at the byte where it stopped, and half of one is never found.

The bytes of `NAME` gather in `.fit3d-NAME.part` beside it, which nobody looks for; only what is whole and right is
renamed.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from fit3d.errors import UsageError

TIMEOUT_S = 30.0
RETRIES = 2
CHUNK_BYTES = 1 << 18


def download(base_url: str, names: Sequence[str], folder: Path, on_file: Callable[[str], None]) -> None:
    """Fetch `base_url` + name for all `names` into `folder`; what is there already is not fetched again.

    Args:
        base_url: ends in '/'. The caller checks what has come.
        on_file: told the name of each file that is there.

    Raises:
        UsageError: the network or the server fails, or the folder cannot be written. What has come stays.
    """
    for name in names:
        if not (folder / name).exists():
            download_file(base_url + name, folder / name)
        on_file(name)


def download_file(
    url: str,
    path: Path,
    check: Callable[[Path], None] = lambda part: None,
    on_bytes: Callable[[int], None] = lambda so_far: None,
    *,
    resume: bool = True,
) -> None:
    """Fetch `url` to `path`, where it appears whole and checked or not at all.

    Args:
        check: raises UsageError for a file that is not what it should be; it is deleted then.
        on_bytes: told how many bytes are there, now and then.
        resume: keep what has come when the connection breaks, and go on from there the next time. Not for files that
            `check` cannot tell from a mixture of two versions.

    Raises:
        UsageError: the network or the server fails, the folder cannot be written, or the file is not the right one.
    """
    part = path.with_name(f".fit3d-{path.name}.part")
    keep = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "ab") as file:
            _claim(file, part)
            keep = resume
            _fetch(url, file, on_bytes, resume)
            keep = False
            file.flush()
            os.fsync(file.fileno())
        check(part)
        os.replace(part, path)
    except _BusyError as error:
        keep = True
        raise UsageError(f"{path.name} is being downloaded by another process; wait for it") from error
    except _BrokenError as error:
        keep = keep and error.worth_keeping
        again = "what has come is kept: run the same command again" if keep else "run the same command again later"
        raise UsageError(f"cannot download {url}: {error}{'' if error.for_good else f'; {again}'}") from error
    except OSError as error:
        keep = False  # on a full disk too: the bytes are better free
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if not keep:
            with suppress(OSError):
                part.unlink(missing_ok=True)


class _BrokenError(Exception):
    """The network or the server failed; the message says how."""

    def __init__(self, message: str, worth_keeping: bool, for_good: bool) -> None:
        super().__init__(message)
        self.worth_keeping = worth_keeping
        """Whether there are bytes to go on from."""
        self.for_good = for_good
        """Whether another try would fail the same way."""


class _BusyError(Exception):
    """Another process writes the same file."""


def _claim(file: IO[bytes], part: Path) -> None:
    """Keep other processes from writing the same part; where the system has no locks, the check finds the mixture."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise _BusyError from error
    # it may have been finished and renamed between our opening and locking it
    if not part.exists() or not os.path.samestat(os.fstat(file.fileno()), part.stat()):
        raise _BusyError


def _fetch(url: str, file: IO[bytes], on_bytes: Callable[[int], None], resume: bool) -> None:
    """Append the rest of `url` to `file`, with a few more tries where the connection breaks."""
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)  # it reports each file on stderr
    for tried in range(RETRIES + 1):
        if not resume:
            file.truncate(0)
        incoming = _Incoming(file, on_bytes)
        start = incoming.so_far
        # no compression: a range counts the bytes that travel
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        downloader = pooch.HTTPDownloader(
            chunk_size=CHUNK_BYTES, timeout=TIMEOUT_S, headers=headers, hooks={"response": incoming.begin}
        )
        try:
            downloader(url, incoming, None)
            if incoming.expected is not None and incoming.so_far < incoming.expected:
                raise requests.exceptions.ChunkedEncodingError  # which old versions of urllib3 do not notice
            return
        except (requests.RequestException, ValueError) as error:
            beyond = start > 0 and _status(error) == 416
            if beyond and incoming.expected == start:
                return  # all bytes are here: we were stopped before the file was checked
            if beyond:
                file.truncate(0)  # the part of another file
            for_good = 400 <= _status(error) < 500 and not beyond
            if tried == RETRIES or for_good:
                raise _BrokenError(_reason(error), worth_keeping=incoming.so_far > 0, for_good=for_good) from error
            time.sleep(1.0 + tried)


class _Incoming:
    """The file that a download writes to, from where it stopped or, if the server starts anew, from the beginning."""

    def __init__(self, file: IO[bytes], on_bytes: Callable[[int], None]) -> None:
        self._file, self._on_bytes = file, on_bytes
        self.so_far = os.fstat(file.fileno()).st_size
        self.expected: int | None = None
        """Bytes of the whole file, as far as the server tells."""

    def begin(self, response: Any, **_: Any) -> None:
        """What requests calls with each answer, before the first byte is written."""
        if response.status_code == 200:
            self._file.truncate(0)
            self.so_far = 0
            length = response.headers.get("Content-Length", "")
        else:
            length = response.headers.get("Content-Range", "").rpartition("/")[2]
        self.expected = int(length) if length.isdecimal() else None

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self.so_far += len(chunk)
        self._on_bytes(self.so_far)

    def flush(self) -> None:
        self._file.flush()


def _status(error: Exception) -> int:
    """The server's status code, 0 where it gave none."""
    response = getattr(error, "response", None)
    return 0 if response is None else int(response.status_code)


def _reason(error: Exception) -> str:
    """What went wrong, without the addresses of objects that requests puts into its messages."""
    import requests

    if isinstance(error, requests.Timeout):
        return f"no answer within {TIMEOUT_S:g} s"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.ConnectionError):
        return "no connection to the server"
    return str(error)
