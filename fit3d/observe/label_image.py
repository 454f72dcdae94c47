"""The user's own label image in place of a parser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from fit3d import __version__
from fit3d.errors import LabelImageError
from fit3d.labels import BACKGROUND, INNER_MOUTH, PART_NAMES, RIGHT_EYE, SKIN
from fit3d.observe.base import Backend, FaceParser, Landmarks, Parsing
from fit3d.observe.label_colours import UnknownColoursError, labels_of_colours, labels_of_palette
from fit3d.photo import Photo, quiet_pillow

FORMATS = ("PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG")
"""Pillow's names of the formats that are tried; JPEG to say what is wrong with it. Others may start other programs, as
EPS does."""

BOX_SHARE = 1.3
"""Sides of the box in which a face's parts lie, in sides of its landmarks' box."""

_ROWS_AT_ONCE = 512
"""Rows whose pixels are listed at once, which takes many times their memory."""


class LabelImage(FaceParser):
    """Says what a file says, without the parts of the photo's other faces."""

    def __init__(self, path: str | Path) -> None:
        self.backend = Backend("label_image", __version__)
        self._path = path

    def parse(self, photo: Photo, landmarks: Landmarks) -> Parsing:
        """The file's labels, see `read_label_image` and `labels_of_face`."""
        return Parsing(labels_of_face(read_label_image(self._path, photo), landmarks))


def labels_of_face(labels: np.ndarray, landmarks: Landmarks) -> np.ndarray:
    """The label image (H, W) of a photo with several faces, of one of them: the others' parts become background.

    Connected pieces of labels 1 to 9 belong to the face if their centroid lies in its landmarks' box, enlarged to
    `BOX_SHARE`. The piece that the landmarks lie on belongs to it in any case; where it holds another face too, which
    touches, it is cut at the enlarged box. Hair and other things may hide any face and stay.
    """
    is_part = (labels >= RIGHT_EYE) & (labels <= INNER_MOUTH)
    if not is_part.any():
        return labels
    rows, columns = np.flatnonzero(is_part.any(1)), np.flatnonzero(is_part.any(0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    result = labels.copy()
    seen = result[window]  # a view: what is done to it is done to `result`
    pieces, count = ndimage.label(is_part[window], structure=np.ones((3, 3), bool))

    left, top, right, bottom = landmarks.box_px
    reach_x, reach_y = ((BOX_SHARE - 1.0) / 2.0 * (high - low) for low, high in ((left, right), (top, bottom)))
    x, y = np.arange(seen.shape[1]) + columns[0] + 0.5, np.arange(seen.shape[0]) + rows[0] + 0.5
    inside_x = (x >= left - reach_x) & (x <= right + reach_x)
    inside_y = (y >= top - reach_y) & (y <= bottom + reach_y)
    at_y, at_x = _centroids(pieces, count)
    foreign = ~(inside_y[at_y] & inside_x[at_x])
    foreign[0] = False
    own = _piece_under(pieces, landmarks.points_px - [columns[0], rows[0]])
    if own:
        foreign[own] = False
    seen[foreign[pieces]] = BACKGROUND
    if own:
        beyond = (pieces == own) & ~(inside_y[:, None] & inside_x)
        if (beyond & (seen != SKIN)).any():
            seen[beyond] = BACKGROUND
    return result


def _centroids(pieces: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(count + 1,) rows and columns of the pixels nearest to the centroids of the pieces (H, W), by their numbers; that
    of number 0, what is no piece, is 0."""
    sums = np.zeros((3, count + 1))
    for top in range(0, len(pieces), _ROWS_AT_ONCE):
        y, x = np.nonzero(pieces[top : top + _ROWS_AT_ONCE])
        y += top
        numbers = pieces[y, x]
        low = int(numbers.min(initial=count))
        for total, values in zip(sums, (None, y, x), strict=True):
            here = np.bincount(numbers - low, values)
            total[low : low + len(here)] += here
    at = np.rint(sums[1:] / np.maximum(sums[0], 1)).astype(int)
    return at[0], at[1]


def _piece_under(pieces: np.ndarray, points: np.ndarray) -> int:
    """The number of the piece (H, W) that most of the points (N, 2) lie on; 0 where there is none such."""
    height, width = pieces.shape
    points = points[np.isfinite(points).all(1)]
    x, y = np.floor(points).astype(int).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    counts = np.bincount(pieces[y[inside], x[inside]], minlength=2)[1:]
    return int(counts.argmax()) + 1 if 2 * counts.max() > len(points) else 0


def read_label_image(path: str | Path, photo: Photo) -> np.ndarray:
    """Label image of `photo` from a picture file, ids of `fit3d.labels`.

    8-bit grey (value = id), palette (index = id), or what a paint program makes of these: RGB with three equal
    channels, a palette in another order, RGB or RGBA in the parts' colours (`fit3d.observe.label_colours`). Lossless,
    so PNG for choice. It has the size of the photo after its EXIF orientation is applied.

    Returns:
        (H, W) uint8.

    Raises:
        LabelImageError: not readable, another size, colours or ids that are unknown.
    """
    name = str(path)
    try:
        with quiet_pillow(), Image.open(name, formats=FORMATS) as image:
            kind, size = image.format, image.size
            fits = size == (photo.width, photo.height)  # else the message below; no need to decode a huge picture
            if fits:
                image.load()
            picture = image.copy() if fits else None
    except FileNotFoundError as error:
        raise LabelImageError(f"{name}: no such label image; check the path given with --parts") from error
    except Exception as error:  # Pillow's readers raise nearly anything on broken data
        raise LabelImageError(f"{name}: not a readable label image; give an 8-bit grey or palette PNG") from error
    if picture is None:
        raise LabelImageError(
            f"{name}: the label image is {size[0]} x {size[1]} px, its photo {photo.path} is {photo.width} x "
            f"{photo.height} px (upright); give labels of the same size"
        )
    if kind == "JPEG":
        raise LabelImageError(f"{name}: JPEG blurs label ids; give an 8-bit grey or palette PNG")
    labels = _labels_of(name, picture)
    unknown = np.setdiff1d(labels, np.arange(len(PART_NAMES)))
    if unknown.size:
        shown = ", ".join(str(value) for value in unknown[:8]) + (", ..." if unknown.size > 8 else "")
        raise LabelImageError(
            f"{name}: unknown label ids {shown}; give 0 (background) to {len(PART_NAMES) - 1} (other)"
        )
    return np.array(labels, dtype=np.uint8, order="C")  # a copy: what Pillow lends cannot be written to


def _labels_of(name: str, picture: Image.Image) -> np.ndarray:
    """(H, W) uint8 ids that the pixels of an 8-bit picture stand for, which may not be known.

    Raises:
        LabelImageError: colours that are no part's, or more than 8 bits.
    """
    ids = len(PART_NAMES)
    if picture.mode == "L":
        return np.asarray(picture)
    if picture.mode == "P":
        indices = np.asarray(picture)
        used = np.unique(indices)
        by_colour = labels_of_palette(np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3), used)
        if by_colour is None and used[-1] < ids:
            return indices
        if by_colour is not None and "transparency" not in picture.info:
            return by_colour[indices]
        picture = picture.convert("RGBA")
    elif picture.mode == "LA":
        picture = picture.convert("RGBA")
    elif picture.mode not in ("RGB", "RGBA"):
        raise LabelImageError(
            f"{name}: a label image of mode {picture.mode}; give an 8-bit grey or palette PNG whose values are the ids "
            f"0 to {ids - 1}, or RGB in the parts' colours"
        )
    pixels = np.asarray(picture)
    grey = pixels[..., 0]
    if grey.max() < ids and (pixels[..., :3] == grey[..., None]).all():
        if pixels.shape[2] == 3:
            return grey
        return np.where(pixels[..., 3] < 128, BACKGROUND, grey)  # rubbed out
    try:
        return labels_of_colours(pixels)
    except UnknownColoursError as error:
        raise LabelImageError(
            f"{name}: colours that are no part's ({error}); paint, without soft edges, in the colours of "
            f"`fit3d observe`, or give an 8-bit grey or palette PNG whose values are the ids 0 to {ids - 1}"
        ) from error
