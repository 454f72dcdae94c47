"""The paper's way to measure Part IoU: draw the fitted head, and let the parser that looked at the photo look at that.

Wang et al. 2024 (3DDFA-V3) render the fit with the model's mean texture, run the parser (DML-CSR) on the render and
compare its labels with those that it gives the photo itself. Here the same detector and parser of fit3d look at both.
Against direct labels, a part's border is then where the parser sees it, in the render as in the photo, so a parser's
habits cancel; but what it does not see in the render counts as the fit's fault.

The paper does not tell the size of its pictures, what is behind the head or which lighting it renders with, nor which
frames of MEAD it took, and DML-CSR is not among fit3d's parsers: figures are no substitute for the paper's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from fit3d.annotate.paint import BACKGROUND, PAINT, PLAIN, base_colours, draw
from fit3d.camera import Camera
from fit3d.errors import LabelImageError
from fit3d.evaluate.label_files import PHOTO_SUFFIXES
from fit3d.labels import LEFT_EYEBROW, LOWER_LIP, NOSE, RIGHT_EYEBROW, UPPER_LIP
from fit3d.morphable.model import MorphableModel
from fit3d.observe.base import Landmarks
from fit3d.observe.registry import face_parser, landmark_detector
from fit3d.photo import Photo, load_photo
from fit3d.render.colours import MOUTH

Backdrop = Literal["photo", "plain"]
"""What is behind the head: the photo, so that hair and neck are where they were, or one colour."""
_PAINTED = (RIGHT_EYEBROW, LEFT_EYEBROW, NOSE, UPPER_LIP, LOWER_LIP)
"""Parts that differ from the skin in colour alone."""


@dataclass(frozen=True)
class FittedHead:
    """What is drawn of a fit."""

    model: MorphableModel
    identity: Tensor
    """(K,) standard deviations."""
    expression: Tensor
    """(L,)"""
    camera: Camera
    parts: np.ndarray
    """(H, W) uint8: its visible part labels at the photo's size."""


def render_head(head: FittedHead, photo: Photo, backdrop: Backdrop) -> np.ndarray:
    """(H, W, 3) uint8: the head as the photo's camera sees it: skin in one colour, brows, nose and lips painted pixel
    by pixel where the fit has them, whites, irises and teeth in theirs, under a fixed light."""
    model = head.model
    vertices = model.vertices(head.identity, head.expression).double().numpy()
    triangles = model.triangles[model.opaque].astype(np.int64)
    bare = np.zeros(len(vertices), np.int64)
    picture, triangle, _, _ = draw(vertices, triangles, head.camera, _colours(model), bare)
    painted = picture.astype(np.float64)
    for label in _PAINTED:
        painted[head.parts == label] *= np.divide(PAINT[label], PLAIN)  # the light on it stays
    behind = photo.pixels if backdrop == "photo" else np.full_like(photo.pixels, BACKGROUND)
    return np.where((triangle >= 0)[..., None], np.rint(painted.clip(0.0, 255.0)).astype(np.uint8), behind)


def _colours(model: MorphableModel) -> np.ndarray:
    """(V, 3) of the vertices, with the hollow of the mouth, which has the colour of skin else, in its own."""
    colours = base_colours(model)
    outside = np.zeros(len(colours), bool)
    outside[model.annotation.triangles.unique().numpy()] = True
    colours[~outside & (colours == PLAIN).all(1)] = 255.0 * np.asarray(MOUTH)
    return colours


def parse_render(picture: np.ndarray, middle_px: tuple[float, float], landmarks: str, parser: str) -> np.ndarray | None:
    """(H, W) uint8: what the parser sees in a render (H, W, 3); None where the detector finds no face. Of several faces
    that counts whose middle is nearest to `middle_px`, where the face of the photo is."""
    photo = Photo.from_array(np.ascontiguousarray(picture), "<render>")
    faces = landmark_detector(landmarks).detect(photo)
    if not faces:
        return None
    nearest = min(faces, key=lambda face: math.dist(middle_of(face), middle_px))
    return face_parser(parser).parse(photo, nearest).labels


def middle_of(landmarks: Landmarks) -> tuple[float, float]:
    """Of their box, px."""
    left, top, right, bottom = landmarks.box_px
    return (left + right) / 2.0, (top + bottom) / 2.0


def render_of(folder: Path, stem: str, photo: Photo) -> np.ndarray:
    """The render (H, W, 3) uint8 that a tool left of the photo X, whose stem is `stem`: X.png or .jpg, of its size.

    Raises:
        LabelImageError: there is none, or it has another size.
        UnreadablePhotoError: it is no picture.
    """
    for path in (place / f"{stem}{suffix}" for place in (folder, folder / stem) for suffix in PHOTO_SUFFIXES):
        if path.is_file():
            render = load_photo(path)
            if render.pixels.shape != photo.pixels.shape:
                raise LabelImageError(
                    f"{path}: the render is {render.width} x {render.height} px, its photo {photo.path} is "
                    f"{photo.width} x {photo.height} px; render at the photo's size"
                )
            return render.pixels
    raise LabelImageError(f"{folder}: no render of {stem}; expected {stem}.png, {stem}.jpg or {stem}/{stem}.png")
