from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fit3d.batch.fit_work import FitWork, PhotoItem
from fit3d.batch.local_engine import LocalEngine
from fit3d.batch.local_storage import LocalStorage
from fit3d.batch.mark import marked
from fit3d.batch.options import BatchOptions
from fit3d.batch.work import BrokenWorkerError, Engine, Work, Workers
from fit3d.config import ExportConfig, FitConfig
from fit3d.errors import UsageError

ray = pytest.importorskip("ray", reason="needs the package ray")

from ray.exceptions import (  # noqa: E402
    ActorUnavailableError,
    ObjectStoreFullError,
    OwnerDiedError,
    RayActorError,
    RaySystemError,
)

from fit3d.batch import ray_cluster, ray_engine  # noqa: E402
from fit3d.batch.ray_engine import RayEngine  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    """One Ray for all tests of this file, of two CPUs and, so it is told, two GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # workers import this file
        folder = tempfile.mkdtemp(prefix="fit3d-ray-")  # a short path: Ray's sockets are in it
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=2,
            include_dashboard=False,
            object_store_memory=ray_cluster.STORE_BYTES,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=folder,
        )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Squares(Work[int, str]):
    """Squares numbers; what it does at some of them is told by the fields. It notes in `folder` what it began."""

    folder: Path
    killers: tuple[int, ...] = ()
    """Kill their worker."""
    kill_once: tuple[int, ...] = ()
    """Kill the first worker that meets them."""
    useless: tuple[int, ...] = ()
    """Leave their worker of no more use."""
    sleepers: tuple[int, ...] = ()
    full_disk: tuple[int, ...] = ()
    cannot_start: str = ""

    def start(self, device: str) -> Callable[[Sequence[int]], list[str]]:
        (self.folder / f"start-{os.getpid()}").touch()
        if self.cannot_start == "usage":
            raise UsageError("no such face model")
        if self.cannot_start == "dies":
            os.kill(os.getpid(), signal.SIGKILL)

        def squares(items: Sequence[int]) -> list[str]:
            results = []
            for item in items:
                with open(self.folder / "begun", "a") as file:
                    file.write(f"{item}\n")
                mark = self.folder / f"met-{item}"
                first_time = not mark.exists()
                mark.touch()
                if item in self.killers or (item in self.kill_once and first_time):
                    os.kill(os.getpid(), signal.SIGKILL)
                if item in self.useless:
                    raise BrokenWorkerError("the GPU is gone")
                if item in self.sleepers:
                    time.sleep(60)
                if item in self.full_disk:
                    raise UsageError("the disk is full")
                results.append(f"{item * item} on {device}")
            return results

        return squares

    def lost(self, item: int, reason: str) -> str:
        return f"lost: {reason}"

    def begun(self) -> list[int]:
        return [int(line) for line in begun(self.folder)]


def squares_of(count: int, lost: dict[int, str] | None = None) -> dict[int, str]:
    return {item: f"{item * item} on cpu" for item in range(count)} | (lost or {})


def collect(engine: RayEngine, work: Squares, count: int) -> dict[int, str]:
    """Results by item, each of which came once."""
    pairs = list(engine.run(work, range(count)))
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


@pytest.mark.parametrize(("workers", "chunk"), [(1, 1), (2, 1), (2, 4)])
def test_each_item_comes_once_with_its_result(tmp_path: Path, workers: int, chunk: int) -> None:
    work = Squares(tmp_path)
    assert collect(RayEngine(Workers(workers, chunk=chunk)), work, 11) == squares_of(11)
    assert sorted(work.begun()) == list(range(11))
    assert 1 <= len(list(tmp_path.glob("start-*"))) <= workers  # a second one may come too late


def collect_into(results: dict[int, str], engine: RayEngine, work: Squares, items: Iterable[int]) -> None:
    """As `collect`, of a run that fails on the way."""
    for item, result in engine.run(work, items):
        results[item] = result


def test_no_more_workers_than_items(tmp_path: Path) -> None:
    assert collect(RayEngine(Workers(2)), Squares(tmp_path), 1) == squares_of(1)
    assert len(list(tmp_path.glob("start-*"))) == 1
    assert collect(RayEngine(Workers(2)), Squares(tmp_path), 0) == {}


def test_more_workers_than_there_is_room_for(tmp_path: Path) -> None:
    work = Squares(tmp_path, kill_once=(3,))
    assert collect(RayEngine(Workers(5)), work, 20) == squares_of(20)


@pytest.mark.parametrize("chunk", [1, 4])
def test_items_that_kill_their_worker_are_lost_and_no_others(
    tmp_path: Path, chunk: int, capfd: pytest.CaptureFixture[str]
) -> None:
    work = Squares(tmp_path, killers=(2, 5), kill_once=(8,))
    lost = "lost: the process that fitted it died: perhaps out of memory"
    assert collect(RayEngine(Workers(2, chunk=chunk)), work, 12) == squares_of(12, {2: lost, 5: lost})
    assert work.begun().count(2) == work.begun().count(5) == 2
    assert work.begun().count(8) == 2
    assert capfd.readouterr().out == ""  # whose lines may be read by a program


def test_a_worker_that_is_killed_from_outside_loses_nothing(tmp_path: Path) -> None:
    work, results = Squares(tmp_path), dict[int, str]()
    for item, result in RayEngine(Workers(2)).run(work, range(30)):
        results[item] = result
        if item == 9:
            for pid in [int(path.name.removeprefix("start-")) for path in tmp_path.glob("start-*")]:
                os.kill(pid, signal.SIGKILL)
    assert results == squares_of(30)


def test_items_that_take_too_long_are_given_up(tmp_path: Path) -> None:
    work = Squares(tmp_path, sleepers=(1,))
    lost = "lost: it took longer than 0.5 s (--timeout)"
    assert collect(RayEngine(Workers(2, chunk=3, timeout_s=0.5)), work, 6) == squares_of(6, {1: lost})


def test_who_takes_too_long_alone_is_not_tried_again(tmp_path: Path) -> None:
    work = Squares(tmp_path, sleepers=(1,))
    lost = "lost: it took longer than 0.5 s (--timeout)"
    assert collect(RayEngine(Workers(1, timeout_s=0.5)), work, 3) == squares_of(3, {1: lost})
    assert work.begun() == [0, 1, 2]


def test_a_worker_that_is_of_no_more_use_is_replaced(tmp_path: Path) -> None:
    work = Squares(tmp_path, useless=(1,))
    assert collect(RayEngine(Workers(1)), work, 3) == squares_of(3, {1: "lost: the GPU is gone"})
    assert work.begun().count(1) == 2
    assert len(list(tmp_path.glob("start-*"))) == 3


class FailingRay:
    """Ray, which fails with what workers were given, so many times."""

    def __init__(self, error: Exception, times: int, kind: str = "do") -> None:
        self.error, self.times, self.kind = error, times, kind
        """'do': with the results of items, after they were made; 'start': of the start of a worker."""

    def __getattr__(self, name: str) -> Any:
        return getattr(ray, name)

    def get(self, call: Any) -> Any:
        outcome = ray.get(call)
        if self.times and bool(outcome.results) == (self.kind == "do"):
            self.times -= 1
            raise self.error
        return outcome


OUT_OF_MEMORY = "Task was killed due to the node running low on memory."
FAILURES = [
    ObjectStoreFullError("the store is full"),
    OwnerDiedError("ffff", "", ""),
    RaySystemError("System error: cannot read what came"),
    RayActorError(error_msg=OUT_OF_MEMORY),
    RayActorError(error_msg="The actor died because its node has died."),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: str(error)[:24])
def test_failures_of_ray_are_not_held_against_items(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "MOVES", 2)
    monkeypatch.setattr(ray_engine, "ray", FailingRay(error, 2))
    work = Squares(tmp_path)
    assert collect(RayEngine(Workers(1)), work, 3) == squares_of(3)
    assert work.begun() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("error", FAILURES[2:4], ids=lambda error: str(error)[:24])
def test_failures_of_ray_that_do_not_end_end_the_run(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No item counts as lost."""
    monkeypatch.setattr(ray_engine, "MOVES", 1)
    monkeypatch.setattr(ray_engine, "ray", FailingRay(error, 100))
    results = dict[int, str]()
    with pytest.raises(UsageError, match=r"^1: .*; 2 times in a row, and nothing is done any more$"):
        collect_into(results, RayEngine(Workers(1)), Squares(tmp_path), range(3))
    assert results == {}


def test_an_item_that_moves_on_and_on_while_others_are_done_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "MOVES", 1)

    class Choosy(FailingRay):
        def get(self, call: Any) -> Any:
            outcome = ray.get(call)
            if outcome.results == ["1 on cpu"]:
                raise self.error
            return outcome

    monkeypatch.setattr(ray_engine, "ray", Choosy(RayActorError(error_msg=OUT_OF_MEMORY), 0))
    work = Squares(tmp_path)
    lost = "lost: the process that fitted it was ended: its machine ran out of memory, 2 times"
    assert collect(RayEngine(Workers(1)), work, 4) == squares_of(4, {1: lost})
    assert work.begun() == [0, 1, 2, 3, 1]


@pytest.mark.parametrize("error", FAILURES[2:4], ids=lambda error: str(error)[:24])
def test_failures_of_ray_while_workers_start(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "ray", FailingRay(error, ray_engine.STARTS - 1, "start"))
    assert collect(RayEngine(Workers(1)), Squares(tmp_path), 2) == squares_of(2)
    monkeypatch.setattr(ray_engine, "ray", FailingRay(error, 100, "start"))
    with pytest.raises(UsageError, match="no worker can start: "):
        collect(RayEngine(Workers(1)), Squares(tmp_path), 2)


def test_a_store_too_full_to_give_out_items_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __getattr__(self, name: str) -> Any:
            if name == "wait":
                raise ObjectStoreFullError("the store is full")
            return getattr(ray, name)

    monkeypatch.setattr(ray_engine, "ray", Full())
    with pytest.raises(UsageError, match=r"^Ray failed: .*the store is full"):
        collect(RayEngine(Workers(1)), Squares(tmp_path), 2)


def test_a_pause_of_the_reader_is_not_held_against_an_item(tmp_path: Path) -> None:
    results = {}
    for item, result in RayEngine(Workers(2, timeout_s=0.5)).run(Squares(tmp_path), range(6)):
        results[item] = result
        if item == 0:
            time.sleep(1.0)
    assert results == squares_of(6)


def test_what_concerns_all_ends_the_run_after_those_in_flight(tmp_path: Path) -> None:
    work, results = Squares(tmp_path, full_disk=(4,)), dict[int, str]()
    with pytest.raises(UsageError, match=r"^the disk is full$"):
        collect_into(results, RayEngine(Workers(2)), work, range(1000))
    assert set(work.begun()) - {4} == set(results) and len(results) < 1000


def test_a_work_that_cannot_start_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^no such face model$"):
        collect(RayEngine(Workers(2)), Squares(tmp_path, cannot_start="usage"), 5)


def test_workers_that_die_while_they_start_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no worker can start: the process that fitted it died"):
        collect(RayEngine(Workers(1)), Squares(tmp_path, cannot_start="dies"), 5)
    assert len(list(tmp_path.glob("start-*"))) == ray_engine.STARTS


def test_stop_finishes_what_is_in_flight_and_draws_no_more(tmp_path: Path) -> None:
    engine, work, drawn, results = RayEngine(Workers(2)), Squares(tmp_path), [], {}

    def items() -> Iterator[int]:
        for item in range(1000):
            drawn.append(item)
            yield item

    for item, result in engine.run(work, items()):
        results[item] = result
        if len(results) == 10:
            engine.stop()
    assert set(results) == set(work.begun()) and len(drawn) <= 10 + 2 * 2 + 2


def test_an_error_of_whoever_gives_the_items_comes_after_the_results(tmp_path: Path) -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise OSError("the list cannot be read")

    results = dict[int, str]()
    with pytest.raises(OSError, match="the list cannot be read"):
        collect_into(results, RayEngine(Workers(1)), Squares(tmp_path), items())
    assert set(results) == {int(line) for line in begun(tmp_path)}


def begun(folder: Path) -> list[str]:
    return (folder / "begun").read_text().split() if (folder / "begun").exists() else []


def test_a_run_that_is_broken_off_leaves_no_worker(tmp_path: Path) -> None:
    run = RayEngine(Workers(2)).run(Squares(tmp_path, sleepers=(5,)), range(100))
    next(run)
    run.close()
    pids = [int(path.name.removeprefix("start-")) for path in tmp_path.glob("start-*")]
    for _ in range(100):
        if not any(map(is_running, pids)):
            return
        time.sleep(0.1)
    pytest.fail("a worker is still there")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@dataclass(frozen=True)
class Devices(Work[int, tuple[str, str]]):
    """Tells the device that it was given and the GPUs that it sees."""

    def start(self, device: str) -> Callable[[Sequence[int]], list[tuple[str, str]]]:
        def devices(items: Sequence[int]) -> list[tuple[str, str]]:
            time.sleep(0.2)  # so that both workers get some
            return [(device, os.environ.get("CUDA_VISIBLE_DEVICES", ""))] * len(items)

        return devices

    def lost(self, item: int, reason: str) -> tuple[str, str]:
        return reason, ""


def test_each_worker_sees_the_gpu_that_ray_gave_it() -> None:
    workers = Workers(2, devices=("cuda:0", "cuda:1"))
    seen = {result for _, result in RayEngine(workers).run(Devices(), range(8))}
    assert seen == {("cuda", "0"), ("cuda", "1")}
    seen = {result for _, result in RayEngine(workers, gpus_per_worker=0.5).run(Devices(), range(8))}
    assert {device for device, _ in seen} == {"cuda"} and {gpus for _, gpus in seen} <= {"0", "1"}


def test_workers_take_the_devices_in_turn_where_ray_gives_no_gpus() -> None:
    workers = Workers(2, devices=("cuda:0", "cuda:1"))
    seen = {result[0] for _, result in RayEngine(workers, gpus_per_worker=0).run(Devices(), range(8))}
    assert seen == {"cuda:0", "cuda:1"}


def test_a_share_of_gpus_that_no_machine_has() -> None:
    with pytest.raises(UsageError, match="has no machine with a CPU and 3 GPU for a worker"):
        next(RayEngine(Workers(1, devices=("cuda",)), gpus_per_worker=3).run(Devices(), range(2)))
    with pytest.raises(UsageError, match=r"1\.5 GPUs per worker"):
        RayEngine(Workers(1, devices=("cuda",)), gpus_per_worker=1.5)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense", "127.0.0.1:x"])
def test_a_cluster_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(UsageError, match=rf"^cannot reach Ray at {address}: .*; `ray start --head` starts it"):
        next(RayEngine(Workers(1), address).run(Devices(), range(2)))


def test_workers_of_another_version_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "__version__", "0.0.0")
    with pytest.raises(
        UsageError, match=rf"^{socket.gethostname()} has fit3d .*, but .* has 0\.0\.0; install the same"
    ):
        collect(RayEngine(Workers(1)), Squares(tmp_path), 2)


@dataclass(frozen=True)
class Unshared(Squares):
    def check_shared(self) -> None:
        raise UsageError("the folder is not here")


def test_workers_check_that_they_see_the_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the folder is not here"):
        collect(RayEngine(Workers(1)), Unshared(tmp_path), 2)


def test_runs_in_a_thread(tmp_path: Path) -> None:
    results: dict[int, str] = {}
    thread = threading.Thread(target=lambda: results.update(RayEngine(Workers(1)).run(Squares(tmp_path), range(3))))
    thread.start()
    thread.join(60)
    assert results == squares_of(3)


QUICK = BatchOptions(
    landmarks="mediapipe",
    parser="embedded",
    texture_size=64,
    config=FitConfig(loss="landmarks"),
    export=ExportConfig(formats=("obj",), overlay="none"),
)


def fitted(engine: Engine, photos: Path, out: Path) -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
    """Contents of the files that an engine makes of all photos in a folder, and its records, by name, without times."""
    work = FitWork(LocalStorage(str(photos)), LocalStorage(str(out)), QUICK)
    items = [PhotoItem(path.name, None, None, path.stem) for path in sorted(photos.iterdir())]
    records = {
        item.photo: record.to_json() | {"seconds": 0, "timings_s": 0} for item, record in engine.run(work, items)
    }
    contents = {
        str(path.relative_to(out)): re.sub(rb'"timings_s": \{[^}]*\}', b"", path.read_bytes())
        for path in out.rglob("*")
        if path.is_file()
    }
    return contents, records


def test_photos_come_to_the_same_bytes_as_on_the_local_engine(astronaut: Path, tmp_path: Path) -> None:
    pytest.importorskip("mediapipe")
    photos = tmp_path / "photos"
    photos.mkdir()
    face = Image.open(astronaut).crop((120, 0, 340, 260))
    face.save(photos / "face.png")
    face.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos / "mirrored.png")
    Image.new("RGB", (64, 64)).save(photos / "black.png")
    contents, records = fitted(LocalEngine(Workers(1)), photos, tmp_path / "local")
    assert {record["status"] for record in records.values()} >= {"ok", "no_face"} and len(contents) > 8
    assert fitted(RayEngine(Workers(2, chunk=2)), photos, tmp_path / "ray") == (contents, records)


def test_workers_that_do_not_see_the_folders_say_so(tmp_path: Path) -> None:
    there, missing = LocalStorage(str(tmp_path)), LocalStorage(str(tmp_path / "missing"))
    with pytest.raises(UsageError, match=rf"missing: no such folder on {socket.gethostname()}; the photos must be"):
        FitWork(missing, there, QUICK).check_shared()
    other = LocalStorage(str(tmp_path / "other"))
    with marked(there, "results.jsonl") as mark, marked(other, "results.jsonl"):
        FitWork(there, there, QUICK, mark).check_shared()
        for elsewhere in (missing, other):  # where there is no run, and where there is another one
            with pytest.raises(UsageError, match="this is not the folder of this run; the results must be"):
                FitWork(there, elsewhere, QUICK, mark).check_shared()
    assert not mark.is_in(there)


@dataclass(frozen=True)
class Slow(Work[int, str]):
    """Takes some seconds, and notes when it began and ended."""

    notes: Path

    def start(self, device: str) -> Callable[[Sequence[int]], list[str]]:
        def slow(items: Sequence[int]) -> list[str]:
            self._note("begin")
            time.sleep(2)
            self._note("end")
            return ["done"] * len(items)

        return slow

    def lost(self, item: int, reason: str) -> str:
        return f"lost: {reason}"

    def _note(self, word: str) -> None:
        with open(self.notes, "a") as file:
            file.write(f"{word} {os.getpid()}\n")

    def words(self) -> list[str]:
        return [line.split()[0] for line in self.notes.read_text().splitlines()]


class CutRay:
    """Ray, whose connection to the first actor breaks while that is at work."""

    def __init__(self, work: Slow, then: str) -> None:
        self.work, self.then = work, then
        """'back', 'killed' or 'gone': what becomes of the actor."""
        self.cut: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(ray, name)

    def wait(self, calls: list[Any], num_returns: int = 1, timeout: float | None = None) -> Any:
        if self.cut is None:
            while not self.work.notes.exists() or not calls:
                return ray.wait(calls, num_returns=num_returns, timeout=min(timeout or 0, 0.1))
            self.cut = calls[0]
            if self.then == "killed":
                os.kill(int(self.work.notes.read_text().split()[1]), signal.SIGKILL)
        return ([self.cut], []) if self.cut in calls else ray.wait(calls, num_returns=num_returns, timeout=timeout)

    def get(self, call: Any) -> Any:
        if call == self.cut:
            raise ActorUnavailableError("the connection broke", None)
        return ray.get(call)


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ("back", ["begin", "end", "begin", "end"]),  # never two at a time
        ("killed", ["begin", "begin", "end"]),
        ("gone", ["begin", "begin", "end"]),
    ],
)
def test_items_of_an_actor_out_of_reach_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str, words: list[str]
) -> None:
    work = Slow(tmp_path / "notes")
    monkeypatch.setattr(ray_engine, "ray", CutRay(work, then))
    if then == "gone":
        monkeypatch.setattr(ray_engine, "UNSEEN_S", -1.0)
    assert list(RayEngine(Workers(2)).run(work, [7])) == [(7, "done")]
    assert work.words() == words


def test_waiting_for_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "ROOM_S", 0.5)
    engine, told = RayEngine(Workers(3)), list[str]()
    engine.tell = told.append
    assert len(list(engine.run(Devices(), range(30)))) == 30
    assert len(told) == 1
    assert re.fullmatch(
        r"waiting for room for (1 worker|[23] workers); `ray status` shows what the cluster has", told[0]
    )
