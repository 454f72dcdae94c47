"""The head before and after an edit, as the photo's camera sees it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fit3d.camera import Camera
from fit3d.energy.landmarks import slide
from fit3d.landmarks import LandmarkLayout
from fit3d.morphable.model import MorphableModel
from fit3d.raster import Fragments, rasterise, rasterise_front
from fit3d.solve.fit import face_geometry
from fit3d.solve.objective import surface_labels


@dataclass(frozen=True)
class Window:
    """The rectangle of the photo in which an edit happens. Its pixels are the photo's, or larger ones."""

    left: int
    """First column and row, photo px."""
    top: int
    width: int
    """Size, photo px."""
    height: int

    @property
    def rows(self) -> slice:
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.left + self.width)

    def cut(self, image: np.ndarray) -> np.ndarray:
        """The rectangle of an image (H, W, ...), not a copy."""
        return image[self.rows, self.columns]


@dataclass(frozen=True)
class Projection:
    """A head in the photo."""

    vertices: Tensor
    """(V, 3) float64, world, metres."""
    px: Tensor
    """(V, 2) float64, photo px."""
    depth: Tensor
    """(V,) float64 camera z, metres."""

    @classmethod
    def of(cls, vertices: Tensor, camera: Camera) -> Projection:
        return cls(vertices, camera.project(vertices), camera.to_cam(vertices)[:, 2])

    def shifted(self, by_px: Tensor) -> Projection:
        """The same with every vertex moved in the picture by (V, 2) px."""
        return replace(self, px=self.px + by_px)

    def in_window(self, window: Window) -> np.ndarray:
        """(V, 2) px of the window."""
        return np.asarray(self.px.numpy() - (window.left, window.top))


@dataclass(frozen=True)
class Surface:
    """What a model's outer surface is made of: which of it is skin, and which the patches that span the openings."""

    used: Tensor
    """(V',) ids of the vertices of the outer surface."""
    triangles: Tensor
    """(T, 3) int64 into `used`."""
    patch: np.ndarray
    """(T,) uint8: the part label of patches, 0 on skin."""


@lru_cache(maxsize=2)
def outer_surface(model: MorphableModel) -> Surface:
    """The outer surface of the model, in the order of `FaceGeometry`."""
    used, triangles = torch.unique(model.annotation.triangles, return_inverse=True)
    fixed = model.annotation.fixed_label.numpy()
    return Surface(used, triangles, np.where(fixed >= 0, fixed, 0).astype(np.uint8))


@dataclass(frozen=True)
class View:
    """The outer surface seen in a window, pixel by pixel."""

    fragments: Fragments
    """(h, w); triangles of `Surface`."""
    labels: np.ndarray
    """(h, w) uint8 part labels, background where the surface is not."""

    @property
    def covered(self) -> np.ndarray:
        """(h, w) bool."""
        return np.asarray(self.fragments.triangle.numpy() >= 0)

    def interpolate(self, values: np.ndarray, surface: Surface, where: np.ndarray | None = None) -> np.ndarray:
        """(h, w, C) float32: values (V, C) of the model's vertices, 0 where the surface is not, and beside `where`
        (h, w) bool."""
        corners = torch.from_numpy(values)[surface.used][surface.triangles].float()
        triangle, weights = self.fragments.triangle.clamp(min=0), self.fragments.barycentric
        if where is None:
            return np.asarray((corners[triangle] * weights[..., None].float()).sum(-2).numpy())
        chosen = torch.from_numpy(where & self.covered)
        result = torch.zeros((*triangle.shape, values.shape[1]))
        result[chosen] = (corners[triangle[chosen]] * weights[chosen][..., None].float()).sum(-2)
        return np.asarray(result.numpy())


def look_at(model: MorphableModel, head: Projection, window: Window) -> View:
    """Rasterise the outer surface at the window's pixels."""
    surface = outer_surface(model)
    px = torch.from_numpy(head.in_window(window))[surface.used]
    fragments = rasterise_front(
        px.float(), head.depth[surface.used].float(), surface.triangles, window.height, window.width
    )
    layout: LandmarkLayout = "ibug68"
    labels = surface_labels(face_geometry(model, layout, "cpu"), fragments).to(torch.uint8).numpy()
    return View(fragments, labels)


def look_inside(model: MorphableModel, head: Projection, window: Window, objects: np.ndarray) -> Fragments:
    """Rasterise some whole triangles of the model (T,) bool at the window's pixels; ids are of all triangles."""
    ids = np.flatnonzero(objects)
    triangles = torch.from_numpy(model.triangles[ids].astype(np.int64))
    px = torch.from_numpy(head.in_window(window)).float()
    fragments = rasterise(px, head.depth.float(), triangles, window.height, window.width)
    back = torch.from_numpy(np.append(ids, -1))
    return replace(fragments, triangle=back[fragments.triangle])


def landmarks_of(
    model: MorphableModel, head: Projection, camera: Camera, layout: LandmarkLayout
) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks (N, 2) float64 px of a head, sliding ones on its silhouette, and (N,) bool which the head itself hides.

    Places are those of the projected vertices, so they follow corrections made in the picture.
    """
    embedding = model.landmarks[layout]
    px, depth = embedding.points.of(head.px), embedding.points.of(head.depth[:, None])[:, 0]
    if len(embedding.sliding):
        paths = embedding.paths.of(head.px)
        middle = camera.project(embedding.points.of(model.mean.double()).mean(0, keepdim=True))[0]
        chosen = slide(paths[None], middle[None])[0]
        row = torch.arange(len(chosen))
        px[embedding.sliding] = paths[row, chosen]
        depth[embedding.sliding] = embedding.paths.of(head.depth[:, None])[row, chosen, 0]
    return px.numpy(), depth.numpy()
