"""Pictures of a mesh: clay shading or its texture, seen by any camera, with smooth edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from fit3d.camera import Camera, cam_from_turned_world
from fit3d.devices import flat_nonzero
from fit3d.raster import visible
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
    """The part of a picture that holds the mesh."""

    points_px: Tensor
    """(V, 2) float32, samples of the box."""
    depth: Tensor
    """(V,) float32 camera z, metres."""
    facing: Tensor
    """(F,) int64 ids of the triangles that show their outer side; on a closed surface no other is seen."""
    left: int
    """First pixel column and row of the box, in pixels of the picture."""
    top: int
    width: int
    """Of the box, pixels of the picture."""
    height: int


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

    def clay(values: Tensor) -> Tensor:
        # (light * colour ** 2.2) ** (1 / 2.2), with one power for the three channels
        grey = values[0].clamp(min=0.0) ** (1.0 / 2.2)
        return (grey * torch.tensor(colour)[:, None]).clamp(max=1.0)

    return _picture(seen, faces, light[faces][..., None], clay, camera)


def draw_textured(
    vertices_world: Tensor,
    triangles: np.ndarray,
    uv: np.ndarray,
    uv_triangles: np.ndarray,
    texture: np.ndarray | Tensor,
    camera: Camera,
) -> np.ndarray:
    """A mesh with its texture, unlit, as `camera` sees it.

    Args:
        vertices_world: (V, 3) metres.
        triangles: (T, 3) vertex ids.
        uv: (U, 2) texture coordinates, origin bottom left.
        uv_triangles: (T, 3) uv ids of `triangles`.
        texture: (S, S, 3) uint8, or what `float_texture` made of it.
        camera: its width and height are the size of the picture.

    Returns:
        (H, W, 4) uint8 RGBA as `shade`.
    """
    faces = torch.as_tensor(triangles, dtype=torch.int64)
    seen = _look(camera.to_cam(vertices_world.detach().double().cpu()), faces, camera)
    if seen is None:
        return np.zeros((camera.height, camera.width, 4), np.uint8)
    # of the texture's own corners, as in `grid_sample`
    corners = torch.as_tensor(uv, dtype=torch.float32) * torch.tensor([2.0, -2.0]) - torch.tensor([1.0, -1.0])
    image = texture if isinstance(texture, Tensor) else float_texture(texture)

    def lookup(values: Tensor) -> Tensor:
        grid = values.T[None, None]
        return functional.grid_sample(image, grid, padding_mode="border", align_corners=False)[0, :, 0]

    return _picture(seen, faces, corners[torch.as_tensor(uv_triangles, dtype=torch.int64)], lookup, camera)


def float_texture(texture: np.ndarray) -> Tensor:
    """(1, 3, S, S) float32 in [0, 1] of a texture (S, S, 3) uint8: made once where it is drawn several times."""
    return torch.from_numpy(np.ascontiguousarray(texture.transpose(2, 0, 1)))[None].float().div_(255.0)


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


def over(picture: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """`layer` (H, W, 4) uint8 RGBA over `picture` (H, W, 3) uint8, rounded to the nearest level."""
    image, above = Image.fromarray(picture), Image.fromarray(layer)
    image.paste(above.convert("RGB"), mask=above.getchannel("A"))
    return np.asarray(image)


def _look(cam: Tensor, triangles: Tensor, camera: Camera) -> _Seen | None:
    """The box of the picture that holds the mesh; None where it is out of sight. `cam` (V, 3) metres."""
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
    facing = flat_nonzero(faces_camera(px, triangles))
    points = ((px - low) * SUPERSAMPLING).float()
    return _Seen(points, cam[:, 2].float(), facing, int(low[0]), int(low[1]), width, height)


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


def _picture(
    seen: _Seen,
    triangles: Tensor,
    at_corners: Tensor,
    colour_of: Callable[[Tensor], Tensor],
    camera: Camera,
) -> np.ndarray:
    """Draw the box, average the samples of each pixel and place it in the whole picture: (H, W, 4) uint8 RGBA.

    `colour_of` makes sRGB in [0, 1] (3, n) of interpolated values (C, n); at the corners they are `at_corners`
    (T, 3, C).
    """
    height, width = seen.height * SUPERSAMPLING, seen.width * SUPERSAMPLING
    samples = np.zeros((height * width, 4), np.float32)
    # one index for each sample instead of four; where two triangles meet in one, the later stays
    whole = samples.view("V16")[:, 0]
    points, depth, facing = seen.points_px, seen.depth, seen.facing
    for pixel, values in visible(points, depth, triangles[facing], at_corners[facing], height, width):
        rgba = torch.ones(len(pixel), 4)
        rgba.T[:3] = colour_of(values)
        whole[pixel.numpy()] = rgba.numpy().view("V16")[:, 0]
    # adding rows and then columns, each as a whole, is several times faster than `avg_pool2d`
    rows = reduce(torch.add, torch.from_numpy(samples).view(seen.height, SUPERSAMPLING, width * 4).unbind(1))
    box = reduce(torch.add, rows.view(seen.height, seen.width, SUPERSAMPLING, 4).unbind(2))
    covered = box[..., 3:]
    box[..., :3] *= 255.0 / covered.clamp(min=1e-6)
    covered *= 255.0 / SUPERSAMPLING**2
    picture = np.zeros((camera.height, camera.width, 4), np.uint8)
    picture[seen.top : seen.top + seen.height, seen.left : seen.left + seen.width] = (
        box.round_().clamp_(0, 255).to(torch.uint8).numpy()
    )
    return picture
