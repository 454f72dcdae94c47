"""The engine of several machines: Ray actors, one for each worker. Needs the package ray."""

from __future__ import annotations

import itertools
import math
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Generic

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from fit3d import __version__
from fit3d.batch.memory import keep_freed_memory
from fit3d.batch.ray_cluster import check_room, connected, first_line, no_messages_on_stdout
from fit3d.batch.ray_failures import LOST_MACHINE, Cause, cause_of, how_it_ended, told_start
from fit3d.batch.work import BrokenWorkerError, Engine, Item, Losses, Result, Work, Workers
from fit3d.errors import UsageError

STARTS = 3
"""Times in a row that a worker may die while it starts, before its place is given up."""
MOVES = 5
"""Times that an item may lose its machine, or Ray fail with it: see `_Run._move`."""
LOOK_EVERY_S = 1.0
"""How often it is asked, while nothing finishes, whether to stop and whether an item takes too long."""
UNSEEN_S = 60.0
"""How long to wait for a worker that cannot be reached, and may be at work nevertheless, before its machine counts as
lost."""
ROOM_S = 20.0
"""A worker that was not made after so long waits for room in the cluster."""


class RayEngine(Engine):
    """Ray actors, `Workers.count` of them, each with the face model loaded once.

    A worker has one chunk at a time. Workers that the cluster has no room for begin once it has, as when machines
    join; those of a machine that is lost are begun anew on others. What has to be shared, photos and results, must be
    at the same path, or URL, on all machines.
    """

    def __init__(self, workers: Workers, address: str | None = None, gpus_per_worker: float | None = None) -> None:
        """
        Args:
            workers: their `count` is that of the whole cluster, where each takes one CPU.
            address: of a cluster that runs: 'auto' (on this machine), 'host:port' or 'ray://host:port'. None takes
                the one that this program is connected to, else starts Ray on this machine for as long as a run lasts.
            gpus_per_worker: share of a GPU, or number of GPUs, that Ray is asked for. None asks a cluster for one
                where the device is a CUDA one; on this machine alone the workers take `workers.devices` in turn.

        Raises:
            UsageError: not a share that there can be.
        """
        super().__init__(workers)
        if gpus_per_worker is not None and not _is_share(gpus_per_worker):
            raise UsageError(f"{gpus_per_worker:g} GPUs per worker: expected a share between 0 and 1 or a whole number")
        self._address = address
        self._gpus_per_worker = gpus_per_worker
        self._stopped = False

    def run(self, work: Work[Item, Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        self._stopped = False
        with no_messages_on_stdout(), connected(self._address, self.workers.count) as is_ours:
            share = self._gpu_share(is_ours)
            if not is_ours:
                check_room(share, self._address)
            run = _Run(work, iter(items), self.workers, share, lambda: self._stopped, self.tell)
            try:
                yield from run.results()
            except RayError as error:  # of what was asked of Ray, such as a store that is full
                raise UsageError(f"Ray failed: {first_line(error)}") from error
            finally:
                run.dismiss()

    def stop(self) -> None:
        self._stopped = True

    def _gpu_share(self, is_ours: bool) -> float:
        is_cuda = self.workers.devices[0].startswith("cuda")
        if self._gpus_per_worker is not None:
            return self._gpus_per_worker if is_cuda else 0.0
        return 1.0 if is_cuda and not is_ours else 0.0


@dataclass(frozen=True)
class _Outcome:
    """What a call in a worker came to."""

    results: list[Any]
    error: Exception | None


@dataclass(frozen=True)
class _Task(Generic[Item]):
    """Items that a worker is given together."""

    items: list[Item]
    deaths: int = 0
    """Workers that died of them."""
    moves: int = 0
    """Machines that were lost under them, and failures of Ray."""
    done_before: int = 0
    """Items of the run that were done when it moved first."""


@dataclass(eq=False)
class _Place(Generic[Item]):
    """The place of one worker: an actor, which may be replaced."""

    device: str
    actor: Any = None
    task: _Task[Item] | None = None
    """None while it starts or has nothing to do."""
    since: float = 0.0
    """When it got the task; monotonic seconds."""
    failed_starts: int = 0
    """In a row."""
    made: Any = None
    """Answered by Ray once the actor is there; None after that."""
    hired: float = 0.0
    """When Ray was asked for the actor; monotonic seconds."""
    unseen_since: float | None = None
    """Since when the actor cannot be reached; monotonic seconds."""


@dataclass
class _Run(Generic[Item, Result]):
    """One call of `RayEngine.run`."""

    work: Work[Item, Result]
    items: Iterator[Item]
    workers: Workers
    gpu_share: float
    is_stopped: Callable[[], bool]
    tell: Callable[[str], None]
    waiting: deque[_Task[Item]] = field(default_factory=deque)
    """Drawn, but no worker has them: one task for each place without any, and those to be tried again."""
    moved: deque[_Task[Item]] = field(default_factory=deque)
    """To be tried elsewhere, once all others were given out."""
    calls: dict[Any, _Place[Item]] = field(default_factory=dict)
    """Places at work or starting, by what Ray will answer."""
    idle: list[_Place[Item]] = field(default_factory=list)
    unseen: list[_Place[Item]] = field(default_factory=list)
    """Places whose actors cannot be reached but may be at work, until they are asked again."""
    vacant: deque[_Place[Item]] = field(init=False)
    """Places without a worker; those whose workers cannot start are not among them."""
    error: Exception | None = None
    """What ends the run, once everything in flight is done."""
    has_told_of_room: bool = False
    done: int = 0
    """Items."""
    idle_moves: int = 0
    """In a row, with nothing done in between."""
    losses: Losses = field(default_factory=Losses)

    def __post_init__(self) -> None:
        devices = itertools.islice(itertools.cycle(self.workers.devices), self.workers.count)
        self.vacant = deque(_Place(device) for device in devices)

    def results(self) -> Iterator[tuple[Item, Result]]:
        self._occupy()
        while self.waiting or self.unseen or any(place.task for place in self.calls.values()):
            finished: list[tuple[Item, Result]] = []
            for call in self._answered():
                finished += self._finish(call)
            finished += self._give_up_overdue()
            self._tell_of_room()
            self._occupy()  # before the results are told: whoever takes them may take his time
            yield from finished
        if self.error is not None:
            raise self.error

    def dismiss(self) -> None:
        """End all workers."""
        for place in [*self.idle, *self.unseen, *self.calls.values()]:
            self._kill(place)

    def _occupy(self) -> None:
        """Draw items for the places that have none, and give them to workers."""
        self._draw()
        while self.waiting and self.idle:
            place = self.idle.pop()
            place.task, place.since = self.waiting.popleft(), time.monotonic()
            self.calls[place.actor.do.remote(place.task.items)] = place
        starting = sum(place.task is None for place in self.calls.values())
        while starting < len(self.waiting) and self.vacant:
            self._hire(self.vacant.popleft())
            starting += 1

    def _draw(self) -> None:
        if self.error is not None:
            self.waiting.clear()
            self.moved.clear()
            return
        if self.is_stopped():
            self.waiting = deque(task for task in self.waiting if task.deaths or task.moves)
            self.moved.clear()
            return
        starting = sum(place.task is None for place in self.calls.values())
        while len(self.waiting) < len(self.vacant) + len(self.idle) + starting:
            try:
                chunk = list(itertools.islice(self.items, self.workers.chunk))
            except Exception as error:
                self.error = error
                self.waiting.clear()
                self.moved.clear()
                return
            if not (chunk or self.moved):
                return
            self.waiting.append(_Task(chunk) if chunk else self.moved.popleft())

    def _hire(self, place: _Place[Item]) -> None:
        """Ask Ray for a worker."""
        device = "cuda" if self.gpu_share else place.device  # Ray shows a worker its own GPUs alone
        place.actor = _Actor.options(
            num_cpus=1, num_gpus=self.gpu_share, max_restarts=0, scheduling_strategy="SPREAD"
        ).remote()
        place.made, place.hired = place.actor.is_there.remote(), time.monotonic()
        self.calls[place.actor.start.remote(self.work, device, socket.gethostname(), __version__)] = place

    def _tell_of_room(self) -> None:
        """Say, once, that workers wait until the cluster has room for them."""
        if self.has_told_of_room:
            return
        late = 0
        for place in self.calls.values():
            if place.made is not None and time.monotonic() - place.hired > ROOM_S:
                if ray.wait([place.made], timeout=0)[0]:
                    place.made = None
                else:
                    late += 1
        if late:
            self.has_told_of_room = True
            workers = f"{late} worker{'s' if late > 1 else ''}"
            self.tell(f"waiting for room for {workers}; `ray status` shows what the cluster has")

    def _answered(self) -> list[Any]:
        if self.unseen:
            time.sleep(LOOK_EVERY_S)
            while self.unseen:  # a call is answered once the one before is done, so the actor writes no more
                place = self.unseen.pop()
                self.calls[place.actor.is_there.remote()] = place
        if not self.calls:
            return []
        calls = list(self.calls)
        if not ray.wait(calls, num_returns=1, timeout=LOOK_EVERY_S)[0]:
            return []
        return list(ray.wait(calls, num_returns=len(calls), timeout=0)[0])  # all there are: the list may be long

    def _finish(self, call: Any) -> list[tuple[Item, Result]]:
        """Results of a call that was answered, or of items that are lost; none where a worker is ready."""
        place = self.calls.pop(call)
        try:
            outcome = ray.get(call)
        except ActorUnavailableError as error:
            return self._lose_sight(place, error)
        except RayActorError as error:
            return self._bury(place, how_it_ended(error), cause_of(error))
        except RayTaskError as error:  # nothing that a work may raise: ours, or a package that the worker lacks
            self._end(UsageError(told_start(error)))
            return []
        except RayError as error:
            return self._bury(place, first_line(error), "ray")
        if isinstance(outcome.error, BrokenWorkerError):
            return self._bury(place, str(outcome.error), "died")
        task, place.task = place.task, None
        place.failed_starts, place.made = 0, None
        self.idle.append(place)
        if place.unseen_since is not None:  # it is back, with no results of what it had
            place.unseen_since = None
            return [] if task is None else self._try_again(task, LOST_MACHINE, "machine")
        if outcome.error is not None:
            self._end(outcome.error)
            return []
        if task is None:
            return []
        assert len(outcome.results) == len(task.items), "a work returns one result for each item"
        self.done += len(task.items)
        self.idle_moves = 0
        self.losses.done()
        return list(zip(task.items, outcome.results, strict=True))

    def _lose_sight(self, place: _Place[Item], error: RayActorError) -> list[tuple[Item, Result]]:
        """Go on when an actor cannot be reached: as it may be at work, nobody else gets its items until it has
        answered, is known to be dead, or counts as lost."""
        place.unseen_since = place.unseen_since or time.monotonic()
        if place.task is None or time.monotonic() - place.unseen_since > UNSEEN_S:
            place.unseen_since = None
            return self._bury(place, how_it_ended(error), "machine")
        self.unseen.append(place)
        return []

    def _give_up_overdue(self) -> list[tuple[Item, Result]]:
        timeout_s, now = self.workers.timeout_s, time.monotonic()
        if timeout_s is None:
            return []
        lost: list[tuple[Item, Result]] = []
        for call, place in list(self.calls.items()):
            if place.task is None or now - place.since <= timeout_s:
                continue
            if ray.wait([call], timeout=0)[0]:  # done while nobody asked for results
                continue
            del self.calls[call]
            lost += self._bury(place, self.workers.overdue, "overdue")
        return lost

    def _bury(self, place: _Place[Item], reason: str, cause: Cause) -> list[tuple[Item, Result]]:
        """Go on after a worker died: its items are tried again, each by itself, or are lost."""
        self._kill(place)
        task, place.task, place.unseen_since = place.task, None, None
        if task is None and cause != "machine":
            place.failed_starts += 1
        if place.failed_starts < STARTS:
            self.vacant.appendleft(place)
        elif not (self.vacant or self.idle or self.unseen or self.calls):
            self._end(UsageError(f"no worker can start: {reason}; fewer workers need less memory (--workers)"))
        return [] if task is None else self._try_again(task, reason, cause)

    def _try_again(self, task: _Task[Item], reason: str, cause: Cause) -> list[tuple[Item, Result]]:
        """Each of the items by itself; or they are lost, if they were tried often enough or took too long alone."""
        if cause in ("machine", "memory", "ray"):
            return self._move(task, reason)
        if task.deaths or (cause == "overdue" and len(task.items) == 1):
            return self._lose(task, reason)
        self.waiting.extendleft(replace(task, items=[item], deaths=1) for item in reversed(task.items))
        return []

    def _move(self, task: _Task[Item], reason: str) -> list[tuple[Item, Result]]:
        """Try items elsewhere, after all others, that lost their machine, or that Ray failed with. After `MOVES` times
        they count as lost if others were done meanwhile, so that it must be they; if none was, the run ends."""
        moved = replace(task, moves=task.moves + 1, done_before=task.done_before if task.moves else self.done)
        self.idle_moves += 1
        is_one_too_many = moved.moves > MOVES
        if is_one_too_many and self.done > moved.done_before:
            return self._lose(task, f"{reason}, {moved.moves} times")
        if is_one_too_many or self.idle_moves > MOVES * self.workers.count:
            names = ", ".join(map(self.work.name, task.items))
            self._end(UsageError(f"{names}: {reason}; {self.idle_moves} times in a row, and nothing is done any more"))
            return []
        self.moved.extend(replace(moved, items=[item]) for item in task.items)
        return []

    def _lose(self, task: _Task[Item], reason: str) -> list[tuple[Item, Result]]:
        for _ in task.items:
            self.error = self.error or self.losses.lost(reason)
        return [(item, self.work.lost(item, reason)) for item in task.items]

    def _end(self, error: Exception) -> None:
        self.error = self.error or error

    def _kill(self, place: _Place[Item]) -> None:
        with suppress(Exception):  # it may be dead, or its machine
            ray.kill(place.actor)


class _Worker:
    """What runs in the process of an actor."""

    def __init__(self) -> None:
        keep_freed_memory()

    def is_there(self) -> _Outcome:
        """Nothing is done; the answer tells that all before is."""
        return _Outcome([], None)

    def start(self, work: Work[Any, Any], device: str, host: str, version: str) -> _Outcome:
        """Load what is needed. `host` and `version` are of the program that gives out the work."""
        here = socket.gethostname()
        if version != __version__:
            error = UsageError(f"{here} has fit3d {__version__}, but {host} has {version}; install the same on both")
            return _Outcome([], error)
        try:
            work.check_shared()  # even here: another machine may go by the same name
            self._does = work.start(device)
        except Exception as error:
            return _Outcome([], error)
        return _Outcome([], None)

    def do(self, chunk: Sequence[Any]) -> _Outcome:
        """The results of a few items."""
        try:
            return _Outcome(self._does(chunk), None)
        except Exception as error:
            return _Outcome([], error)


_Actor: Any = ray.remote(_Worker)


def _is_share(gpus: float) -> bool:
    return math.isfinite(gpus) and gpus >= 0 and (gpus <= 1 or gpus == int(gpus))
