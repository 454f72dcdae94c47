"""Small pictures for the report of a batch, made to be judged at a glance and cheap to make."""

from __future__ import annotations

import numpy as np
from PIL import Image

from fit3d.batch.record import FaceRecord, Record
from fit3d.camera import Crop
from fit3d.photo import Photo
from fit3d.reconstruction import Reconstruction
from fit3d.render.drawing import draw_parts
from fit3d.render.shade import over, shade

THUMBNAILS = "thumbnails"
"""Folder of OUT that they are in."""
WITHOUT_FIT = "without-fit"
"""Folder in it of those of photos that have no result."""
SIDE = 208
"""Side of a thumbnail's squares, px."""
ROOM = 1.75
"""Side of the square that is cut from the photo, in longer sides of the landmarks' box: the head without its hair."""
LEAST_ROOM = 1.3
"""The same for photos in which the face leaves less room."""
LIFT = 0.05
"""How far the square's middle lies above that of the box, in sides of the square: landmarks end at the forehead."""
OUTLINE = 0.8
"""Opacity of the outlines: what lies under them is still to be seen."""
BEYOND = (36, 38, 42)
"""Where the square reaches beyond the photo."""


def thumbnail_name(record: Record | FaceRecord) -> str | None:
    """Where the thumbnail of a photo or face lies, relative to OUT: under its result's folder or, where there is none,
    under the hash of the photo's bytes; None where the photo could not be read."""
    if record.folder is not None:
        return f"{THUMBNAILS}/{record.folder}.jpg"
    if isinstance(record, FaceRecord) or record.sha256 is None or record.status == "unreadable":
        return None
    return f"{THUMBNAILS}/{WITHOUT_FIT}/{record.sha256[:32]}.jpg"


def fitted_thumbnail(reconstruction: Reconstruction) -> np.ndarray:
    """The face twice, side by side: the photo with the outlines of the fitted parts, and the fitted head in clay.

    The outlines tell whether the parts lie where they belong, the clay whether it is a head one could meet.

    Returns:
        (SIDE, 2 * SIDE + 2, 3) uint8.
    """
    photo, fitted, model = reconstruction.photo, reconstruction.fit, reconstruction.model
    crop = _around(reconstruction.observation.landmarks.box_px, photo.width, photo.height)
    plain = cut_out(photo.pixels, crop, Image.Resampling.BICUBIC)
    parts = cut_out(fitted.parts, crop, Image.Resampling.NEAREST)
    outlined = draw_parts(plain, parts, fill=0.0, line=OUTLINE)
    head = shade(reconstruction.vertices, model.triangles[model.opaque], fitted.camera.in_crop(crop))
    gap = np.full((SIDE, 2, 3), BEYOND, np.uint8)
    return np.concatenate([outlined, gap, over(plain, head)], axis=1)


def photo_thumbnail(photo: Photo) -> np.ndarray:
    """The whole of a photo that was not fitted, (H, W, 3) uint8, at most as large as a `fitted_thumbnail`."""
    image = Image.fromarray(photo.pixels)
    scale = min(1.0, SIDE / photo.height, 2 * SIDE / photo.width)
    size = max(round(scale * photo.width), 1), max(round(scale * photo.height), 1)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0))


def _around(box_px: tuple[float, float, float, float], width: int, height: int) -> Crop:
    """The square around a face's landmarks (left, top, right, bottom), photo px; within the photo if there is room."""
    left, top, right, bottom = box_px
    longer = max(right - left, bottom - top, 1.0)
    side = min(ROOM * longer, max(LEAST_ROOM * longer, float(min(width, height))))
    first_x = (left + right - side) / 2.0
    first_y = (top + bottom - side) / 2.0 - LIFT * side
    return Crop(_within(first_x, side, width), _within(first_y, side, height), side, SIDE)


def _within(first: float, side: float, length: int) -> float:
    """Where a stretch of `side` px begins, moved into the photo's `length` or else centred on it."""
    return min(max(first, 0.0), length - side) if side <= length else (length - side) / 2.0


def cut_out(pixels: np.ndarray, crop: Crop, resampling: Image.Resampling) -> np.ndarray:
    """`crop` of (H, W) or (H, W, 3) uint8, resampled; what lies beyond is `BEYOND`, or background of labels."""
    height, width = pixels.shape[:2]
    low = np.clip([crop.left, crop.top], 0, (width, height))
    high = np.clip([crop.left + crop.size, crop.top + crop.size], 0, (width, height))
    first, last = np.floor(low).astype(int), np.ceil(high).astype(int)
    at = np.rint(np.stack([low, high]) * crop.scale - np.array([crop.left, crop.top]) * crop.scale).astype(int)
    size = tuple((at[1] - at[0]).tolist())
    shape = (crop.resolution, crop.resolution, *pixels.shape[2:])
    canvas = np.zeros(shape, np.uint8) if pixels.ndim == 2 else np.full(shape, BEYOND, np.uint8)
    if min(size) > 0:
        image = Image.fromarray(np.ascontiguousarray(pixels[first[1] : last[1], first[0] : last[0]]))
        box = tuple(np.concatenate([low - first, high - first]).tolist())
        gap = None if pixels.ndim == 2 else 2.0
        canvas[at[0, 1] : at[1, 1], at[0, 0] : at[1, 0]] = image.resize(size, resampling, box, reducing_gap=gap)
    return canvas
