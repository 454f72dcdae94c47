"""The viewer in a real browser: what a person sees and what the buttons do. Skipped where Chromium is missing."""

from __future__ import annotations

import io
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fit3d.camera import Camera
from fit3d.export.read_result import result_paths
from fit3d.morphable.obj_file import read_obj_positions
from fit3d.morphable.registry import load_model
from fit3d.render.shade import shade
from fit3d.view.gallery import Gallery
from fit3d.view.photo_view import photo_viewpoint
from viewer import DISC, SKIN, turned_camera, write_result

pytest.importorskip("viser")
playwright = pytest.importorskip("playwright.sync_api")
from fit3d.view.page import Page  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
PATIENCE_MS = 120_000
"""Software rendering on a busy machine is slow."""
SHARP = "/?fixedDpr=1"
"""viser draws fewer pixels when it is slow, and then the head has a rim of half its colour: here it must not."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The viewer on two results."""
    folder = tmp_path_factory.mktemp("results")
    model = load_model("anny")
    write_result(folder / "anna", model, turned_camera())
    write_result(folder / "bert", model, turned_camera(), seed=1)
    opened = Page(Gallery(result_paths(folder)))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


class Window:
    """A browser window on the page, and what it complains of."""

    def __init__(self, browser: Any, page: Page, width: int = 800, height: int = 440) -> None:
        self.page = page
        self.complaints: list[str] = []
        self._silhouettes: dict[Any, np.ndarray] = {}
        self.tab = browser.new_page(viewport={"width": width, "height": height})
        self.tab.set_default_timeout(PATIENCE_MS)
        self.tab.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.goto(page.url + SHARP)
        self.tab.wait_for_selector("text=jawOpen")
        self.tab.add_style_tag(content=".mantine-Notifications-root { display: none }")

    def click(self, name: str) -> None:
        self.tab.get_by_role("button", name=name, exact=True).click()

    def slide(self, label: str, key: str) -> None:
        """Move a slider to its 'Home' or 'End'."""
        owner = self.tab.locator("label", has_text=re.compile(f"^{label}$")).first.get_attribute("for")
        thumb = self.tab.locator(f'[id="{owner}"] [role=slider]')
        thumb.focus()
        thumb.press(key)

    def picture(self) -> np.ndarray:
        """(H, W, 3) int32: a screenshot of the scene."""
        box = self.tab.locator("canvas").first.bounding_box()
        shot = self.tab.screenshot(clip=box)
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), np.int32)

    def wait(self, true: Callable[[], Any]) -> Any:
        """Until `true()` holds or patience ends; returns its last value."""
        end = time.monotonic() + PATIENCE_MS / 1000.0
        while not (value := true()) and time.monotonic() < end:
            self.tab.wait_for_timeout(100)
        return value

    def camera(self, shape: tuple[int, ...]) -> Camera:
        """The camera of the page, which shows the whole photo in a scene of `shape`."""
        height, width = shape[:2]
        subject = self.page.state.subject
        tangent = math.tan(photo_viewpoint(subject.camera, np.zeros((1, 3), np.float32)).fov_rad(width / height) / 2.0)
        middle = (width / 2.0, height / 2.0)
        return replace(subject.camera, width=width, height=height, focal_px=height / 2.0 / tangent, principal_px=middle)

    def expected(self, shape: tuple[int, ...], vertices: torch.Tensor | None = None) -> np.ndarray:
        """(H, W) bool: the silhouette that fit3d's own renderer draws."""
        if vertices is None:
            vertices = self.page.state.vertices()
        key = (shape, self.page.state.subject.name, vertices.numpy().tobytes())
        if key not in self._silhouettes:
            picture = shade(vertices, self.page.state.subject.surface.triangles, self.camera(shape))
            self._silhouettes[key] = picture[..., 3] > 127
        return self._silhouettes[key]

    def seen(self) -> np.ndarray:
        """(H, W) bool: where the screen shows the head, its photo hidden."""
        shown = self.picture()
        return np.abs(shown - shown[-2, 2]).max(-1) > 12

    def overlap(self) -> float:
        """Of the head on the screen with the expected silhouette (intersection over union)."""
        seen = self.seen()
        wanted = self.expected(seen.shape)
        return float((seen & wanted).sum() / (seen | wanted).sum())

    def moved_to(self, after: torch.Tensor, before: torch.Tensor) -> float:
        """Share of the pixels that only the head with vertices `after`, not `before`, covers which show it."""
        seen = self.seen()
        only = self.expected(seen.shape, after) & ~self.expected(seen.shape, before)
        assert only.sum() > 20
        return float(seen[only].mean())


@pytest.fixture(scope="module")
def one_window(browser: Any, page: Page) -> Iterator[Window]:
    """To load the page takes most of the time."""
    opened = Window(browser, page)
    yield opened
    opened.tab.close()


@pytest.fixture
def window(one_window: Window) -> Iterator[Window]:
    one_window.click("fitted")
    one_window.click("photo camera")
    one_window.click("shaded")
    one_window.slide("Photo opacity", "Home")
    page = one_window.page
    one_window.wait(
        lambda: page.state.photo_opacity == 0.0 and torch.equal(page.state.expression, page.state.subject.expression)
    )
    yield one_window
    assert one_window.complaints == []


def test_head_lies_over_its_photo_in_windows_of_any_shape(window: Window) -> None:
    def disc_error() -> float:
        shown = window.picture()
        blue = (shown[..., 2] > 150) & (shown[..., :2].max(-1) < 90)
        if not blue.any():
            return math.inf
        found = np.argwhere(blue).mean(0)[::-1] + 0.5
        own, shown_by = window.page.state.subject.camera, window.camera(shown.shape)
        wanted = (np.array(DISC) - own.principal_px) / own.focal_px * shown_by.focal_px + shown_by.principal_px
        return float(np.abs(found - wanted).max())

    for width, height in ((660, 480), (960, 320), (800, 440)):
        window.tab.set_viewport_size({"width": width, "height": height})
        window.slide("Photo opacity", "End")
        assert window.wait(lambda: disc_error() < 0.75), disc_error()
        window.slide("Photo opacity", "Home")
        assert window.wait(lambda: window.overlap() >= 0.97), window.overlap()


def test_slider_moves_the_mesh(window: Window) -> None:
    before = window.page.state.vertices()
    assert window.wait(lambda: window.overlap() >= 0.97)
    window.slide("jawOpen", "End")
    place = window.page.state.subject.model.expression_names.index("jawOpen")
    assert window.wait(lambda: float(window.page.state.expression[place]) == 1.0)
    after = window.page.state.vertices()
    jaw = window.page.state.subject.model.expression[place]
    fitted = float(window.page.state.subject.expression[place])
    torch.testing.assert_close(after - before, jaw * (1.0 - fitted), rtol=0.0, atol=1e-6)
    assert window.wait(lambda: window.moved_to(after, before) > 0.7), window.moved_to(after, before)
    assert window.overlap() >= 0.97
    window.click("fitted")
    assert window.wait(lambda: window.moved_to(after, before) < 0.5), window.moved_to(after, before)


def test_texture_has_its_own_colour_and_follows_the_slider(window: Window) -> None:
    window.click("texture")

    def off() -> float:
        shown = window.picture()
        wanted = window.expected(shown.shape)
        return float(np.abs(np.median(shown[wanted], axis=0) - SKIN).max())

    assert window.wait(lambda: off() <= 4.0 and window.overlap() >= 0.97), (off(), window.overlap())
    before = window.page.state.vertices()
    window.slide("jawOpen", "End")
    place = window.page.state.subject.model.expression_names.index("jawOpen")
    assert window.wait(lambda: float(window.page.state.expression[place]) == 1.0)
    after = window.page.state.vertices()
    assert window.wait(lambda: window.moved_to(after, before) > 0.9), window.moved_to(after, before)
    assert window.wait(lambda: window.overlap() >= 0.97), window.overlap()


def test_wireframe_and_parts_are_drawn(window: Window) -> None:
    window.click("parts")

    def share(wanted: Callable[[np.ndarray], np.ndarray]) -> float:
        shown = window.picture()
        return float(wanted(shown)[window.expected(shown.shape)].mean())

    def is_green(shown: np.ndarray) -> np.ndarray:  # the nose
        return (shown[..., 1] > shown[..., 0] + 25) & (shown[..., 1] > shown[..., 2] + 25)

    assert window.wait(lambda: share(is_green) > 0.01), share(is_green)
    window.click("wireframe")

    def is_wire(shown: np.ndarray) -> np.ndarray:
        return (shown[..., 2] > shown[..., 0] + 60) & (shown[..., 1] > shown[..., 0] + 40)

    assert window.wait(lambda: share(is_green) == 0.0 and share(is_wire) > 0.2), share(is_wire)


def test_export_writes_what_is_shown(window: Window) -> None:
    pytest.importorskip("pygltflib")
    import pygltflib

    window.slide("jawOpen", "End")
    window.slide("mouthPucker", "End")

    def saved(name: str) -> Path:
        window.click(name)
        window.tab.wait_for_selector(f"text=/saved .*{name.lower()}/")
        return Path(window.tab.get_by_text(re.compile("^saved ")).inner_text().removeprefix("saved ").strip())

    obj = saved("OBJ")
    state, model = window.page.state, window.page.state.subject.model
    assert float(state.expression[model.expression_names.index("mouthPucker")]) == 1.0
    assert obj.parent == state.subject.folder
    posed = model.vertices(state.identity, state.expression).numpy()
    np.testing.assert_allclose(read_obj_positions(obj, len(model.mean)), posed, rtol=0.0, atol=1e-7)
    glb = saved("GLB")
    mesh = pygltflib.GLTF2().load_binary(str(glb)).meshes[0]
    weights = dict(zip(mesh.extras["targetNames"], mesh.weights, strict=True))
    for name, value in zip(model.expression_names, state.expression.tolist(), strict=True):
        assert weights.get(name, 0.0) == pytest.approx(value, abs=1e-6) or name not in weights


def test_two_windows_share_the_head_and_next_opens_the_other(browser: Any, page: Page, window: Window) -> None:
    other = Window(browser, page)
    window.slide("jawLeft", "End")
    field = other.tab.locator("label", has_text=re.compile("^jawLeft$")).first.get_attribute("for")
    assert other.wait(lambda: other.tab.locator(f'[id="{field}"] [role=slider]').get_attribute("aria-valuenow") == "1")
    assert "1 of 2" in window.tab.inner_text("body")
    window.click("next")
    other.tab.wait_for_selector("text=2 of 2")
    assert page.state.subject.name == "bert"
    other.click("photo camera")
    assert other.wait(lambda: other.overlap() >= 0.97), other.overlap()
    other.click("previous")
    window.tab.wait_for_selector("text=1 of 2")
    assert page.state.subject.name == "anna"
    other.tab.close()
    assert other.complaints == []


def test_pages_of_other_sites_are_refused(page: Page) -> None:
    import viser
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    address = page.url.replace("http", "ws", 1)
    for origin in ("http://evil.example", "null"):
        with connect(address, origin=origin, subprotocols=[f"viser-v{viser.__version__}"]) as socket:
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=30)
            assert socket.close_code == 1008
    with connect(address, origin=page.url, subprotocols=[f"viser-v{viser.__version__}"]) as socket:
        assert socket.recv(timeout=30)
