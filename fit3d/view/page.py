"""The viewer's web page: a viser server on this machine alone, and the thread that carries out what the user asks."""

from __future__ import annotations

import contextlib
import io
import queue
import threading
from collections.abc import Callable, Iterator

import numpy as np
import viser

from fit3d.errors import Fit3dError, UsageError
from fit3d.view.gallery import Gallery
from fit3d.view.panel import GLB, NEUTRAL, PHOTO_CAMERA, Panel
from fit3d.view.photo_view import Viewpoint, front_viewpoint, photo_viewpoint
from fit3d.view.scene import Scene
from fit3d.view.state import ViewState

HOST = "127.0.0.1"
NEAR_M, FAR_M = 0.01, 100.0
SAME_PLACE = 1e-3
"""A camera whose position and direction are nearer than this share of its distance has not been moved."""
USUAL_ASPECT = 1.5
"""Of the window, until it is known."""


class _LocalServer(viser.ViserServer):
    """A server that cannot be opened to the internet from the page, as viser's can."""

    def request_share_url(self, verbose: bool = True) -> None:
        return None


class Page:
    """The page of a gallery, from construction to `close`.

    viser calls back from threads of its own; everything is handed to one thread, which alone touches the state.
    """

    def __init__(self, gallery: Gallery, port: int = 0) -> None:
        """Raises Fit3dError where no result can be read, UsageError where the port is taken."""
        self._gallery = gallery
        subject, problems = gallery.open_first()
        self._state = ViewState(subject)
        self._server = _start_server(port)
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._scene = Scene(self._server.scene)
        self._panel = Panel(self._server.gui, self, len(gallery) > 1)
        self._aspects: dict[int, float] = {}
        self._show(problems)
        self._worker = threading.Thread(target=self._work, name="fit3d view", daemon=True)
        self._worker.start()
        self._server.on_client_connect(self._greet)
        self._server.on_client_disconnect(self._forget)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._server.get_port()}"

    @property
    def state(self) -> ViewState:
        """What is shown; changed by the page's own thread."""
        return self._state

    def close(self) -> None:
        """End the page and all its threads."""
        self._tasks.put(None)
        self._worker.join()
        with _silent():
            self._server.stop()

    # What the panel asks for, in viser's threads

    def change(self, change: Callable[[ViewState], None]) -> None:
        self._tasks.put(lambda: change(self._state))

    def pose(self, name: str) -> None:
        def do() -> None:
            if name == NEUTRAL:
                self._state.neutral()
            else:
                self._state.fitted()
            self._panel.follow(self._state)

        self._tasks.put(do)

    def look_from(self, name: str, client: viser.ClientHandle) -> None:
        self._tasks.put(lambda: self._aim(client, self._viewpoint(name)))

    def export(self, name: str) -> None:
        def do() -> None:
            self._panel.say("saving …")
            self._panel.say(f"saved {self._state.export('glb' if name == GLB else 'obj')}")

        self._tasks.put(do)

    def step(self, by: int) -> None:
        def do() -> None:
            self._panel.say("loading …")
            subject, problems = self._gallery.step(by)
            before, self._state = self._state, ViewState(subject)
            self._state.photo_opacity = before.photo_opacity
            self._state.choose_look(before.look)
            self._show(problems)
            for client in self._server.get_clients().values():
                self._aim(client, self._viewpoint(PHOTO_CAMERA))

        self._tasks.put(do)

    # In the page's own thread

    def _work(self) -> None:
        """Carry out what is asked for; the scene is drawn once for all that has come meanwhile."""
        wait: float | None = None
        while True:
            with contextlib.suppress(queue.Empty):
                task = self._tasks.get(timeout=wait)
                while True:
                    if task is None:
                        return
                    self._carry_out(task)
                    task = self._tasks.get_nowait()
            self._carry_out(lambda: self._scene.draw(self._state))
            wait = self._scene.settle()

    def _carry_out(self, task: Callable[[], None]) -> None:
        try:
            task()
        except Fit3dError as error:
            self._panel.say(str(error), warning=True)
        except Exception as error:  # the thread must live on; the page says what happened
            self._panel.say(f"unexpected {type(error).__name__}: {error}", warning=True)

    def _show(self, problems: tuple[str, ...]) -> None:
        several = f"{self._gallery.number} of {len(self._gallery)}" if len(self._gallery) > 1 else ""
        self._panel.show(self._state, several)
        self._panel.say("; ".join(problems), warning=True)
        self._scene.draw(self._state)
        view, first = self._viewpoint(PHOTO_CAMERA), self._server.initial_camera
        first.position, first.look_at, first.up = view.position, view.look_at, view.up
        first.fov, first.near, first.far = view.fov_rad(USUAL_ASPECT), NEAR_M, FAR_M

    def _viewpoint(self, name: str) -> Viewpoint:
        subject = self._state.subject
        vertices = ViewState(subject).vertices().numpy()
        return photo_viewpoint(subject.camera, vertices) if name == PHOTO_CAMERA else front_viewpoint(vertices)

    def _aim(self, client: viser.ClientHandle, view: Viewpoint) -> None:
        with client.atomic():
            camera = client.camera
            camera.position, camera.look_at, camera.up_direction = view.position, view.look_at, view.up
            camera.fov = view.fov_rad(camera.aspect)

    # Of each window

    def _greet(self, client: viser.ClientHandle) -> None:
        self._aspects[client.client_id] = client.camera.aspect
        self._tasks.put(lambda: self._aim(client, self._viewpoint(PHOTO_CAMERA)))

        @client.camera.on_update
        async def _(camera: viser.CameraHandle) -> None:
            # a window of another shape: keep the whole photo in view, as long as nobody has turned the head
            if self._aspects.get(client.client_id) != camera.aspect:
                self._aspects[client.client_id] = camera.aspect
                self._tasks.put(lambda: self._widen(client))

    def _forget(self, client: viser.ClientHandle) -> None:
        self._aspects.pop(client.client_id, None)

    def _widen(self, client: viser.ClientHandle) -> None:
        for name in (PHOTO_CAMERA, "front"):
            view = self._viewpoint(name)
            near = SAME_PLACE * float(np.linalg.norm(view.look_at - view.position))
            camera = client.camera
            if max(np.abs(camera.position - view.position).max(), np.abs(camera.look_at - view.look_at).max()) < near:
                camera.fov = view.fov_rad(camera.aspect)
                return


def _start_server(port: int) -> viser.ViserServer:
    """Raises UsageError where `port` is taken; 0 takes a free one."""
    with _silent():
        server = _LocalServer(host=HOST, port=port, label="fit3d", verbose=False)
        if port not in (0, server.get_port()):  # viser goes on to the next free one
            server.stop()
            raise UsageError(f"--port {port}: in use; choose another, or leave it out for a free one")
    server.gui.configure_theme(dark_mode=True, control_width="large", show_logo=False, show_share_button=False)
    server.gui.main_panel.dock_right()
    _refuse_other_sites(server)
    return server


def _refuse_other_sites(server: viser.ViserServer) -> None:
    """Browsers let any site's pages open sockets to this machine; only our own page may see the photo."""
    sockets = server._websock_server
    ours = {f"http://{name}:{server.get_port()}" for name in (HOST, "localhost")}

    async def check(client: viser.infra.WebsockClientConnection) -> None:
        connection = sockets._live_connections[client.client_id]
        request = connection.request
        if request is not None and request.headers.get("Origin") not in {None, *ours}:
            await connection.close(1008, "of another site")

    sockets.on_client_connect(check)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what viser prints when it starts and stops."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
