"""`fit3d models pull`: ICT-FaceKit from a server on this machine."""

from __future__ import annotations

import functools
import http.server
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fit3d.download
from fit3d.commands.app import main
from fit3d.morphable import ict, store
from ict_layout import Arrays

pytestmark = pytest.mark.usefixtures("ict_home")


class Server:
    """Serves a folder on this machine, counts what is asked for, and fails on demand."""

    def __init__(self, folder: Path) -> None:
        self.asked: Counter[str] = Counter()
        self.failing: set[str] = set()
        self.cut: set[str] = set()
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rsplit("/", 1)[-1]
                server.asked[name] += 1
                if name in server.failing:
                    self.send_error(503)
                elif name in server.cut:
                    content = (folder / name).read_bytes()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: len(content) // 2])
                else:
                    super().do_GET()

            def log_message(self, *arguments: Any) -> None:
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"


@pytest.fixture
def server(ict_checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(ict_checkout / "FaceXModel")
    threading.Thread(target=server.http.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(ict, "EXPRESSIONS", ("browDown_L", "jawLeft", "jawOpen", "jawRight"))
    monkeypatch.setattr(fit3d.download, "RETRIES", 0)
    monkeypatch.setattr(ict, "URL", server.url)
    monkeypatch.setattr(ict, "CONTENT_SHA256", ict.read_ict(ict_checkout).sha256)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_pull(server: Server, ict_home: Path, ict_arrays: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "pull", "ict"]) == 0
    said = capsys.readouterr()
    assert "added ict (light)" in said.out
    assert said.err == ""
    assert server.asked == Counter(ict.file_names())
    stored = store.read_stored("ict")
    index = ict_arrays["expression_names"].tolist().index("jawOpen")
    np.testing.assert_array_equal(stored.expression[2], ict_arrays["expression_cm"][index] * np.float32(0.01))
    assert stored.version == "light"
    assert list((ict_home / "downloads").iterdir()) == []
    assert main(["models", "pull", "ict"]) == 2
    assert "--replace" in capsys.readouterr().err
    assert server.asked == Counter(ict.file_names())


@pytest.mark.parametrize("how", ["failing", "cut"])
def test_an_interrupted_pull_goes_on_where_it_stopped(
    server: Server, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    getattr(server, how).add("jawOpen.obj")
    assert main(["models", "pull", "ict"]) == 2
    error = capsys.readouterr().err
    assert "jawOpen.obj" in error
    assert "run the same command again" in error
    assert error.count("\n") == 1
    assert store.stored_names() == []
    names = ict.file_names()
    assert server.asked == Counter(names[: names.index("jawOpen.obj") + 1])

    getattr(server, how).clear()
    assert main(["models", "pull", "ict"]) == 0
    assert server.asked == Counter([*names, "jawOpen.obj"]), "nothing is fetched twice"
    assert store.stored_names() == ["ict"]


def test_a_pull_of_something_else_is_thrown_away(
    server: Server, ict_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ict, "CONTENT_SHA256", "0" * 64)
    assert main(["models", "pull", "ict"]) == 2
    error = capsys.readouterr().err
    assert "SHA-256" in error
    assert error.count("\n") == 1
    assert store.stored_names() == []
    assert list((ict_home / "downloads").iterdir()) == []


def test_pull_names_a_commit_and_no_branch() -> None:
    assert len(ict.COMMIT) == 40
    assert int(ict.COMMIT, 16)
    assert f"/{ict.COMMIT}/" in f"{ict.URL}/"
