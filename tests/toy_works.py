"""Works for tests of engines: each item says what is to happen to it. Workers import this file by name."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fit3d.batch.work import BrokenWorkerError, Work
from fit3d.errors import UsageError


@dataclass(frozen=True)
class ToyWork(Work[str, str]):
    """Returns each item with the device, or does what the item names."""

    folder: str
    """Where workers leave word of what they were given."""
    start_does: str = ""

    def start(self, device: str) -> Callable[[Sequence[str]], list[str]]:
        self._note("start", device)
        _perform(self.start_does)

        def do(items: Sequence[str]) -> list[str]:
            self._note("chunk", ",".join(items))
            for item in items:
                _perform(item)
                if item == "again":
                    for count in (1, 20):
                        self._note("faults", str(_page_faults_of_arrays(count)))
            return [f"{item} on {device}" + "." * (5_000_000 if item == "big" else 0) for item in items]

        return do

    def lost(self, item: str, reason: str) -> str:
        return f"{item} lost: {reason}"

    def _note(self, kind: str, text: str) -> None:
        with open(os.path.join(self.folder, kind), "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {text}\n")


def _page_faults_of_arrays(count: int) -> int:
    """Pages that the system had to give to this process for blocks of 64 MB, made and dropped one after the other."""
    import resource  # not on Windows

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        block = b"." * 64_000_000
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _perform(word: str) -> None:
    name, _, value = word.partition(" ")
    if name == "exit":
        os._exit(int(value))
    elif name == "kill":
        os.kill(os.getpid(), getattr(signal, value))
    elif name == "sleep":
        time.sleep(float(value))
    elif name == "later":
        threading.Timer(float(value), os.kill, (os.getpid(), signal.SIGKILL)).start()
    elif name == "refuse":
        raise UsageError(value)
    elif name == "useless":
        raise BrokenWorkerError(value)
    elif name == "import":
        raise ImportError(value)


@dataclass(frozen=True)
class UnreadableWork(ToyWork):
    """No worker can unpickle it, as where a class that it needs is gone."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return _perform, ("import cannot import name 'ToyWork'",)
