"""Weights: listed as the packages ask for them, downloaded whole or not at all, checked before anything finds them."""

from __future__ import annotations

import ast
import errno
import hashlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pytest

import fit3d.download
from fit3d.commands.app import main
from fit3d.errors import UsageError
from fit3d.observe import registry, weights
from fit3d.observe.weights import BACKENDS, FILES, WeightFile

CHUNK = fit3d.download.CHUNK_BYTES
SIZE = 3 * CHUNK + 1000


def content_of(name: str) -> bytes:
    return np.random.default_rng(list(name.encode())).bytes(SIZE)


# --- the table --------------------------------------------------------------------------------------------------


def strings_in(package: str) -> set[str]:
    """All strings in the sources of a package, those in pieces put together; nothing of it is imported."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    sources = sorted(Path(spec.origin).parent.rglob("*.py"))
    nodes = [node for path in sources for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@pytest.mark.parametrize(("package", "backend"), [("face_alignment", "face-alignment"), ("facer", "facer")])
def test_addresses_and_names_are_those_of_the_package(package: str, backend: str) -> None:
    known = strings_in(package)
    files = {file for name, files in BACKENDS.items() if name.startswith(backend) for file in files}
    assert files
    for file in files:
        assert file.address in known
        assert file.name == Path(urlparse(file.address).path).name or file.name in known
        assert file.folder == "torch hub"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_is_said_of_a_file_fits_together(file: WeightFile) -> None:
    assert file.address.startswith("https://")
    assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{10}|[0-9a-f]{64}", file.sha256)
    in_name = re.search(r"-([0-9a-f]{10})\.", file.name)
    assert in_name is None or (file.sha256 or "").startswith(in_name[1])
    assert file.size is None or abs(file.size / 1e6 - file.about_mb) < 0.06
    assert file.licence.endswith(".") and re.search("sold|for sale", file.licence)
    assert file.backends


def test_every_backend_and_variant_that_needs_weights_has_them() -> None:
    entries = registry._LANDMARK_DETECTORS | registry._FACE_PARSERS
    named = {f"{name}:{variant}" for name, entry in entries.items() for variant in entry.variants}
    assert named | {"mediapipe"} == set(BACKENDS)
    for name, entry in entries.items():
        if entry.variants:
            assert weights.files_of(name) == BACKENDS[f"{name}:{entry.variants[0]}"]


# --- where they lie ---------------------------------------------------------------------------------------------

ENVIRONMENTS: list[dict[str, str]] = [
    {},
    {"XDG_CACHE_HOME": "/a/cache"},
    {"TORCH_HOME": "/a/torch", "XDG_CACHE_HOME": "/a/cache"},
    {"TORCH_HOME": "~/torch"},
]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("loaded", [False, True])
def test_the_hub_folder_is_torchs(environment: dict[str, str], loaded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    expected = Path(torch.hub.get_dir()) / "checkpoints"
    if not loaded:
        monkeypatch.delitem(sys.modules, "torch")
    assert weights.hub_folder() == expected


def test_a_hub_folder_set_in_the_process_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    assert weights.path("s3fd-619a316812.pth") == tmp_path / "checkpoints" / "s3fd-619a316812.pth"


def test_asking_for_weights_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom fit3d.observe import weights\n"
        "for name in weights.BACKENDS: weights.present(name)\n"
        "assert not {'torch', 'numpy', 'mediapipe', 'facer', 'face_alignment'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- a server on this machine -----------------------------------------------------------------------------------


class Server:
    """Serves `content_of` each name, knows ranges, counts bytes, and fails on demand."""

    def __init__(self) -> None:
        self.sent = 0
        self.asked: list[tuple[str, str | None]] = []
        self.status: int | None = None
        self.cut_after: int | None = None
        """Bytes of an answer after which the connection breaks."""
        self.wait = threading.Event()
        """Where set, the server sleeps after half of each answer."""
        self.knows_ranges = True
        self.answer: Callable[[str], bytes] = content_of
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = Path(urlparse(self.path).path).name
                wanted = self.headers.get("Range")
                server.asked.append((name, wanted))
                if server.status is not None:
                    self.send_error(server.status)
                    return
                body = server.answer(name)
                start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.knows_ranges else 0
                if start and start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                rest = body[start:]
                stop = len(rest) if server.cut_after is None else server.cut_after
                if server.wait.is_set():
                    stop = len(rest) // 2
                server.sent += stop  # before the one who asked can have them
                self.wfile.write(rest[:stop])
                self.wfile.flush()
                while server.wait.is_set():
                    time.sleep(0.01)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.http.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(fit3d.download, "RETRIES", 0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.wait.clear()
    server.http.shutdown()
    server.http.server_close()


def weight_file(name: str, url: str, **changes: Any) -> WeightFile:
    content = content_of(name)
    facts: dict[str, Any] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return WeightFile(name, f"{url}{name}?raw=true", "Results may be sold.", SIZE / 1e6, **(facts | changes))


@pytest.fixture
def table(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[WeightFile, ...]]:
    """Backends with small files, in place of the real ones."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("FIT3D_HOME", str(tmp_path / "home"))
    shared = weight_file("shared-0123456789.pth", server.url)
    backends = {
        "first:a": (weight_file("a.pt", server.url), shared),
        "first:b": (weight_file("b.pt", server.url, size=None), shared),
        "kept": (weight_file("own.task", server.url, folder="fit3d"),),
        "unknown": (weight_file("unknown.npy", server.url, size=None, sha256=None),),
        "tens": (
            weight_file(
                "tens.pt", server.url, size=None, sha256=hashlib.sha256(content_of("tens.pt")).hexdigest()[:10]
            ),
        ),
    }
    monkeypatch.setattr(weights, "BACKENDS", backends)
    monkeypatch.setattr(weights, "FILES", tuple(dict.fromkeys(file for files in backends.values() for file in files)))
    return backends


def left_in(tmp_path: Path) -> set[str]:
    """All files in the folders where weights lie."""
    return {path.name for folder in ("torch", "home") for path in (tmp_path / folder).rglob("*") if path.is_file()}


def error_of(capfd: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "Results may be sold" not in line]
    assert line.startswith("error: ")
    return line


# --- pulling ----------------------------------------------------------------------------------------------------


def test_pull_puts_files_where_they_are_looked_for(
    table: dict[str, tuple[WeightFile, ...]], server: Server, tmp_path: Path
) -> None:
    assert not weights.present("first:a")
    heard: list[int] = []
    pulled = weights.pull(["first:a", "kept"], on_bytes=lambda file, so_far: heard.append(so_far))
    assert [(done.file.name, done.outcome) for done in pulled] == [
        ("a.pt", "downloaded"),
        ("shared-0123456789.pth", "downloaded"),
        ("own.task", "downloaded"),
    ]
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    assert (hub / "a.pt").read_bytes() == content_of("a.pt")
    assert weights.path("own.task") == tmp_path / "home" / "weights" / "own.task"
    assert weights.path("own.task").read_bytes() == content_of("own.task")
    assert weights.present("first") and weights.present("first:a") and not weights.present("first:b")
    assert left_in(tmp_path) == {"a.pt", "shared-0123456789.pth", "own.task"}
    assert heard.count(SIZE) == 3

    asked = len(server.asked)
    assert [done.outcome for done in weights.pull(["first:b", "b.pt"])] == ["downloaded", "there"]
    assert len(server.asked) == asked + 1, "what is there is not fetched again"


def test_a_broken_download_goes_on_where_it_stopped(
    table: dict[str, tuple[WeightFile, ...]], server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.cut_after = CHUNK
    assert main(["weights", "pull", "kept"]) == 2
    error = error_of(capfd)
    assert "own.task" in error and "the connection broke off" in error and "run the same command again" in error
    assert not weights.present("kept")
    assert left_in(tmp_path) == {".fit3d-own.task.part"}
    have = (tmp_path / "home" / "weights" / ".fit3d-own.task.part").stat().st_size
    assert have == CHUNK

    server.cut_after, server.sent = None, 0
    assert main(["weights", "pull", "kept"]) == 0
    assert server.asked[-1] == ("own.task", f"bytes={have}-")
    assert server.sent == SIZE - have
    assert weights.path("own.task").read_bytes() == content_of("own.task")
    assert left_in(tmp_path) == {"own.task"}


def test_a_few_tries_are_made(
    table: dict[str, tuple[WeightFile, ...]], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit3d.download, "RETRIES", 3)
    monkeypatch.setattr(fit3d.download.time, "sleep", lambda seconds: None)
    server.cut_after = CHUNK
    weights.pull(["kept"])
    assert [wanted for _, wanted in server.asked] == [None, *(f"bytes={done * CHUNK}-" for done in (1, 2, 3))]
    assert weights.path("own.task").read_bytes() == content_of("own.task")


def test_a_server_without_ranges_starts_anew(
    table: dict[str, tuple[WeightFile, ...]], server: Server, tmp_path: Path
) -> None:
    server.cut_after = CHUNK
    with pytest.raises(UsageError):
        weights.pull(["kept"])
    server.cut_after, server.knows_ranges = None, False
    weights.pull(["kept"])
    assert weights.path("own.task").read_bytes() == content_of("own.task")


@pytest.mark.parametrize("content", [content_of("own.task"), content_of("own.task") + b"more", b"\0" * SIZE * 2])
def test_a_part_that_is_whole_or_of_another_file(
    table: dict[str, tuple[WeightFile, ...]], server: Server, tmp_path: Path, content: bytes, monkeypatch: Any
) -> None:
    monkeypatch.setattr(fit3d.download, "RETRIES", 1)
    monkeypatch.setattr(fit3d.download.time, "sleep", lambda seconds: None)
    part = tmp_path / "home" / "weights" / ".fit3d-own.task.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    weights.pull(["kept"])
    assert weights.path("own.task").read_bytes() == content_of("own.task")
    assert server.sent == (0 if len(content) == SIZE else SIZE)
    assert left_in(tmp_path) == {"own.task"}


def test_without_a_checksum_every_try_starts_anew(
    table: dict[str, tuple[WeightFile, ...]], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = weights.path("unknown.npy")
    path.parent.mkdir(parents=True)
    path.with_name(f".fit3d-{path.name}.part").write_bytes(b"of an older version")  # as a killed process leaves it
    monkeypatch.setattr(fit3d.download, "RETRIES", 1)
    monkeypatch.setattr(fit3d.download.time, "sleep", lambda seconds: None)
    server.cut_after = CHUNK
    with pytest.raises(UsageError, match="the connection broke off"):
        weights.pull(["unknown"])
    server.cut_after = None
    weights.pull(["unknown"])
    assert [wanted for _, wanted in server.asked] == [None] * 3
    assert path.read_bytes() == content_of("unknown.npy")


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_killed_in_the_middle(table: dict[str, tuple[WeightFile, ...]], server: Server, tmp_path: Path) -> None:
    file = table["kept"][0]
    code = (
        "from pathlib import Path\nfrom fit3d.download import download_file\n"
        f"download_file({file.address!r}, Path({str(file.path)!r}))"
    )
    part = file.path.with_name(f".fit3d-{file.name}.part")
    server.wait.set()
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        for _ in range(3000):
            if part.exists() and part.stat().st_size > SIZE // 4:
                break
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    server.wait.clear()
    have = part.stat().st_size
    assert SIZE // 4 < have < SIZE
    assert not weights.present("kept") and not file.path.exists()
    server.sent = 0
    weights.pull(["kept"])
    assert server.sent == SIZE - have
    assert file.path.read_bytes() == content_of(file.name)
    assert left_in(tmp_path) == {"own.task"}


def test_interrupted_by_the_user_keeps_what_has_come(
    table: dict[str, tuple[WeightFile, ...]], server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(file: WeightFile, so_far: int) -> None:
        if so_far > SIZE // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weights.pull(["kept"], on_bytes=interrupt)
    assert left_in(tmp_path) == {".fit3d-own.task.part"}
    with pytest.raises(KeyboardInterrupt):
        weights.pull(["unknown"], on_bytes=interrupt)
    assert left_in(tmp_path) == {".fit3d-own.task.part"}, "without a checksum nobody can go on safely"


def other(name: str) -> bytes:
    return content_of(f"not {name}")


def longer(name: str) -> bytes:
    return content_of(name) + b"\0"


def page(name: str) -> bytes:
    return b"<html><body>Please log in to the network of this hotel.</body></html>" * 20


def nothing(name: str) -> bytes:
    return b""


@pytest.mark.parametrize(
    ("backend", "answer", "said"),
    [
        ("kept", other, "SHA-256"),
        ("kept", longer, f"{SIZE + 1} bytes, expected {SIZE}"),
        ("kept", page, "expected"),
        ("tens", other, "SHA-256"),
        ("unknown", page, "holds text"),
        ("unknown", nothing, "holds text"),
    ],
)
def test_what_is_not_the_file_is_thrown_away(
    table: dict[str, tuple[WeightFile, ...]],
    server: Server,
    tmp_path: Path,
    backend: str,
    answer: Callable[[str], bytes],
    said: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    server.answer = answer
    assert main(["weights", "pull", backend]) == 2
    error = error_of(capfd)
    assert said in error and table[backend][0].address in error
    assert left_in(tmp_path) == set()
    server.answer = content_of
    assert main(["weights", "pull", backend]) == 0
    assert weights.present(backend)


@pytest.mark.parametrize(("status", "said"), [(404, "404"), (403, "403"), (503, "503")])
def test_a_server_that_refuses(
    table: dict[str, tuple[WeightFile, ...]],
    server: Server,
    tmp_path: Path,
    status: int,
    said: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    server.status = status
    assert main(["weights", "pull", "kept"]) == 2
    assert f"the server answers {said}" in error_of(capfd)
    assert left_in(tmp_path) == set()


def test_one_that_fails_does_not_stop_the_others(
    table: dict[str, tuple[WeightFile, ...]], server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.answer = lambda name: other(name) if name in ("a.pt", "own.task") else content_of(name)
    assert main(["weights", "pull", "--all", "--json"]) == 2
    said = capfd.readouterr()
    outcomes = {record["file"]: record["outcome"] for record in map(json.loads, said.out.splitlines())}
    names = {file.name for file in weights.FILES}
    assert outcomes == {name: "failed" if name in ("a.pt", "own.task") else "downloaded" for name in names}
    assert left_in(tmp_path) == names - {"a.pt", "own.task"}
    errors = said.err.splitlines()
    assert len(errors) == 2 and "a.pt" in errors[0] and "own.task" in errors[1]
    assert all(line.startswith("error: ") and "SHA-256" in line for line in errors)
    with pytest.raises(UsageError, match=r"a\.pt.*; .*own\.task"):
        weights.pull(["first:a", "kept", "tens"])


def test_a_silent_server_is_asked_once(
    table: dict[str, tuple[WeightFile, ...]], server: Server, capfd: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    tried: list[str] = []

    def silent(url: str, *_: Any, **__: Any) -> None:
        tried.append(url)
        raise UsageError(f"{url}: no answer within 30 s")

    monkeypatch.setattr(weights, "download_file", silent)
    assert main(["weights", "pull", "--all"]) == 2
    assert len(tried) == 1
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == len(weights.FILES) and "no answer within 30 s" in errors[0]
    assert [line for line in errors if "fit3d weights pull --all --from FOLDER" in line] == errors[-1:]


def test_no_internet(
    table: dict[str, tuple[WeightFile, ...]], server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.http.shutdown()
    server.http.server_close()
    assert main(["weights", "pull", "kept"]) == 2
    error = error_of(capfd)
    assert "no connection to the server" in error
    assert "fit3d weights pull kept --from FOLDER" in error
    assert left_in(tmp_path) == set()


def test_a_full_disk(
    table: dict[str, tuple[WeightFile, ...]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = fit3d.download._Incoming.write

    def full(self: Any, chunk: bytes) -> None:
        if self.so_far > SIZE // 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, chunk)

    monkeypatch.setattr(fit3d.download._Incoming, "write", full)
    assert main(["weights", "pull", "kept"]) == 2
    assert "cannot write" in (error := error_of(capfd)) and "No space left" in error
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize("from_folder", [False, True])
def test_a_folder_that_cannot_be_written(
    table: dict[str, tuple[WeightFile, ...]],
    tmp_path: Path,
    stick: Path,
    from_folder: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "home").write_text("a file stands here")
    assert main(["weights", "pull", "kept", *(["--from", str(stick)] if from_folder else [])]) == 2
    assert str(weights.path("own.task")) in (error := error_of(capfd)) and "Not a directory" in error


@pytest.mark.skipif(os.name == "nt", reason="no locks of that kind")
def test_two_at_a_time(table: dict[str, tuple[WeightFile, ...]], tmp_path: Path) -> None:
    import fcntl

    part = tmp_path / "home" / "weights" / ".fit3d-own.task.part"
    part.parent.mkdir(parents=True)
    with open(part, "wb") as other_process:
        fcntl.flock(other_process, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match=r"own\.task is being downloaded by another process"):
            weights.pull(["kept"])
    assert part.exists()
    weights.pull(["kept"])
    assert weights.present("kept")


# --- a folder in place of the internet --------------------------------------------------------------------------


@pytest.fixture
def stick(table: dict[str, tuple[WeightFile, ...]], tmp_path: Path) -> Path:
    """A folder with all files."""
    folder = tmp_path / "stick"
    folder.mkdir()
    for file in weights.FILES:
        (folder / file.name).write_bytes(content_of(file.name))
    return folder


def test_from_a_folder(server: Server, stick: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "pull", "--all", "--from", str(stick), "--json"]) == 0
    records = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [record["outcome"] for record in records] == ["copied"] * len(weights.FILES)
    assert all(record["present"] for record in records)
    assert server.asked == []
    for file in weights.FILES:
        assert file.path.read_bytes() == content_of(file.name)
    assert left_in(tmp_path) == {file.name for file in weights.FILES} == {path.name for path in stick.iterdir()}


def test_a_folder_may_use_the_names_of_the_addresses(
    table: dict[str, tuple[WeightFile, ...]], server: Server, stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = weight_file("own.task", server.url + "there/", folder="fit3d")
    renamed = WeightFile(**(vars(renamed) | {"name": "here.task"}))
    monkeypatch.setitem(weights.BACKENDS, "kept", (renamed,))
    weights.pull(["kept"], stick)
    assert renamed.path.name == "here.task"
    assert renamed.path.read_bytes() == content_of("own.task")


def test_a_folder_with_the_wrong_file(stick: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (stick / "own.task").write_bytes(other("own.task"))
    assert main(["weights", "pull", "kept", "--from", str(stick)]) == 2
    assert f"{stick / 'own.task'} was not taken" in error_of(capfd)
    assert left_in(tmp_path) == set()


def test_a_folder_without_the_file(stick: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (stick / "shared-0123456789.pth").unlink()
    for folder in (stick, tmp_path / "nowhere"):
        assert main(["weights", "pull", "first", "--from", str(folder)]) == 2
        assert "does not hold" in (error := error_of(capfd)) and "shared-0123456789.pth" in error
    assert left_in(tmp_path) == set(), "nothing is begun that cannot be finished"


# --- looking again ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["own.task", "tens.pt", "b.pt"])
def test_damage_is_found_and_repaired(
    table: dict[str, tuple[WeightFile, ...]], name: str, stick: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights.pull([file.name for file in weights.FILES], stick)
    assert main(["weights", "verify"]) == 0
    assert [line.split()[0] for line in capfd.readouterr().out.splitlines()] == ["present"] * len(weights.FILES)

    path = weights.path(name)
    damaged = bytearray(content_of(name))
    damaged[SIZE // 2] ^= 1  # the size stays
    path.write_bytes(damaged)
    others = {file.path: file.path.stat().st_mtime_ns for file in weights.FILES if file.name != name}
    assert main(["weights", "verify"]) == 1
    assert f"fit3d weights pull {name}" in error_of(capfd)
    assert main(["weights", "verify", "--json"]) == 1
    records = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [record["file"] for record in records if record["state"] == "damaged"] == [name]
    assert [record["file"] for record in records if not record["present"]] == [name]

    assert main(["weights", "pull", "--all", "--from", str(stick), "--quiet"]) == 0
    assert path.read_bytes() == content_of(name)
    assert {path: path.stat().st_mtime_ns for path in others} == others, "good files are left alone"
    assert main(["weights", "verify", "--quiet"]) == 0


def test_half_a_file_counts_as_none(table: dict[str, tuple[WeightFile, ...]]) -> None:
    path = weights.path("own.task")
    path.parent.mkdir(parents=True)
    for half in (content_of("own.task")[: SIZE // 2], b""):
        path.write_bytes(half)
        assert not weights.present("kept")
        with pytest.raises(
            UsageError, match=r"^kept needs weights: own\.task \(damaged\); run: fit3d weights pull kept$"
        ):
            weights.require("kept")
    path.unlink()
    path.mkdir()
    assert not weights.present("kept")


def test_what_needs_no_weights_is_always_ready() -> None:
    weights.require("contours")
    assert weights.present("contours")


def test_list(table: dict[str, tuple[WeightFile, ...]], stick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights.pull(["kept"], stick)
    assert main(["weights", "list", "--json"]) == 0
    records = {record["file"]: record for record in map(json.loads, capsys.readouterr().out.splitlines())}
    assert set(records) == {file.name for file in weights.FILES}
    assert [name for name, record in records.items() if record["present"]] == ["own.task"]
    assert records["shared-0123456789.pth"]["backends"] == ["first:a", "first:b"]
    assert {"size", "sha256", "licence", "address", "path", "about_mb", "state"} <= set(records["a.pt"])
    assert main(["weights", "list"]) == 0
    said = capsys.readouterr().out
    assert "checksum not published" in said and "first (a, b)" in said and "fit3d weights pull unknown" in said


@pytest.mark.parametrize(
    "arguments", [["pull"], ["pull", "kept", "--all"], ["pull", "nonsense"], ["verify", "nonsense"]]
)
def test_wrong_usage(
    table: dict[str, tuple[WeightFile, ...]], arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", *arguments]) == 2
    error_of(capfd)
