"""A lock in an object store, which has none: a small object that its holder renews.

This is the best that can be done there, not a guarantee. Two runs that begin within the same second are told apart
only by stores that create exclusively (S3, Google, memory); a run that could not renew its lease for `STALE_S` loses
it to the next one, and notices at its next renewal, or before it replaces or removes lines of
the manifest. Hosts' clocks are taken to agree within a minute or so.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from fit3d.batch.url_files import UrlFiles
from fit3d.errors import LockedError, UsageError

RENEW_S = 30.0
STALE_S = 300.0
"""A lease that was not renewed for so long counts no more."""


class Lease:
    """Held while `held` lasts; `check` tells whether it still is."""

    def __init__(self, files: UrlFiles, name: str) -> None:
        self._files = files
        self._name = name
        self._owner = secrets.token_hex(8)
        self._since = time.time()
        self._lost_to: dict[str, Any] | None = None
        self._one_at_a_time = threading.Lock()
        """Some stores show a file that is being replaced as half of it: it is not looked at while it is renewed."""

    def check(self, afresh: bool = False) -> None:
        """Raises LockedError where another process took it over, as of the last renewal or, `afresh`, of now."""
        if afresh and self._lost_to is None:
            with self._one_at_a_time:
                self._see()
        if self._lost_to is not None:
            raise LockedError(f"{self._files.root} was taken over by another `fit3d batch`{_told(self._lost_to)}")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Raises LockedError at once where another process holds it."""
        self._take()
        over = threading.Event()
        renewing = threading.Thread(target=self._keep, args=(over,), name="fit3d-lease", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            over.set()
            renewing.join()
            with suppress(UsageError, OSError):
                if (self._read() or {}).get("owner") == self._owner:
                    self._files.remove(self._name)

    def _take(self) -> None:
        if not self._files.create(self._name, self._content()):
            holder = self._read()
            if holder is not None and _is_alive(holder):
                raise LockedError(f"{self._files.root} is being written to by another `fit3d batch`{_told(holder)}")
            self._files.write(self._name, self._content())
        # where two took it at the same time, the later one has it
        now = self._read()
        if now is None or now.get("owner") != self._owner:
            raise LockedError(f"{self._files.root} is being written to by another `fit3d batch`{_told(now or {})}")

    def _keep(self, over: threading.Event) -> None:
        while not over.wait(RENEW_S):
            try:
                with self._one_at_a_time:
                    if not self._see():
                        return
                    self._files.write(self._name, self._content())
            except (UsageError, OSError):
                continue  # the network may come back before the lease is stale

    def _see(self) -> bool:
        """Whether the lease in the store is still this one. One that is gone was taken over and let go again."""
        holder = self._read() or {}
        if holder.get("owner") != self._owner:
            self._lost_to = holder
        return self._lost_to is None

    def _content(self) -> bytes:
        holder = {
            "owner": self._owner,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": self._since,
            "renewed": time.time(),
        }
        return json.dumps(holder).encode()

    def _read(self) -> dict[str, Any] | None:
        """The holder; None where nobody holds it. What cannot be understood is of nobody."""
        try:
            holder = json.loads(self._files.read(self._name))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return holder if isinstance(holder, dict) else {}


def _is_alive(holder: dict[str, Any]) -> bool:
    renewed, pid = holder.get("renewed"), holder.get("pid")
    if not isinstance(renewed, int | float) or time.time() - renewed > STALE_S:
        return False
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int) or os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False  # killed on this machine: nobody need wait until its lease is stale
    except (PermissionError, OverflowError):
        return True
    return True


def _told(holder: dict[str, Any]) -> str:
    try:
        told = f"process {int(holder['pid'])} on {str(holder['host'])[:100]!r}"
        return f" ({told}, which last renewed its lease {max(0.0, time.time() - float(holder['renewed'])):.0f} s ago)"
    except (KeyError, TypeError, ValueError):
        return ""
