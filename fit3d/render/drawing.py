"""Pieces of pictures: part labels, wireframes, captions."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from fit3d.camera import Camera
from fit3d.labels import PART_COLOURS, RIGHT_EYE, SKIN
from fit3d.morphable.model import MorphableModel
from fit3d.render.shade import vertex_normals
from fit3d.render.visibility import depth_map

LINE = 1.0
"""Opacity of the outline of a part."""

WIRE = (255, 255, 255)
WIRE_OPACITY = 0.75
SUPERSAMPLING = 2
"""Lines are drawn so many times larger and shrunk, which smooths them."""


def draw_parts(picture: np.ndarray, parts: np.ndarray, fill: float, line: float = LINE) -> np.ndarray:
    """The parts of a label image (H, W) over `picture` (H, W, 3) uint8, in the colours of `fit3d.labels`.

    Every part from the eyes to the inner mouth gets a fill of opacity `fill` and on its inner side an outline of
    opacity `line`.
    """
    height, width = parts.shape
    labels = np.arange(len(PART_COLOURS))
    shown = (labels >= RIGHT_EYE) & (labels <= SKIN + 1)
    # hair and whatever stands in front are told apart by a weak fill only
    opacity = np.where(shown, fill, np.where(labels > SKIN + 1, 0.5 * fill, 0.0)).astype(np.float32)
    outlined = np.where(shown, np.maximum(opacity, np.float32(line)), opacity)
    # what becomes of each of the 256 levels of a channel, without and with outline, for each label
    mixed = np.stack([_mixed(opacity), _mixed(outlined)])
    thickness = max(round(max(height, width) / 450.0), 1)
    row = 256 * (parts + len(labels) * _border(parts, thickness).astype(np.intp))
    drawn = [mixed[:, :, channel].reshape(-1).take(row + picture[..., channel]) for channel in range(3)]
    return np.stack(drawn, -1)


def _mixed(opacity: np.ndarray) -> np.ndarray:
    """(L, 3, 256) uint8: every level under the colours of the labels with `opacity` (L,)."""
    alpha = opacity[:, None, None]
    level = np.arange(256, dtype=np.float32)
    return np.rint(level * (1 - alpha) + np.asarray(PART_COLOURS, np.float32)[..., None] * alpha).astype(np.uint8)


def side_by_side(pictures: list[np.ndarray], titles: list[str]) -> np.ndarray:
    """Pictures of equal height in a row, each with a line of text below. Letters and gaps follow the pictures' width,
    so that rows of pictures of one width are equally wide."""
    height = pictures[0].shape[0]
    width = max(picture.shape[1] for picture in pictures)
    letter = max(round(min(height, width) / 28.0), 10)
    gap = max(width // 120, 2)
    strip = round(1.9 * letter)
    total = sum(picture.shape[1] for picture in pictures) + gap * (len(pictures) - 1)
    canvas = Image.new("RGB", (total, height + strip), (24, 25, 27))
    draw = ImageDraw.Draw(canvas)
    x = 0
    for picture, title in zip(pictures, titles, strict=True):
        canvas.paste(Image.fromarray(picture), (x, 0))
        font = _font(draw, title, letter, picture.shape[1] - letter)
        draw.text((x + letter / 2.0, height + strip / 2.0), title, fill=(225, 225, 225), font=font, anchor="lm")
        x += picture.shape[1] + gap
    return np.asarray(canvas)


def _font(draw: ImageDraw.ImageDraw, text: str, size: int, room: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font at `size` px, or as much smaller as `text` needs to fit into `room` px."""
    font = ImageFont.load_default(size)
    wide = draw.textlength(text, font=font)
    return font if wide <= room else ImageFont.load_default(max(size * room / wide, 6.0))


def draw_wireframe(
    picture: np.ndarray, vertices_world: Tensor, model: MorphableModel, camera: Camera, line_px: float
) -> np.ndarray:
    """The edges of a mesh's faces that `camera` sees, quads without their diagonals, over `picture` (H, W, 3) uint8.

    Args:
        vertices_world: (V, 3) metres.
        camera: its width and height are those of the picture.
        line_px: thickness of the lines.
    """
    vertices = vertices_world.detach().double().cpu()
    triangles = torch.from_numpy(model.triangles[model.opaque].astype(np.int64))
    cam = camera.to_cam(vertices)
    cosine = -(vertex_normals(cam, triangles) * functional.normalize(cam, dim=1)).sum(1).numpy()
    px, depth = camera.project(vertices).numpy(), cam[:, 2].numpy()
    seen = depth_map(vertices, triangles, camera).sees(px, depth, cosine) > 0.5
    seen &= (cosine > 0.0) & (depth > 0.0)
    shown = model.opaque[: len(model.faces)]
    ends = np.concatenate([np.stack([model.faces, np.roll(model.faces, -1, 1)], -1)[shown].reshape(-1, 2)])
    # of a triangle, whose last id is -1, the corner before closes the ring
    triangle = model.faces[shown & (model.faces[:, 3] < 0)]
    ends = np.concatenate([ends[(ends >= 0).all(1)], triangle[:, [2, 0]]])
    ends = np.unique(np.sort(ends, 1), axis=0)
    ends = ends[seen[ends].all(1)]
    height, width = picture.shape[:2]
    mask = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    draw = ImageDraw.Draw(mask)
    thickness = max(round(line_px * SUPERSAMPLING), 1)
    for line in (px[ends] * SUPERSAMPLING).reshape(-1, 4).tolist():
        draw.line(line, 255, thickness)
    opacity = np.asarray(mask.resize((width, height), Image.Resampling.BOX), np.float32)[..., None] / 255.0
    mixed = picture + WIRE_OPACITY * opacity * (np.array(WIRE, np.float32) - picture)
    return np.rint(mixed).astype(np.uint8)


def _border(labels: np.ndarray, thickness: int) -> np.ndarray:
    """(H, W) bool: pixels within `thickness` px of one with another label."""
    # a square has one label if none of its rows changes and its middle column does not
    changes = _spread(labels[:, 1:] != labels[:, :-1], thickness, axis=1)
    down = _spread(labels[1:] != labels[:-1], thickness, axis=0)
    near = changes | down
    for step in range(1, min(thickness, len(labels) - 1) + 1):
        near[step:] |= changes[:-step]
        near[:-step] |= changes[step:]
    return near


def _spread(changes: np.ndarray, reach: int, axis: int) -> np.ndarray:
    """Pixels that have one of `changes`, which lie between them along `axis`, within `reach` px."""
    before = np.moveaxis(changes, axis, 0)
    near = np.zeros((len(before) + 1, *before.shape[1:]), bool)
    for step in range(min(reach, len(before))):
        near[step + 1 :] |= before[: len(before) - step]
        near[: len(before) - step] |= before[step:]
    return np.moveaxis(near, 0, axis)
