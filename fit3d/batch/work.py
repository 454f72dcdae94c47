"""What a worker does with the items that it is given: the interface between a batch and the engines that run it."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from fit3d.errors import UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")

LOST_IN_A_ROW = 50
"""Items that may be lost with none done in between, before the run ends: then it is hardly they that are to blame. A
folder may well hold a dozen side by side that no worker survives."""


class BrokenWorkerError(Exception):
    """What `Work.start` returns raises it where its process is of no more use, though the items may be sound: memory
    has run out, or a GPU refuses everything. They count as those of a worker that died. The message is a sentence
    without full stop."""


class Work(ABC, Generic[Item, Result]):
    """A job that is done item by item in workers, other processes or machines, which it reaches by pickle.

    A frozen dataclass of plain values. What is heavy, such as the face model, is loaded by `start`.
    """

    @abstractmethod
    def start(self, device: str) -> Callable[[Sequence[Item]], list[Result]]:
        """Called once in each worker: loads what is needed and returns what does a few items at a time.

        That function returns one result for each item, in their order, and raises only what concerns all items
        (`UsageError`, such as a full disk) or the worker (`BrokenWorkerError`): what is wrong with one item is told in
        its result. A result does not depend on the items beside it.
        """

    def name(self, item: Item) -> str:
        """How messages call an item."""
        return str(item)

    def check_shared(self) -> None:
        """Called before `start` in workers that are other processes, perhaps of other machines. Raises UsageError where
        one cannot see what the work reads, or would write to a place of its own."""
        return

    @abstractmethod
    def lost(self, item: Item, reason: str) -> Result:
        """The result of an item whose worker died of it or was stopped; `reason` is a sentence without full stop."""


@dataclass(frozen=True)
class Workers:
    """How an engine shares out the work.

    A worker is a process that does one chunk after another. What overlaps are workers at different stages, one
    reading while another one fits: as many as there are cores, on an accelerator as many as keep it busy.
    """

    count: int
    """Workers at a time."""
    devices: tuple[str, ...] = ("cpu",)
    """torch devices, which the workers take in turn."""
    chunk: int = 1
    """Items that a worker is given at a time: on an accelerator they are fitted in one tensor program."""
    timeout_s: float | None = None
    """After which a chunk is given up: one item by itself is lost, each of several is tried by itself. None waits
    forever."""

    @property
    def overdue(self) -> str:
        """Why an item is lost that took longer."""
        return f"it took longer than {self.timeout_s:g} s (--timeout)"


@dataclass
class Losses:
    """Counts the items that are lost in a row."""

    in_a_row: int = 0

    def done(self) -> None:
        """An item was done."""
        self.in_a_row = 0

    def lost(self, reason: str) -> UsageError | None:
        """An item was lost. Returns what ends the run, if it is one too many."""
        self.in_a_row += 1
        if self.in_a_row < LOST_IN_A_ROW:
            return None
        return UsageError(
            f"{self.in_a_row} photos in a row were lost, of the last one: {reason}; hardly all of them are to blame: "
            "`fit3d doctor` tells what is amiss, fewer workers need less memory (--workers)"
        )


class Engine(ABC):
    """Runs a work on items. Another engine gives the same results, byte for byte."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.tell: Callable[[str], None] = warnings.warn
        """Is given a line that the user should know, such as that workers wait."""

    @abstractmethod
    def run(self, work: Work[Item, Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        """Each item with its result, as they finish, in any order.

        Items are drawn as workers become free, a few ahead, so memory does not grow with their number. An item whose
        worker dies is tried once more by itself, in a new worker, before it counts as lost; what keeps an engine from
        having it done at all, such as a worker that cannot start, is never held against it.

        Raises:
            UsageError: what concerns all items.
        """

    @abstractmethod
    def stop(self) -> None:
        """Draw no more items; `run` ends once those in flight are done. May be called from a signal handler."""
