"""Pictures by which a person judges a fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from fit3d.camera import Camera, Crop
from fit3d.labels import PART_COLOURS, RIGHT_EYE, SKIN
from fit3d.landmarks import LANDMARK_COUNTS
from fit3d.morphable.model import MorphableModel
from fit3d.observe.base import Observation
from fit3d.photo import Photo
from fit3d.render.atlas import triangulate
from fit3d.render.shade import draw_textured, over, shade, three_quarter_camera
from fit3d.solve.result import Fit

LARGEST_HEIGHT = 1000
"""Most pixels of the pictures' height."""

FACE_ROOM = 2.2
"""Side of the square around the face, in longer sides of the landmarks' box."""

FILL, LINE = 0.42, 1.0
"""Opacity of the fill and of the outline of a part that was found."""

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
    photo: Photo, observation: Observation, model: MorphableModel, vertices_world: Tensor, fit: Fit
) -> np.ndarray:
    """Photo, mesh over photo, parts found and parts fitted, side by side around the face, with the figures below.

    Args:
        photo: the whole photo.
        observation: of the face that was fitted.
        model: that was fitted.
        vertices_world: (V, 3) metres, with expression.
        fit: the result.

    Returns:
        (H, W, 3) uint8, at most `LARGEST_HEIGHT` px high (and the caption).
    """
    window = _window(photo, observation)
    plain = _shown(photo.pixels, window, Image.Resampling.LANCZOS)
    camera = _camera_of(fit.camera, window)
    mesh = over(plain, shade(vertices_world, model.triangles[model.opaque], camera))
    dimmed = np.rint(plain * 0.75).astype(np.uint8)
    found = draw_parts(dimmed, _shown(observation.parts, window, Image.Resampling.NEAREST), fill=FILL)
    fitted = draw_parts(dimmed, _shown(fit.parts, window, Image.Resampling.NEAREST), fill=0.0)
    overlap = fit.part_iou.get("mean")
    fitted_figure = "" if overlap is None or not np.isfinite(overlap) else f", mean Part IoU {100.0 * overlap:.1f} %"
    titles = [
        "photo",
        f"mesh, landmarks off by {100.0 * fit.landmark_nme:.2f} % of their box's diagonal",
        f"parts found ({observation.parser.name})",
        f"parts fitted{fitted_figure}",
    ]
    return side_by_side([plain, mesh, found, fitted], titles)


def observation_picture(photo: Photo, observation: Observation) -> np.ndarray:
    """What was found, side by side around the face: the landmarks in the colour of their confidence, and the parts.

    Landmarks go from red, hidden or guessed, over yellow to green, sure; where the detector tells nothing they are
    white. Those of 'ibug68' have their numbers, from 0; more would hide the face.

    Returns:
        (H, W, 3) uint8, at most `LARGEST_HEIGHT` px high (and the caption).
    """
    landmarks = observation.landmarks
    window = _window(photo, observation, least_height=800)
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
    """The head from the front and from both three-quarter sides, in clay or with its texture.

    Args:
        vertices_world: (V, 3) metres.
        model: gives faces and UVs.
        texture: (S, S, 3) uint8; None for clay.
        size: of each view, px.
        yaws_deg: one view for each.

    Returns:
        (size, len(yaws_deg) * size, 3) uint8.
    """
    views = []
    for yaw in yaws_deg:
        camera = three_quarter_camera(vertices_world, yaw, size)
        if texture is None:
            layer = shade(vertices_world, model.triangles[model.opaque], camera)
        else:
            shown = model.opaque
            uv_triangles = triangulate(model.uv_faces)[shown]
            layer = draw_textured(vertices_world, model.triangles[shown], model.uv, uv_triangles, texture, camera)
        views.append(over(np.full((size, size, 3), BACKDROP, np.uint8), layer))
    return np.concatenate(views, axis=1)


def draw_parts(picture: np.ndarray, parts: np.ndarray, fill: float) -> np.ndarray:
    """The parts of a label image (H, W) over `picture` (H, W, 3) uint8, in the colours of `fit3d.labels`.

    Every part from the eyes to the inner mouth gets an outline on its inner side, and a fill of opacity `fill`.
    """
    height, width = parts.shape
    palette = torch.tensor(PART_COLOURS, dtype=torch.float32)
    labels = torch.from_numpy(parts.astype(np.int64))
    shown = (labels >= RIGHT_EYE) & (labels <= SKIN + 1)
    colour = palette[torch.where(shown, labels, 0)]
    opacity = torch.where(shown, fill, 0.0)
    # hair and whatever stands in front are told apart by a weak fill only
    beside = labels > SKIN + 1
    colour[beside] = palette[labels[beside]]
    opacity[beside] = 0.5 * fill
    thickness = max(round(max(height, width) / 450.0), 1)
    border = _border(labels, thickness) & shown
    opacity[border] = LINE
    mixed = torch.tensor(picture).float() * (1.0 - opacity[..., None]) + colour * opacity[..., None]
    return mixed.round().to(torch.uint8).numpy()


def side_by_side(pictures: list[np.ndarray], titles: list[str]) -> np.ndarray:
    """Pictures of equal height in a row, each with a line of text below. Letters follow the size of the pictures."""
    height = pictures[0].shape[0]
    width = max(picture.shape[1] for picture in pictures)
    letter = max(round(min(height, width) / 28.0), 10)
    gap = max(height // 120, 2)
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


def _window(photo: Photo, observation: Observation, least_height: int = 400) -> _Window:
    """A square around the face where the photo is larger than that, else the whole photo; shown at least
    `least_height` px high."""
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
    shown_height = min(max(height, least_height), LARGEST_HEIGHT)
    shown_width = max(round(width * shown_height / height), 1)
    return _Window(x, y, width, height, shown_width, shown_height)


def _shown(pixels: np.ndarray, window: _Window, resampling: Image.Resampling) -> np.ndarray:
    """The window of the photo, (H, W) or (H, W, 3) uint8, resampled to the size of the picture."""
    cut = pixels[window.top : window.top + window.height, window.left : window.left + window.width]
    size = (window.shown_width, window.shown_height)
    return np.asarray(Image.fromarray(np.ascontiguousarray(cut)).resize(size, resampling))


def _camera_of(camera: Camera, window: _Window) -> Camera:
    """The photo's camera seeing only the window, in pixels of the picture."""
    moved = camera.in_crop(Crop(window.left, window.top, float(window.height), window.shown_height))
    return replace(moved, width=window.shown_width, height=window.shown_height)


def _border(labels: Tensor, thickness: int) -> Tensor:
    """(H, W) bool: pixels within `thickness` px of one with another label."""
    padded = functional.pad(labels[None, None].float(), (thickness,) * 4, mode="replicate")
    window = 2 * thickness + 1
    highest = functional.max_pool2d(functional.max_pool2d(padded, (1, window), stride=1), (window, 1), stride=1)
    lowest = -functional.max_pool2d(functional.max_pool2d(-padded, (1, window), stride=1), (window, 1), stride=1)
    return (highest != lowest)[0, 0]
