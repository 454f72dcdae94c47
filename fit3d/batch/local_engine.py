"""The engine of one machine: worker processes, each on its own, that may die without harm to the others."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection, resource_tracker
from typing import Any, Generic

from pebble import ProcessExpired, ProcessPool

from fit3d.batch.memory import keep_freed_memory
from fit3d.batch.work import BrokenWorkerError, Engine, Item, Losses, Result, Work, Workers
from fit3d.errors import UsageError

STARTS = 3
"""Times in a row that a worker may die while it starts, or send what cannot be read, before the run ends."""
LOOK_EVERY_S = 1.0
"""How often it is asked, while nothing finishes, whether to stop and whether all busy workers are still there."""
_UNREADABLE = "Unpicklable object"
"""In what pebble says of a result that cannot be read."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Tell native libraries, while they load, how many threads to start."""


class LocalEngine(Engine):
    """Worker processes of this machine, `Workers.count` of them, on the devices in turn.

    A worker has one chunk at a time and gets the next one before the results of the last are told. What overlaps are
    the workers: while one reads, another one fits and a third one writes. So a CPU takes one worker per core; an
    accelerator too, up to what its memory holds, as reading, texturing and writing stay with the cores.

    Each worker is a pool of one process, so that what it was doing when it died is known, and nothing of it, such as
    a lock that it held, outlives it.
    """

    def __init__(self, workers: Workers) -> None:
        super().__init__(workers)
        self._stopped = False

    def run(self, work: Work[Item, Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        self._stopped = False
        devices = itertools.cycle(self.workers.devices)
        slots: list[_Slot[Item]] = [_Slot(work, next(devices)) for _ in range(self.workers.count)]
        try:
            yield from _Run(work, iter(items), self.workers, slots, lambda: self._stopped).results()
        finally:
            for slot in slots:
                slot.stop()
            for slot in slots:
                slot.join()

    def stop(self) -> None:
        self._stopped = True


class _WorkerDiedError(Exception):
    """The message says how, as a sentence without full stop."""


class _OverdueError(_WorkerDiedError):
    """It was ended, as its items took too long."""


class _PoolBrokeError(_WorkerDiedError):
    """What came of its items cannot be read, which is not their fault."""


@dataclass(frozen=True)
class _Outcome:
    """What a call in a worker came to; an exception that a pool raises is its own."""

    results: list[Any]
    error: Exception | None


@dataclass
class _Run(Generic[Item, Result]):
    """One call of `LocalEngine.run`."""

    work: Work[Item, Result]
    items: Iterator[Item]
    workers: Workers
    slots: Sequence[_Slot[Item]]
    is_stopped: Callable[[], bool]
    again: deque[Item] = field(default_factory=deque)
    """Items whose worker died: tried once more, each by itself."""
    error: Exception | None = None
    """What ends the run, once everything in flight is done."""
    losses: Losses = field(default_factory=Losses)

    def results(self) -> Iterator[tuple[Item, Result]]:
        self._occupy()
        while busy := [slot for slot in self.slots if slot.future is not None]:
            wait([slot.future for slot in busy if slot.future is not None], LOOK_EVERY_S, FIRST_COMPLETED)
            finished: list[tuple[Item, Result]] = []
            for slot in busy:
                finished += self._finish(slot)
            self._occupy()  # before the results are told: whoever takes them may take his time
            yield from finished
        if self.error is not None:
            raise self.error

    def _occupy(self) -> None:
        """Give each worker that has nothing to do the next items, if there are any."""
        for slot in self.slots:
            if slot.future is None:
                chunk, is_last_try = self._next_chunk()
                if not chunk:
                    return
                slot.begin(chunk, is_last_try, self.workers)

    def _next_chunk(self) -> tuple[list[Item], bool]:
        """Items, and whether they are tried for the last time; none where nothing more is to be begun."""
        if self.error is not None:
            return [], False
        if self.again:
            return [self.again.popleft()], True
        if self.is_stopped():
            return [], False
        try:
            return list(itertools.islice(self.items, self.workers.chunk)), False
        except Exception as error:
            self.error = error
            return [], False

    def _finish(self, slot: _Slot[Item]) -> list[tuple[Item, Result]]:
        """Results of a worker whose chunk is done, or whose items are lost; none while it is at work."""
        try:
            outcome = slot.outcome()
        except _WorkerDiedError as death:
            return self._bury(slot, death)
        except Exception as error:
            slot.leave()
            self.error = self.error or error
            return []
        if outcome is None:
            return []
        if isinstance(outcome.error, BrokenWorkerError):
            return self._bury(slot, _WorkerDiedError(str(outcome.error)))
        chunk = slot.leave()
        if outcome.error is not None:
            self.error = self.error or outcome.error
            return []
        assert len(outcome.results) == len(chunk), "a work returns one result for each item"
        slot.failed_starts = 0
        self.losses.done()
        return list(zip(chunk, outcome.results, strict=True))

    def _bury(self, slot: _Slot[Item], death: _WorkerDiedError) -> list[tuple[Item, Result]]:
        """Go on after a worker died: its items are tried again, or are lost if they were, or took too long alone."""
        is_last_try, began = slot.is_last_try, slot.has_started and not isinstance(death, _PoolBrokeError)
        chunk = slot.leave()
        slot.stop()
        slot.join()
        slot.failed_starts = 0 if began else slot.failed_starts + 1
        if began and (is_last_try or (isinstance(death, _OverdueError) and len(chunk) == 1)):
            self.error = self.error or self.losses.lost(str(death))
            return [(item, self.work.lost(item, str(death))) for item in chunk]
        if slot.failed_starts >= STARTS:
            hint = "fewer workers need less memory (--workers)" if "memory" in str(death) else "see what it said above"
            self.error = self.error or UsageError(f"a worker on {slot.device} cannot start: {death}; {hint}")
        if began or is_last_try:
            self.again.extend(chunk)
        else:
            self.items = itertools.chain(chunk, self.items)
        return []


@dataclass
class _Slot(Generic[Item]):
    """The place of one worker: its process, which may be replaced, and what it does."""

    work: Work[Any, Any]
    device: str
    future: Future[_Outcome] | None = None
    """Of the chunk that it was given, or, before, of its start."""
    is_last_try: bool = False
    has_started: bool = False
    failed_starts: int = 0
    """In a row, with nothing done in between."""
    _chunk: list[Item] = field(default_factory=list)
    _workers: Workers | None = None
    """Says how long the chunk may take."""
    _pool: ProcessPool | None = None
    _pid: Future[int] | None = None
    _missing_since: float | None = None

    def begin(self, chunk: list[Item], is_last_try: bool, workers: Workers) -> None:
        """Give it items, which may take `workers.timeout_s` together."""
        self._chunk, self.is_last_try = chunk, is_last_try
        self._workers = workers
        if self._pool is not None and not self._pool.active:  # it died while it had nothing to do
            self.stop()
            self.join()
        if self._pool is None:
            with _interrupts_held_back():  # its process and pebble's threads, which replace it, inherit that
                self._pool = ProcessPool(
                    max_workers=1, context=multiprocessing.get_context("spawn"), initializer=_set_up_process
                )
                self._pid = self._pool.schedule(os.getpid)
                self.future = self._pool.schedule(_start, args=(self.work, self.device))
        else:
            self._do()

    def _do(self) -> None:
        assert self._pool is not None and self._workers is not None
        self.future = self._pool.schedule(_do, args=(self._chunk,), timeout=self._workers.timeout_s)

    def outcome(self) -> _Outcome | None:
        """Of the chunk, or of a start that failed; None while it is at work. Raises _WorkerDiedError."""
        assert self.future is not None
        if not self.future.done():
            if self._is_missing():
                raise _WorkerDiedError("the process that fitted it ended")
            return None
        try:
            outcome = self.future.result()
        except ProcessExpired as error:
            raise _WorkerDiedError(_how_it_ended(error.exitcode)) from error
        except BrokenProcessPool as error:
            if _UNREADABLE in str(error):
                raise _PoolBrokeError("the process that fitted it sent what this one cannot read") from error
            raise _WorkerDiedError("the process that was to fit it ended") from error  # before pebble saw it begin
        except (TimeoutError, FutureTimeoutError) as error:
            assert self._workers is not None
            raise _OverdueError(self._workers.overdue) from error
        if self.has_started or outcome.error is not None:
            return outcome
        self.has_started = True
        self._do()
        return None

    def _is_missing(self) -> bool:
        """Whether the process ended without a word. pebble tells it of all exit codes but 0, a moment later."""
        if self._pid is None or not self._pid.done() or self._pid.exception() is not None:
            return False
        if self._pid.result() in (process.pid for process in multiprocessing.active_children()):
            self._missing_since = None
            return False
        self._missing_since = self._missing_since or time.monotonic()
        return time.monotonic() - self._missing_since > LOOK_EVERY_S

    def leave(self) -> list[Item]:
        """Has nothing to do any more. Returns the chunk that it had."""
        chunk, self._chunk, self.future = self._chunk, [], None
        return chunk

    def stop(self) -> None:
        """End the process; it is gone after `join`."""
        if self._pool is not None:
            self._pool.stop()

    def join(self) -> None:
        if self._pool is not None:
            self._pool.join()
        self._pool = self._pid = self._missing_since = None
        self.has_started = False


def _how_it_ended(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"the process that fitted it ended (exit code {exitcode})"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = ""
    perhaps = ": perhaps out of memory" if name == "SIGKILL" else ""
    return f"the process that fitted it died (signal {-exitcode}{f', {name}' if name else ''}){perhaps}"


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """What is started in the block never sees Ctrl-C, which the terminal sends to all; the parent decides."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows: pebble's workers ignore it, once they are up
        yield
        return
    resource_tracker.ensure_running()  # which would let them through again, once it has started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# In the worker.

_what_does: Callable[[Sequence[Any]], list[Any]] | None = None
"""What `Work.start` returned in this process."""


def _set_up_process() -> None:
    """Before anything heavy is imported."""
    keep_freed_memory()
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, "1")  # the cores are shared out by process
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of packages, to their programmers
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    """A run that is begun anew after kill -9 must not meet the workers of the last one, still writing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _start(work: Work[Any, Any], device: str) -> _Outcome:
    global _what_does
    try:
        work.check_shared()
        _what_does = work.start(device)
    except Exception as error:
        return _Outcome([], error)
    return _Outcome([], None)


def _do(chunk: Sequence[Any]) -> _Outcome:
    assert _what_does is not None
    try:
        return _Outcome(_what_does(chunk), None)
    except Exception as error:
        return _Outcome([], error)
