"""The 3D scene of the page: the photo, and the head in the chosen look."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
import torch
import viser
import viser.transforms
from PIL import Image
from torch import Tensor

from fit3d.render.shade import CLAY, vertex_normals
from fit3d.view.page_mesh import PartMesh, TexturedMesh, part_meshes
from fit3d.view.photo_view import Plane, photo_plane
from fit3d.view.state import Look, ViewState
from fit3d.view.subject import Subject

PHOTO_SIDE = 2048
"""Longest side of the photo on the page, px."""
VEIL_M = 0.001
"""The veil that fades the photo hangs this far before it, metres."""
OVERLAP_S = 0.12
"""The page takes a while to unpack a textured head; so long the one before stays, and no third is sent."""
CLAY_RGB = (round(255 * CLAY[0]), round(255 * CLAY[1]), round(255 * CLAY[2]))
WIRE_RGB = (90, 220, 255)
INSET_M = 0.0008
"""So far inside the wires lies the invisible head that hides those behind it, metres: on the same surface, it would
hide pieces of all."""


class Drawing(Protocol):
    """The head in one look."""

    def move(self, vertices: np.ndarray) -> None:
        """Take vertices (V, 3) float32, world, metres, and show them."""

    def hide(self) -> None:
        """Vanish."""

    def remove(self) -> None:
        """Leave the scene for good."""

    def settle(self) -> float | None:
        """Do what is due; returns the seconds until more will be, None if nothing."""


class _Clay:
    """Plain meshes, each with its own vertices."""

    def __init__(self, handles: list[viser.MeshHandle], places: Callable[[np.ndarray], list[np.ndarray]]) -> None:
        self._handles, self._places = handles, places

    def move(self, vertices: np.ndarray) -> None:
        for handle, positions in zip(self._handles, self._places(vertices), strict=True):
            handle.vertices = positions
            handle.visible = True

    def hide(self) -> None:
        for handle in self._handles:
            handle.visible = False

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def settle(self) -> float | None:
        return None


class _Textured:
    """Two GLBs that take turns: while the page unpacks one, the other stays in sight."""

    def __init__(self, scene: viser.SceneApi, subject: Subject) -> None:
        assert subject.texture is not None
        self._mesh = TexturedMesh(subject.surface, subject.texture)
        self._scene = scene
        self._handles: list[viser.GlbHandle] = []
        self._turn = 0
        self._due: float | None = None

    def move(self, vertices: np.ndarray) -> None:
        self._wait()
        content = self._mesh.glb(vertices)
        if len(self._handles) < 2:
            name = f"/head/texture_{len(self._handles)}"
            handle = self._scene.add_glb(name, content, cast_shadow=False, receive_shadow=False)
            self._handles.append(handle)
            self._turn = len(self._handles) - 1
        else:
            self._turn = 1 - self._turn
            self._handles[self._turn].glb_data = content
            self._handles[self._turn].visible = True
        self._due = time.monotonic() + OVERLAP_S

    def hide(self) -> None:
        self._due = None
        for handle in self._handles:
            handle.visible = False

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def settle(self) -> float | None:
        if self._due is None:
            return None
        left = self._due - time.monotonic()
        if left > 0.0:
            return left
        self._due = None
        for index, handle in enumerate(self._handles):
            if index != self._turn:
                handle.visible = False
        return None

    def _wait(self) -> None:
        while (left := self.settle()) is not None:
            time.sleep(left)


class Scene:
    """Photo and head. Used by one thread."""

    def __init__(self, scene: viser.SceneApi) -> None:
        self._scene = scene
        scene.set_up_direction("+y")
        self._subject: Subject | None = None
        self._drawings: dict[Look, Drawing] = {}
        self._photo: viser.ImageHandle | None = None
        self._veil: viser.MeshHandle | None = None
        self._drawn: tuple[Look, Tensor, Tensor] | None = None
        self._opacity = 1.0

    def draw(self, state: ViewState) -> None:
        """Bring the scene to what `state` says; what has not changed is not sent again."""
        if state.subject is not self._subject:
            self._clear()
            self._subject = state.subject
            self._hang(state)
        self._fade(state.photo_opacity)
        if self._drawn is not None:
            look, identity, expression = self._drawn
            if look == state.look and identity.equal(state.identity) and expression.equal(state.expression):
                return
        if state.look not in self._drawings:
            self._drawings[state.look] = self._make(state)
        vertices = state.vertices().numpy()
        self._drawings[state.look].move(vertices)
        for look, drawing in self._drawings.items():
            if look != state.look:
                drawing.hide()
        self._drawn = (state.look, state.identity.clone(), state.expression.clone())

    def settle(self) -> float | None:
        """Do what is due; returns the seconds until more will be, None if nothing."""
        drawing = self._drawings.get(self._drawn[0]) if self._drawn is not None else None
        return None if drawing is None else drawing.settle()

    def _clear(self) -> None:
        for drawing in self._drawings.values():
            drawing.remove()
        for handle in (self._photo, self._veil):
            if handle is not None:
                handle.remove()
        self._drawings, self._drawn = {}, None
        self._photo = self._veil = None

    def _make(self, state: ViewState) -> Drawing:
        subject = state.subject
        vertices = state.vertices().numpy()
        if state.look == "texture":
            return _Textured(self._scene, subject)
        if state.look == "parts":
            assert subject.model is not None
            parts = part_meshes(subject.model)
            return _Clay([self._add_part(part, vertices) for part in parts], lambda v: [p.positions(v) for p in parts])
        triangles = subject.surface.triangles.astype(np.uint32)
        if state.look == "shaded":
            return _Clay([self._add("/head/clay", vertices, triangles, CLAY_RGB)], lambda v: [v])
        # what is drawn invisibly first hides what lies behind it
        faces = torch.from_numpy(subject.surface.triangles)

        def inside(v: np.ndarray) -> np.ndarray:
            at = torch.from_numpy(v)
            return (at - INSET_M * vertex_normals(at, faces)).numpy()

        # only its front: the insides of lids and lips, moved inwards too, would come out at the other side
        hider = self._add("/head/hider", inside(vertices), triangles, WIRE_RGB, opacity=0.0, side="front")
        wires = self._add("/head/wires", vertices, triangles, WIRE_RGB, opacity=0.9, wireframe=True)
        return _Clay([hider, wires], lambda v: [inside(v), v])

    def _add_part(self, part: PartMesh, vertices: np.ndarray) -> viser.MeshHandle:
        name = f"/head/part_{'_'.join(map(str, part.colour))}"
        return self._add(name, part.positions(vertices), part.triangles.astype(np.uint32), part.colour)

    def _add(
        self,
        name: str,
        vertices: np.ndarray,
        triangles: np.ndarray,
        colour: tuple[int, int, int],
        *,
        opacity: float | None = None,
        side: Literal["front", "double"] = "double",  # a head is open at the neck
        wireframe: bool = False,
    ) -> viser.MeshHandle:
        return self._scene.add_mesh_simple(
            name,
            vertices,
            triangles,
            color=colour,
            opacity=opacity,
            wireframe=wireframe,
            side=side,
            cast_shadow=False,
            receive_shadow=False,
        )

    def _hang(self, state: ViewState) -> None:
        """Put the photo into the scene, and a veil before it."""
        if state.subject.photo is None:
            return
        plane = photo_plane(state.subject.camera, state.vertices().numpy())
        wxyz = viser.transforms.SO3.from_matrix(plane.world_from_plane).wxyz
        image = Image.fromarray(state.subject.photo)
        image.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)
        self._photo = self._scene.add_image(
            "/photo",
            np.asarray(image),
            plane.width,
            plane.height,
            format="jpeg",
            jpeg_quality=90,
            cast_shadow=False,
            receive_shadow=False,
            wxyz=wxyz,
            position=plane.centre,
        )
        self._veil = self._scene.add_mesh_simple(
            "/veil",
            _corners(plane),
            np.array([[0, 1, 2], [0, 2, 3]], np.uint32),
            color=(0, 0, 0),
            opacity=0.0,
            material="toon3",  # black without any gleam
            side="double",
            cast_shadow=False,
            receive_shadow=False,
            wxyz=wxyz,
            position=plane.centre - VEIL_M * plane.world_from_plane[:, 2],
        )
        self._opacity = 1.0

    def _fade(self, opacity: float) -> None:
        """Pull the veil over the photo: quicker than to send the photo anew."""
        if self._photo is None or self._veil is None or opacity == self._opacity:
            return
        self._veil.opacity = 1.0 - opacity
        self._photo.visible = self._veil.visible = opacity > 0.0
        self._opacity = opacity


def _corners(plane: Plane) -> np.ndarray:
    """(4, 3) float32 in the plane's frame."""
    x, y = plane.width / 2.0, plane.height / 2.0
    return np.array([[-x, -y, 0.0], [-x, y, 0.0], [x, y, 0.0], [x, -y, 0.0]], np.float32)
