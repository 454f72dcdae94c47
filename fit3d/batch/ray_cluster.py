"""The Ray that runs the workers: the one at an address, or one that is started for a run. Needs the package ray."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from fit3d.errors import UsageError

REACH_S = 10.0
"""How long to try to reach a cluster."""
STORE_BYTES = 100_000_000
"""Of Ray's object store, where we start Ray: what travels between processes are names and figures."""


@contextmanager
def connected(address: str | None, cpus: int) -> Iterator[bool]:
    """Ray is there while this lasts. Tells whether it was started for that.

    Raises:
        UsageError: it cannot be started or reached.
    """
    if ray.is_initialized():
        yield False
        return
    # neither telling its makers of each run nor printing to our output, which may be JSON
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    folder = tempfile.mkdtemp(prefix="fit3d-ray-", dir=os.environ.get("RAY_TMPDIR")) if address is None else None
    try:
        _connect(address, cpus, folder)
        yield folder is not None
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _connect(address: str | None, cpus: int, folder: str | None) -> None:
    """Start Ray here, with its files in `folder`, or connect to the one at `address`. Raises UsageError."""
    do = "`ray start --head` starts it on the first machine and tells the address"
    if address is not None and address != "auto":
        host, _, port = address.removeprefix("ray://").rpartition(":")
        try:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), REACH_S).close()
        except (OSError, ValueError, OverflowError) as error:
            raise UsageError(f"cannot reach Ray at {address}: {first_line(error)}; {do}") from error
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    ours = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": STORE_BYTES, "_temp_dir": folder}
    try:
        with _terminations_as_before():
            if folder is not None:
                ray.init(address="local", **ours, **quiet)
            else:
                ray.init(address=address, **quiet)
    except Exception as error:
        if folder is not None:
            raise UsageError(f"cannot start Ray in {folder}: {first_line(error)}") from error
        raise UsageError(f"cannot reach Ray at {address}: {first_line(error)}; {do}") from error


@contextmanager
def _terminations_as_before() -> Iterator[None]:
    """Ray puts its own handler of SIGTERM in the place of ours."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def no_messages_on_stdout() -> Iterator[None]:
    """Ray prints what its daemons say of dead workers to stdout, whatever the options; no option turns that off."""
    worker = ray._private.worker
    before = getattr(worker, "_worker_logs_enabled", True)
    worker._worker_logs_enabled = False
    try:
        yield
    finally:
        worker._worker_logs_enabled = before


def check_room(gpu_share: float, address: str | None) -> None:
    """Raises UsageError where no machine of the cluster could ever hold a worker."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(each.get("CPU", 0) >= 1 and each.get("GPU", 0) >= gpu_share for each in machines):
        needs = f"a CPU and {gpu_share:g} GPU" if gpu_share else "a CPU"
        raise UsageError(
            f"the Ray cluster {address or 'of this program'} has no machine with {needs} for a worker; "
            "`ray status` tells what it has"
        )


def first_line(error: Exception) -> str:
    """What of an error fits on a line."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
