"""Pictures by which a person judges a fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fit3d.camera import Camera, Crop
from fit3d.config import Overlay
from fit3d.landmarks import LANDMARK_COUNTS
from fit3d.morphable.model import MorphableModel
from fit3d.observe.base import Observation
from fit3d.photo import Photo
from fit3d.render.atlas import triangulate
from fit3d.render.drawing import draw_parts, draw_wireframe, side_by_side
from fit3d.render.shade import draw_textured, float_texture, over, shade, three_quarter_camera
from fit3d.solve.result import Fit

SHEET_HEIGHTS = (400, 640)
"""Least and most pixels of the height of a sheet's pictures."""
OBSERVATION_HEIGHTS = (800, 1000)
"""The same for the picture of what was found, in which single points are to be told apart."""

FACE_ROOM = 2.2
"""Side of the square around the face, in longer sides of the landmarks' box."""

LARGEST_PHOTO = 2048
"""Longest side, px, at which a whole photo is drawn over."""

FILL = 0.42
"""Opacity of the fill of a part that was found."""

SHEET_YAWS_DEG = (-45.0, 0.0, 45.0)
"""From where a sheet shows the textured head."""

BACKDROP = (58, 60, 64)


@dataclass(frozen=True)
class _Window:
    """The rectangle of the photo that is shown, and at which size."""

    left: int
    top: int
    width: int
    """Photo px; the window lies inside the photo."""
    height: int
    shown_width: int
    """px of the picture."""
    shown_height: int

    @property
    def scale(self) -> float:
        """Picture px per photo px."""
        return self.shown_height / self.height


def overlay(
    photo: Photo,
    observation: Observation,
    model: MorphableModel,
    vertices_world: Tensor,
    fit: Fit,
    texture: np.ndarray,
    kind: Overlay = "sheet",
) -> np.ndarray | None:
    """The picture by which a person judges a fit.

    Args:
        photo: the whole photo.
        observation: of the face that was fitted.
        model: that was fitted.
        vertices_world: (V, 3) metres, with expression.
        fit: the result.
        texture: (S, S, 3) uint8.
        kind: 'sheet', around the face: photo, clay over photo, parts found and fitted, and below the textured head
            from three sides, with the figures; or one picture over the whole photo: 'shaded', 'wireframe' or 'parts';
            'none' gives None.

    Returns:
        (H, W, 3) uint8: of a sheet `SHEET_HEIGHTS` px a picture (and the captions), of a whole photo at most
        `LARGEST_PHOTO` px along its longer side.
    """
    if kind == "none":
        return None
    whole = kind != "sheet"
    window = _whole_photo(photo) if whole else _window(photo, observation, SHEET_HEIGHTS)
    plain = _shown(photo.pixels, window, Image.Resampling.LANCZOS)
    camera = _camera_of(fit.camera, window)
    if kind == "wireframe":
        # as thick as the letters of a page are to its width
        return draw_wireframe(plain, vertices_world, model, camera, max(max(plain.shape[:2]) / 1200.0, 0.75))
    if kind != "parts":
        clay = over(plain, shade(vertices_world, model.triangles[model.opaque], camera))
        if kind == "shaded":
            return clay
    found = _shown(observation.parts, window, Image.Resampling.NEAREST)
    fitted = _shown(fit.parts, window, Image.Resampling.NEAREST)
    parts = draw_parts(np.rint(plain * 0.75).astype(np.uint8), found, fill=FILL, line=0.0)
    parts = draw_parts(parts, fitted, fill=0.0)
    if kind == "parts":
        return parts
    overlap = fit.part_iou.get("mean")
    figure = "" if overlap is None or not np.isfinite(overlap) else f", Part IoU {100.0 * overlap:.1f} %"
    above = side_by_side(
        [plain, clay, parts],
        [
            f"photo, {photo.width} x {photo.height} px",
            f"fitted, landmarks off by {100.0 * fit.landmark_nme:.2f} % of their box's diagonal",
            f"found (filled), fitted (outlined){figure}",
        ],
    )
    views = head_views(vertices_world, model, texture, plain.shape[1], SHEET_YAWS_DEG)
    below = side_by_side(views, ["texture, from the person's right", "from the front", "from the person's left"])
    return np.concatenate([above, below])


def observation_picture(photo: Photo, observation: Observation) -> np.ndarray:
    """What was found, side by side around the face: the landmarks in the colour of their confidence, and the parts.

    Landmarks go from red, hidden or guessed, over yellow to green, sure; where the detector tells nothing they are
    white. Those of 'ibug68' have their numbers, from 0; more would hide the face.

    Returns:
        (H, W, 3) uint8, `OBSERVATION_HEIGHTS` px high (and the caption).
    """
    landmarks = observation.landmarks
    window = _window(photo, observation, OBSERVATION_HEIGHTS)
    plain = _shown(photo.pixels, window, Image.Resampling.LANCZOS)
    dimmed = np.rint(plain * 0.75).astype(np.uint8)
    found = draw_parts(dimmed, _shown(observation.parts, window, Image.Resampling.NEAREST), fill=FILL)
    points = (landmarks.points_px - (window.left, window.top)) * window.scale
    present = np.isfinite(points).all(1)
    sure = "confidence not told" if landmarks.confidence is None else "red is unsure, green sure"
    titles = [
        f"{present.sum()} of {len(points)} landmarks ({landmarks.backend.name}), {sure}",
        f"parts ({observation.parser.name})",
    ]
    return side_by_side([_draw_points(plain, points, landmarks.confidence), found], titles)


def _draw_points(picture: np.ndarray, points: np.ndarray, confidence: np.ndarray | None) -> np.ndarray:
    """Points (N, 2), picture px, over `picture` (H, W, 3) uint8, in the colours of their confidence (N,)."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    numbered = len(points) == LANDMARK_COUNTS["ibug68"]
    present = np.isfinite(points).all(1)
    face = float(np.ptp(points[present], axis=0).max())
    radius = max(face / (110.0 if numbered else 220.0), 1.5)
    font = ImageFont.load_default(max(face / 40.0, 8.0))
    for index in np.flatnonzero(present).tolist():
        x, y = points[index].tolist()
        colour = (255, 255, 255) if confidence is None else _colour_of(float(confidence[index]))
        rim = (0, 0, 0) if radius >= 2.0 else None  # a rim would be all of a smaller one
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour, outline=rim, width=1)
        if numbered:
            place = (x + 1.5 * radius, y - 1.5 * radius)
            draw.text(place, str(index), colour, font, "lb", stroke_width=1, stroke_fill=(0, 0, 0))
    return np.asarray(image)


def _colour_of(confidence: float) -> tuple[int, int, int]:
    """Red for 0 over yellow to green for 1."""
    return round(255 * min(2.0 - 2.0 * confidence, 1.0)), round(255 * min(2.0 * confidence, 1.0)), 0


def contact_view(
    vertices_world: Tensor,
    model: MorphableModel,
    texture: np.ndarray | None = None,
    size: int = 512,
    yaws_deg: tuple[float, ...] = (0.0, 40.0, -40.0),
) -> np.ndarray:
    """The head from the front and from both three-quarter sides, (size, len(yaws_deg) * size, 3) uint8: `head_views`
    side by side."""
    return np.concatenate(head_views(vertices_world, model, texture, size, yaws_deg), axis=1)


def head_views(
    vertices_world: Tensor, model: MorphableModel, texture: np.ndarray | None, size: int, yaws_deg: tuple[float, ...]
) -> list[np.ndarray]:
    """The head from several sides, in clay or with its texture.

    Args:
        vertices_world: (V, 3) metres.
        model: gives faces and UVs.
        texture: (S, S, 3) uint8; None for clay.
        size: of each view, px.
        yaws_deg: one view for each.

    Returns:
        Pictures (size, size, 3) uint8.
    """
    shown = model.opaque
    triangles = model.triangles[shown]
    uv_triangles = triangulate(model.uv_faces)[shown]
    image = None if texture is None else float_texture(texture)
    backdrop, views = np.full((size, size, 3), BACKDROP, np.uint8), []
    for yaw in yaws_deg:
        camera = three_quarter_camera(vertices_world, yaw, size)
        if image is None:
            layer = shade(vertices_world, triangles, camera)
        else:
            layer = draw_textured(vertices_world, triangles, model.uv, uv_triangles, image, camera)
        views.append(over(backdrop, layer))
    return views


def _window(photo: Photo, observation: Observation, heights: tuple[int, int]) -> _Window:
    """A square around the face where the photo is larger than that, else the whole photo; shown at least and at most
    `heights` px high."""
    left, top, right, bottom = observation.landmarks.box_px
    side = FACE_ROOM * max(right - left, bottom - top)
    # the landmarks end at the forehead: move up a little to hold the whole head
    middle = (left + right) / 2.0, (top + bottom) / 2.0 - 0.06 * side

    def span(centre: float, length: int) -> tuple[int, int]:
        if length <= 1.25 * side:
            return 0, length
        first = round(min(max(centre - side / 2.0, 0.0), length - side))
        return first, min(max(round(side), 1), length - first)

    x, width = span(middle[0], photo.width)
    y, height = span(middle[1], photo.height)
    # small pictures are shown larger, so that outlines can be told apart
    shown_height = min(max(height, heights[0]), heights[1])
    shown_width = max(round(width * shown_height / height), 1)
    return _Window(x, y, width, height, shown_width, shown_height)


def _whole_photo(photo: Photo) -> _Window:
    scale = min(1.0, LARGEST_PHOTO / max(photo.width, photo.height))
    width, height = (max(round(scale * length), 1) for length in (photo.width, photo.height))
    return _Window(0, 0, photo.width, photo.height, width, height)


def _shown(pixels: np.ndarray, window: _Window, resampling: Image.Resampling) -> np.ndarray:
    """The window of the photo, (H, W) or (H, W, 3) uint8, resampled to the size of the picture."""
    cut = pixels[window.top : window.top + window.height, window.left : window.left + window.width]
    size = (window.shown_width, window.shown_height)
    return np.asarray(Image.fromarray(np.ascontiguousarray(cut)).resize(size, resampling))


def _camera_of(camera: Camera, window: _Window) -> Camera:
    """The photo's camera seeing only the window, in pixels of the picture."""
    moved = camera.in_crop(Crop(window.left, window.top, float(window.height), window.shown_height))
    return replace(moved, width=window.shown_width, height=window.shown_height)
