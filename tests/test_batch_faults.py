"""What is not a photo's fault is not held against it: it is tried again, or the run ends, and no photo is `failed`."""

from __future__ import annotations

import errno
import pickle
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fit3d.batch import blame, fit_chunk, local_engine, source, work
from fit3d.batch.fit_work import FitWork, PhotoItem
from fit3d.batch.local_engine import LocalEngine
from fit3d.batch.local_storage import LocalStorage
from fit3d.batch.options import BatchOptions
from fit3d.batch.work import BrokenWorkerError, Work, Workers
from fit3d.errors import UsageError
from toy_works import ToyWork, UnreadableWork


def run(what: Work[str, str], items: Sequence[str], workers: Workers) -> dict[str, str]:
    return dict(LocalEngine(workers).run(what, items))


def tries(folder: Path) -> Counter[str]:
    """How often each item was given to a worker."""
    lines = (folder / "chunk").read_text().splitlines()
    return Counter(item for line in lines for item in line.split(" ", 1)[1].split(","))


# --- engines ----------------------------------------------------------------------------------------------------


def test_who_takes_too_long_alone_is_not_tried_again(tmp_path: Path) -> None:
    done = run(ToyWork(str(tmp_path)), ["a", "sleep 60", "b"], Workers(1, timeout_s=0.5))
    lost = "sleep 60 lost: it took longer than 0.5 s (--timeout)"
    assert done == {"a": "a on cpu", "b": "b on cpu", "sleep 60": lost}
    assert tries(tmp_path) == {"a": 1, "sleep 60": 1, "b": 1}


@pytest.mark.parametrize("chunk", [1, 3])
def test_a_worker_that_is_of_no_more_use_is_replaced(chunk: int, tmp_path: Path) -> None:
    items = ["a", "useless the GPU is gone", "b", "c"]
    done = run(ToyWork(str(tmp_path)), items, Workers(1, chunk=chunk))
    assert done == {item: f"{item} on cpu" for item in "abc"} | {items[1]: f"{items[1]} lost: the GPU is gone"}
    assert tries(tmp_path)[items[1]] == 2
    assert len((tmp_path / "start").read_text().splitlines()) == 3


def test_results_that_cannot_be_read_are_not_held_against_their_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a module was changed while workers ran: what they send is of a class that is no longer the same."""
    outcome, left = local_engine._Slot.outcome, 2

    def unreadable(slot: local_engine._Slot[str]) -> Any:
        nonlocal left
        if slot.has_started and slot.future is not None and slot.future.done() and left:
            left -= 1
            slot.future = Future()
            slot.future.set_exception(BrokenProcessPool("Unpicklable object from worker"))  # pebble's words
        return outcome(slot)

    monkeypatch.setattr(local_engine._Slot, "outcome", unreadable)
    assert run(ToyWork(str(tmp_path)), ["a"], Workers(1)) == {"a": "a on cpu"}
    assert tries(tmp_path) == {"a": 3}
    left = 100
    with pytest.raises(UsageError, match="cannot start: the process that fitted it sent what this one cannot read"):
        run(ToyWork(str(tmp_path)), ["a"], Workers(1))


def test_a_start_that_raises_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"^no such name$"):
        run(ToyWork(str(tmp_path), "import no such name"), ["a", "b"], Workers(2))
    assert not (tmp_path / "chunk").exists()


def test_a_work_that_workers_cannot_read_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a worker on cpu cannot start: "):
        run(UnreadableWork(str(tmp_path)), ["a", "b"], Workers(1))
    assert not (tmp_path / "chunk").exists()


def test_many_items_lost_in_a_row_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is not what photos do; one that is done in between shows that workers can."""
    monkeypatch.setattr(work, "LOST_IN_A_ROW", 2)
    done: list[str] = []
    results = LocalEngine(Workers(1)).run(ToyWork(str(tmp_path)), ["exit 1", "a", "exit 2", "exit 3", "exit 4", "b"])
    with pytest.raises(UsageError, match=r"^2 photos in a row were lost, of the last one: the process .* ended"):
        done.extend(item for item, _ in results)
    assert done == ["exit 1", "a", "exit 2", "exit 3"]


# --- photos -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (ImportError("cannot import name 'x'"), UsageError, r"cannot load a part .*\(ImportError: cannot import name"),
        (ModuleNotFoundError("No module named 'x'"), UsageError, "cannot load a part of fit3d"),
        (SyntaxError("invalid syntax", ("fit3d/x.py", 1, 1, "", 1, 1)), UsageError, "cannot load a part of fit3d"),
        (OSError(errno.ENOSPC, "No space left on device"), UsageError, "the disk is full"),
        (OSError(errno.EMFILE, "Too many open files"), BrokenWorkerError, "too many files open"),
        (MemoryError(), BrokenWorkerError, r"ran out of memory \(MemoryError\)"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), BrokenWorkerError, "ran out of memory"),
        (RuntimeError("CUDA error: device-side assert triggered"), BrokenWorkerError, "could use its GPU no more"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), BrokenWorkerError, "ran out of memory"),
        (SyntaxError("broken PNG file"), None, ""),
        (OSError(errno.EIO, "Input/output error"), None, ""),
        (RuntimeError("singular matrix"), None, ""),
        (ValueError("out of memory"), None, ""),
    ],
)
def test_who_is_to_blame(
    error: Exception, kind: type[Exception] | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blame, "source_hash", lambda: source.AT_START)
    if kind is None:
        blame.raise_unless_of_photo(error, source.AT_START)
        return
    with pytest.raises(kind, match=said) as raised:
        blame.raise_unless_of_photo(error, source.AT_START)
    assert "\n" not in str(raised.value) and type(pickle.loads(pickle.dumps(raised.value))) is kind


def test_fit3d_that_was_changed_while_it_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What then goes wrong in a way that nobody foresaw is not the photo's."""
    package = tmp_path / "fit3d"
    package.mkdir()
    (package / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(source, "_PACKAGE", package)
    before = source.source_hash()
    assert before == source.source_hash()
    error = AttributeError("x")
    blame.raise_unless_of_photo(error, before)
    for name, text in (("b.py", ""), ("a.py", "x = 2\n")):
        (package / name).write_text(text)
        with pytest.raises(UsageError, match=r"^the files of fit3d are not those that began the run \(AttributeError"):
            blame.raise_unless_of_photo(error, before)
        (package / "b.py").unlink(missing_ok=True)
    (package / "a.py").write_text("x = 1\n")
    blame.raise_unless_of_photo(error, before)


@pytest.mark.parametrize("place", ["load_photo", "observe_each", "fit_observations", "with_texture"])
@pytest.mark.parametrize("error", [ImportError("gone"), MemoryError()], ids=["import", "memory"])
def test_no_stage_blames_the_photo(
    place: str, error: Exception, astronaut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mediapipe")

    def broken(*args: object, **kwargs: object) -> object:
        if place == "observe_each":  # which tells errors by photo
            return [error]
        raise error

    photos = tmp_path / "photos"
    photos.mkdir()
    Image.open(astronaut).crop((120, 0, 340, 260)).save(photos / "a.png")
    options = BatchOptions(landmarks="mediapipe", parser="embedded", texture_size=64)
    do = FitWork(LocalStorage(str(photos)), LocalStorage(str(tmp_path / "out")), options).start("cpu")
    monkeypatch.setattr(fit_chunk, place, broken)
    monkeypatch.setattr(blame, "source_hash", lambda: source.AT_START)
    with pytest.raises(UsageError if isinstance(error, ImportError) else BrokenWorkerError):
        do([PhotoItem("a.png", None, None, "a")])
