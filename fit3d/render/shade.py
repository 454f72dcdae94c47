"""Pictures of a mesh: clay shading or its texture, seen by any camera, with smooth edges."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fit3d.camera import Camera, cam_from_turned_world
from fit3d.raster import Fragments, rasterise
from fit3d.render.visibility import faces_camera

CLAY = (0.80, 0.77, 0.74)
"""Colour of the clay, sRGB in [0, 1]."""

SUPERSAMPLING = 2
"""Samples along each side of a pixel."""

# Direction towards the light in the camera frame (x right, y down, z forward) and strength: a key light from the upper
# left, a weak fill from the right, a rim from behind and above, so that the form reads and no side is black.
_LIGHTS = (((-0.75, -0.75, -0.65), 0.72), ((0.9, -0.05, -0.55), 0.20), ((0.1, -0.8, 0.6), 0.16))
_AMBIENT = 0.10


@dataclass(frozen=True)
class _Seen:
    """The part of a picture that holds the mesh, supersampled."""

    fragments: Fragments
    triangles: Tensor
    left: int
    """First pixel column and row of the box, in pixels of the picture."""
    top: int


def vertex_normals(vertices: Tensor, triangles: Tensor) -> Tensor:
    """Unit normals (V, 3) of vertices (V, 3): the area-weighted mean of the normals of their triangles (T, 3).

    They point to the side from which the triangles run counter-clockwise. A vertex without area has a zero normal.
    """
    return functional.normalize(weighted_normals(vertices, triangles), dim=1)


def weighted_normals(vertices: Tensor, triangles: Tensor) -> Tensor:
    """(V, 3) sums of the normals of each vertex's triangles, twice their area long."""
    a, b, c = vertices[triangles].unbind(1)
    normals = torch.linalg.cross(b - a, c - a).repeat(3, 1)
    return torch.zeros_like(vertices).index_add_(0, triangles.T.reshape(-1), normals)


def shade(
    vertices_world: Tensor, triangles: Tensor | np.ndarray, camera: Camera, colour: tuple[float, float, float] = CLAY
) -> np.ndarray:
    """A mesh in clay as `camera` sees it.

    Args:
        vertices_world: (V, 3) metres.
        triangles: (T, 3) vertex ids, counter-clockwise from outside.
        camera: its width and height are the size of the picture.
        colour: of the clay, sRGB in [0, 1].

    Returns:
        (H, W, 4) uint8 RGBA, not premultiplied; alpha is the share of the pixel that the mesh covers.
    """
    faces = torch.as_tensor(np.asarray(triangles), dtype=torch.int64)
    cam = camera.to_cam(vertices_world.detach().double().cpu())
    seen = _look(cam, faces, camera)
    if seen is None:
        return np.zeros((camera.height, camera.width, 4), np.uint8)
    # light is smooth on a smooth mesh: computed at the vertices, it costs next to nothing
    light = _light(vertex_normals(cam, faces).float(), functional.normalize(cam.float(), dim=1))
    covered = seen.fragments.triangle >= 0
    linear = _interpolate(seen, light[:, None]) * torch.tensor(colour) ** 2.2
    rgb = linear.clamp(0.0, 1.0) ** (1.0 / 2.2)
    return _picture(seen, covered, rgb, camera)


def draw_textured(
    vertices_world: Tensor,
    triangles: np.ndarray,
    uv: np.ndarray,
    uv_triangles: np.ndarray,
    texture: np.ndarray,
    camera: Camera,
) -> np.ndarray:
    """A mesh with its texture, unlit, as `camera` sees it.

    Args:
        vertices_world: (V, 3) metres.
        triangles: (T, 3) vertex ids.
        uv: (U, 2) texture coordinates, origin bottom left.
        uv_triangles: (T, 3) uv ids of `triangles`.
        texture: (S, S, 3) uint8.
        camera: its width and height are the size of the picture.

    Returns:
        (H, W, 4) uint8 RGBA as `shade`.
    """
    faces = torch.as_tensor(triangles, dtype=torch.int64)
    seen = _look(camera.to_cam(vertices_world.detach().double().cpu()), faces, camera)
    if seen is None:
        return np.zeros((camera.height, camera.width, 4), np.uint8)
    covered = seen.fragments.triangle >= 0
    corners = torch.as_tensor(uv, dtype=torch.float32)[torch.as_tensor(uv_triangles, dtype=torch.int64)]
    at = (corners[seen.fragments.triangle[covered]] * seen.fragments.barycentric[covered][..., None]).sum(1)
    grid = torch.stack([2.0 * at[:, 0] - 1.0, 1.0 - 2.0 * at[:, 1]], -1)
    image = torch.tensor(texture).permute(2, 0, 1)[None].float() / 255.0
    rgb = functional.grid_sample(image, grid[None, None], padding_mode="border", align_corners=False)[0, :, 0].T
    return _picture(seen, covered, rgb, camera)


def three_quarter_camera(
    vertices_world: Tensor, yaw_deg: float, size: int, pitch_deg: float = 0.0, fov_deg: float = 20.0
) -> Camera:
    """A camera whose square picture of `size` px holds all `vertices_world` (V, 3).

    Args:
        yaw_deg: turns the camera around the head; 0 is the front view, positive shows more of the person's left side.
        pitch_deg: lifts the camera above the head.
        fov_deg: field of view, degrees.
    """
    vertices = vertices_world.detach().double().cpu()
    middle = (vertices.amin(0) + vertices.amax(0)) / 2.0
    rotation = cam_from_turned_world(yaw_deg, pitch_deg)
    turned = (vertices - middle) @ rotation.T
    focal = 0.5 * size / math.tan(math.radians(fov_deg) / 2.0)
    # the nearest distance at which every vertex falls inside the picture, with 4 % of it left free all around
    distance = (turned[:, :2].abs().amax(1) * focal / (0.46 * size) - turned[:, 2]).max()
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = rotation
    pose[:3, 3] = torch.tensor([0.0, 0.0, float(distance)], dtype=torch.float64) - rotation @ middle
    return Camera(size, size, focal, (size / 2.0, size / 2.0), pose)


def over(picture: np.ndarray, layer: np.ndarray, opacity: float = 1.0) -> np.ndarray:
    """`layer` (H, W, 4) uint8 RGBA over `picture` (H, W, 3) uint8."""
    alpha = layer[..., 3:].astype(np.float32) * (opacity / 255.0)
    return np.rint(picture * (1.0 - alpha) + layer[..., :3] * alpha).astype(np.uint8)


def _look(cam: Tensor, triangles: Tensor, camera: Camera) -> _Seen | None:
    """Rasterise the box of the picture that holds the mesh; None where it is out of sight. `cam` (V, 3) metres.

    Triangles seen from behind are left out: on a closed surface they are hidden.
    """
    front = cam[:, 2] > 0
    if not bool(front.any()):
        return None
    cx, cy = camera.principal_px
    px = camera.focal_px * cam[:, :2] / cam[:, 2:] + cam.new_tensor([cx, cy])
    size = px.new_tensor([camera.width, camera.height])
    low = torch.minimum(torch.floor(px[front].amin(0)).clamp(min=0), size).long()
    high = torch.maximum(torch.minimum(torch.ceil(px[front].amax(0)), size), low).long()
    width, height = (high - low).tolist()
    if width == 0 or height == 0:
        return None
    facing = torch.nonzero(faces_camera(px, triangles)).squeeze(1)
    fragments = rasterise(
        ((px - low) * SUPERSAMPLING).float(),
        cam[:, 2].float(),
        triangles[facing],
        height * SUPERSAMPLING,
        width * SUPERSAMPLING,
    )
    found = fragments.triangle >= 0
    fragments.triangle[found] = facing[fragments.triangle[found]]
    return _Seen(fragments, triangles, int(low[0]), int(low[1]))


def _interpolate(seen: _Seen, values: Tensor) -> Tensor:
    """Vertex `values` (V, C) at the covered samples, (N, C)."""
    covered = seen.fragments.triangle >= 0
    corners = values[seen.triangles[seen.fragments.triangle[covered]]]
    return (corners * seen.fragments.barycentric[covered][..., None]).sum(1)


def _light(normal: Tensor, view: Tensor) -> Tensor:
    """Linear light (V,) leaving a matt surface with a faint sheen; `view` points away from the camera."""
    total = torch.full_like(normal[:, 0], _AMBIENT)
    for direction, strength in _LIGHTS:
        towards = functional.normalize(torch.tensor(direction), dim=0)
        # light wraps a little around the edge, as on wax
        total = total + strength * ((normal @ towards + 0.15) / 1.15).clamp(min=0.0)
    key = functional.normalize(torch.tensor(_LIGHTS[0][0]), dim=0)
    half = functional.normalize(key - view, dim=1)
    return total + 0.06 * (normal * half).sum(1).clamp(min=0.0) ** 24


def _picture(seen: _Seen, covered: Tensor, rgb: Tensor, camera: Camera) -> np.ndarray:
    """Average the samples of each pixel and place the box in the whole picture. `rgb` (N, 3) in [0, 1]."""
    samples = torch.zeros(*covered.shape, 4)
    samples[covered] = torch.cat([rgb, torch.ones(len(rgb), 1)], 1)
    pixels = functional.avg_pool2d(samples.permute(2, 0, 1)[None], SUPERSAMPLING)[0].permute(1, 2, 0)
    alpha = pixels[..., 3:]
    rgba = torch.cat([pixels[..., :3] / alpha.clamp(min=1e-6), alpha], -1)
    picture = np.zeros((camera.height, camera.width, 4), np.uint8)
    height, width = rgba.shape[:2]
    picture[seen.top : seen.top + height, seen.left : seen.left + width] = (
        (rgba * 255.0).round().clamp(0, 255).to(torch.uint8).numpy()
    )
    return picture
