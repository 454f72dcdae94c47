"""The error map of a measured scan: as PLY with colours, and as a picture with a colour bar."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch.nn.functional import normalize

from fit3d.evaluate.scan import MeasuredScan
from fit3d.render.drawing import side_by_side
from fit3d.render.shade import draw_textured, over, shade, three_quarter_camera

STOPS = (
    (0.16, 0.20, 0.55),
    (0.13, 0.56, 0.75),
    (0.55, 0.80, 0.45),
    (0.98, 0.84, 0.30),
    (0.93, 0.40, 0.18),
    (0.55, 0.03, 0.10),
)
"""sRGB from no error to the end of the scale."""
LEVELS = 256
VIEWS = (("from the right", -40.0), ("front", 0.0), ("from the left", 40.0))
"""Person's own sides; yaw in degrees."""
SIDE_PX = 480
BACKGROUND = 255
FORM = 0.45
"""How strongly light and shadow show under the colours."""
TICKS = 5


def colours_of(distances_mm: np.ndarray, scale_mm: float) -> np.ndarray:
    """(N, 3) uint8; distances from `scale_mm` on all have the last colour."""
    at = np.clip(distances_mm / scale_mm, 0.0, 1.0) * (len(STOPS) - 1)
    channels = [np.interp(at, np.arange(len(STOPS)), channel) for channel in np.array(STOPS).T]
    return np.rint(255.0 * np.stack(channels, axis=1)).astype(np.uint8)


def error_ply(measured: MeasuredScan, scale_mm: float) -> bytes:
    """The face of the scan, mm, in the colours of its distances, which stand beside them as `quality`."""
    names = ("x", "y", "z", "quality")
    vertex = np.zeros(
        len(measured.points), [*((name, "<f4") for name in names), *((c, "u1") for c in ("red", "green", "blue"))]
    )
    for name, values in zip(names, (*measured.points.T, measured.distances_mm), strict=True):
        vertex[name] = values
    for name, values in zip(("red", "green", "blue"), colours_of(measured.distances_mm, scale_mm).T, strict=True):
        vertex[name] = values
    face = np.zeros(len(measured.triangles), [("count", "u1"), ("ids", "<i4", 3)])
    face["count"], face["ids"] = 3, measured.triangles
    properties = [f"property float {name}" for name in names] + [
        f"property uchar {c}" for c in ("red", "green", "blue")
    ]
    header = "\n".join(
        [
            *("ply", "format binary_little_endian 1.0", "comment millimetres; quality is the distance to the mesh"),
            *(f"element vertex {len(vertex)}", *properties),
            *(f"element face {len(face)}", "property list uchar int vertex_indices", "end_header", ""),
        ]
    )
    return header.encode("ascii") + vertex.tobytes() + face.tobytes()


def error_picture(measured: MeasuredScan, landmarks_mm: dict[int, np.ndarray], scale_mm: float) -> np.ndarray:
    """(H, W, 3) uint8: the face of the scan from three sides in the colours of its distances, with a colour bar.

    Upright by the landmarks of the eyes and the base of the nose, whatever the scan's axes.
    """
    points = _upright(measured.points, landmarks_mm)
    vertices = torch.from_numpy(points / 1000.0)
    at = np.clip(measured.distances_mm / scale_mm, 0.0, 1.0)
    uv = np.stack([(0.5 + at * (LEVELS - 1)) / LEVELS, np.full(len(at), 0.5)], axis=1)
    bar = colours_of(np.linspace(0.0, scale_mm, LEVELS), scale_mm)
    texture = np.broadcast_to(bar[None], (LEVELS, LEVELS, 3)).copy()
    pictures = []
    for _, yaw in VIEWS:
        camera = three_quarter_camera(vertices, yaw, SIDE_PX)
        layer = draw_textured(vertices, measured.triangles, uv, measured.triangles, texture, camera)
        light = shade(vertices, measured.triangles, camera, (1.0, 1.0, 1.0))[..., :3].astype(np.float32) / 255.0
        layer[..., :3] = np.rint(layer[..., :3] * (1.0 - FORM + FORM * light)).astype(np.uint8)
        pictures.append(over(np.full((SIDE_PX, SIDE_PX, 3), BACKGROUND, np.uint8), layer))
    row = side_by_side(pictures, [name for name, _ in VIEWS])
    return np.concatenate([row, _colour_bar(measured, bar, scale_mm, row.shape[1])])


def _upright(points: np.ndarray, landmarks: dict[int, np.ndarray]) -> np.ndarray:
    """(N, 3) with x to the person's left, y up and z towards the viewer."""
    right, left = ((landmarks[a] + landmarks[b]) / 2.0 for a, b in ((36, 39), (42, 45)))
    aside = normalize(torch.from_numpy(left - right), dim=0).numpy()
    up = (right + left) / 2.0 - landmarks[33]
    up -= (up @ aside) * aside
    up /= np.linalg.norm(up)
    upright: np.ndarray = points @ np.stack([aside, up, np.cross(aside, up)], axis=1)
    return upright


def _colour_bar(measured: MeasuredScan, bar: np.ndarray, scale_mm: float, width: int) -> np.ndarray:
    """(H, `width`, 3): the colours with their distances, and below the figures."""
    letter = SIDE_PX // 26
    left, right, height = width // 4, width - width // 4, 2 * letter
    picture = np.full((5 * height, width, 3), BACKGROUND, np.uint8)
    picture[letter : letter + height, left:right] = bar[np.linspace(0, LEVELS - 1, right - left).round().astype(int)]
    image = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(letter)
    for tick in range(TICKS + 1):
        x = left + (right - left - 1) * tick / TICKS
        draw.line([(x, letter + height), (x, 1.4 * letter + height)], fill=(0, 0, 0))
        more = "+" if tick == TICKS and measured.distances_mm.max() > scale_mm else ""
        draw.text(
            (x, 1.5 * letter + height), f"{scale_mm * tick / TICKS:g}{more}", fill=(0, 0, 0), font=font, anchor="ma"
        )
    figures = measured.figures()
    text = "distance to the mesh, mm: " + ", ".join(
        f"{name} {figures[key]:.2f}"
        for name, key in (("mean", "mean_mm"), ("median", "median_mm"), ("rms", "rms_mm"), ("90 %", "p90_mm"))
    )
    draw.text((width / 2.0, 3.2 * letter + height), text, fill=(0, 0, 0), font=font, anchor="ma")
    return np.asarray(image)
