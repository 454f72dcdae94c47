"""Worker processes that die, hang, refuse or return much, and what becomes of the others' items."""

from __future__ import annotations

import os
import pickle
import platform
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fit3d import errors
from fit3d.batch.local_engine import LocalEngine
from fit3d.batch.work import Workers
from fit3d.errors import Fit3dError, UsageError
from toy_works import ToyWork

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")


def run(folder: Path, items: list[str], workers: Workers, start_does: str = "") -> dict[str, str]:
    return dict(LocalEngine(workers).run(ToyWork(str(folder), start_does), items))


def drain(results: Iterator[tuple[str, str]], done: list[str]) -> None:
    """Note each item as it is done."""
    for item, _ in results:
        done.append(item)


def noted(folder: Path, kind: str) -> list[list[str]]:
    """Process and text of each note that workers left."""
    return [line.split(" ", 1) for line in (folder / kind).read_text().splitlines()]


def test_all_items_in_chunks_on_devices_in_turn(tmp_path: Path) -> None:
    items = [f"sleep 0.{number:02d}" for number in range(1, 12)]
    done = run(tmp_path, items, Workers(2, ("cpu", "mps"), chunk=3))
    assert {item: result.split(" on ")[0] for item, result in done.items()} == {item: item for item in items}
    assert sorted(device for _, device in noted(tmp_path, "start")) == ["cpu", "mps"]
    assert sorted(text for _, text in noted(tmp_path, "chunk")) == [
        ",".join(items[start : start + 3]) for start in range(0, 11, 3)
    ]
    assert {pid for pid, _ in noted(tmp_path, "chunk")} == {pid for pid, _ in noted(tmp_path, "start")}
    assert str(os.getpid()) not in {pid for pid, _ in noted(tmp_path, "start")}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="its allocator")
def test_workers_use_their_memory_again(tmp_path: Path) -> None:
    """A freed array's pages are those of the next one: the system is not asked for them anew."""
    assert run(tmp_path, ["again"], Workers(1)) == {"again": "again on cpu"}
    ((_, first), (_, others)) = noted(tmp_path, "faults")
    assert int(first) > 10_000 > 100 > int(others)


@pytest.mark.parametrize(
    ("killer", "reason"),
    [
        ("exit 3", "the process that fitted it ended (exit code 3)"),
        ("exit 0", "the process that fitted it ended"),
        ("kill SIGKILL", "the process that fitted it died (signal 9, SIGKILL): perhaps out of memory"),
        ("kill SIGSEGV", "the process that fitted it died (signal 11, SIGSEGV)"),
        ("sleep 60", "it took longer than 0.5 s (--timeout)"),
    ],
)
def test_who_kills_a_worker_is_lost_alone(killer: str, reason: str, tmp_path: Path) -> None:
    """Tried twice, the second time by itself; the others of its chunk are tried again and kept."""
    workers = Workers(1, chunk=3, timeout_s=0.5 if killer.startswith("sleep") else None)
    done = run(tmp_path, ["a", killer, "b", "c", "d"], workers)
    kept = {item: f"{item} on cpu" for item in "abcd"}
    assert done == kept | {killer: f"{killer} lost: {reason}"}
    tries = Counter(item for _, text in noted(tmp_path, "chunk") for item in text.split(","))
    assert tries == {"a": 2, killer: 2, "b": 2, "c": 1, "d": 1}
    assert [killer] in [text.split(",") for _, text in noted(tmp_path, "chunk")]


def test_a_chunk_has_the_time_of_an_item(tmp_path: Path) -> None:
    """One that hangs must not keep an accelerator for as long as all could take; what was only slow is still done."""
    items = ["sleep 1.5", "sleep 1.50"]
    assert run(tmp_path, items, Workers(1, chunk=2, timeout_s=2.5)) == {item: f"{item} on cpu" for item in items}
    assert [text for _, text in noted(tmp_path, "chunk")] == [",".join(items), *items]


def test_who_dies_while_idle_is_replaced(tmp_path: Path) -> None:
    """The first worker has nothing to do any more when it dies, and gets what the second one leaves."""
    done = run(tmp_path, ["later 0.2", "a", "sleep 1", "exit 3"], Workers(2, chunk=2))
    lost = done.pop("exit 3")
    assert done == {item: f"{item} on cpu" for item in ("later 0.2", "a", "sleep 1")}
    assert lost == "exit 3 lost: the process that fitted it ended (exit code 3)"


def test_items_are_drawn_as_they_are_needed(tmp_path: Path) -> None:
    drawn = []

    def items() -> Iterator[str]:
        for number in range(10**9):
            drawn.append(number)
            yield f"{number}"

    engine = LocalEngine(Workers(2, chunk=4))
    results = engine.run(ToyWork(str(tmp_path)), items())
    told = 0
    for _ in results:
        told += 1
        assert len(drawn) <= told + 3 * 2 * 4
        if told == 200:
            engine.stop()
    assert told == len(drawn) < 230


def test_stop_finishes_what_is_in_flight(tmp_path: Path) -> None:
    engine = LocalEngine(Workers(2))
    results = engine.run(ToyWork(str(tmp_path)), ["a", "sleep 1", *"bcdefgh"])
    done = [next(results)[0]]
    engine.stop()
    done += [item for item, _ in results]
    given = [text for _, text in noted(tmp_path, "chunk")]
    assert sorted(done) == sorted(given) and "sleep 1" in done and len(done) < 9


def test_refusal_ends_the_run_after_what_had_finished(tmp_path: Path) -> None:
    results = LocalEngine(Workers(2)).run(ToyWork(str(tmp_path)), ["sleep 1.5", "refuse disk full", *"abcdefgh"])
    done: list[str] = []
    with pytest.raises(UsageError, match="disk full"):
        drain(results, done)
    given = [text for _, text in noted(tmp_path, "chunk")]
    assert sorted([*done, "refuse disk full"]) == sorted(given) and "sleep 1.5" in done


def test_list_that_cannot_be_read_ends_the_run_likewise(tmp_path: Path) -> None:
    def items() -> Iterator[str]:
        yield "a"
        raise UsageError("the list has ended badly")

    done: list[str] = []
    with pytest.raises(UsageError, match="ended badly"):
        drain(LocalEngine(Workers(2)).run(ToyWork(str(tmp_path)), items()), done)
    assert done == ["a"]


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("refuse no such model", "^no such model$"),
        (
            "kill SIGKILL",
            r"a worker on cpu cannot start: the process .*(died \(signal 9, SIGKILL\): perhaps out of memory|ended)",
        ),
    ],
)
def test_start_that_fails_is_said_once(does: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        run(tmp_path, list("abc"), Workers(1), does)
    assert not (tmp_path / "chunk").exists()


def test_large_results(tmp_path: Path) -> None:
    done = run(tmp_path, ["big", "a"], Workers(2))
    assert len(done["big"]) > 5_000_000


@pytest.mark.parametrize("kind", [each for each in vars(errors).values() if isinstance(each, type)], ids=str)
def test_errors_keep_their_message_on_the_way(kind: type) -> None:
    if issubclass(kind, Fit3dError):
        error = pickle.loads(pickle.dumps(kind("a: b; do c")))
        assert type(error) is kind and str(error) == "a: b; do c"


SCRIPT = """
import signal, sys
sys.path[:0] = {paths!r}
from fit3d.batch.local_engine import LocalEngine
from fit3d.batch.work import Workers
from toy_works import ToyWork

if __name__ == "__main__":
    engine = LocalEngine(Workers(2))
    signal.signal(signal.SIGINT, lambda *_: engine.stop())
    for item, result in engine.run(ToyWork({folder!r}), {items!r}):
        print(result, flush=True)
"""


@contextmanager
def started(folder: Path, items: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A run whose two workers are at work, in a process group of its own."""
    path = folder / "script.py"
    paths = [str(each) for each in Path(__file__).parents[:2]]
    path.write_text(SCRIPT.format(paths=paths, folder=str(folder), items=items))
    with subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True, start_new_session=True) as it:
        try:
            wait_until(lambda: (folder / "chunk").exists() and len(noted(folder, "chunk")) == 2)
            yield it
        finally:
            it.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    """Half as long as the longest item takes, which is ample on a busy machine."""
    end = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_ctrl_c_reaches_the_parent_alone(tmp_path: Path) -> None:
    """A terminal sends it to the whole group. Workers hold it back from their first moment on."""
    with started(tmp_path, ["sleep 2", "sleep 2.1", *"abcdef"]) as script:
        for pid, _ in noted(tmp_path, "start"):
            if (status := Path(f"/proc/{pid}/status")).exists():
                blocked = int(status.read_text().partition("SigBlk:")[2].split()[0], 16)
                assert blocked >> (signal.SIGINT - 1) & 1
        os.killpg(script.pid, signal.SIGINT)
        out, _ = script.communicate(timeout=30)
    assert sorted(out.splitlines()) == ["sleep 2 on cpu", "sleep 2.1 on cpu"]
    assert script.returncode == 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """In the middle of an item: another run may begin."""
    with started(tmp_path, ["sleep 60", "sleep 61"]) as script:
        workers = [int(pid) for pid, _ in noted(tmp_path, "start")]
        assert len(workers) == 2 and all(map(is_alive, workers))
        script.kill()
        script.wait()
        wait_until(lambda: not any(map(is_alive, workers)))
