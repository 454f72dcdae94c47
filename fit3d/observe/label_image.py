"""The user's own label image in place of a parser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fit3d import __version__
from fit3d.errors import LabelImageError
from fit3d.labels import PART_NAMES
from fit3d.observe.base import Backend, Landmarks
from fit3d.photo import Photo, quiet_pillow


class LabelImage:
    """`FaceParser` that says what a file says: the same labels for every face of the photo."""

    def __init__(self, path: str | Path) -> None:
        self.backend = Backend("label_image", __version__)
        self._path = path

    def parse(self, photo: Photo, landmarks: Landmarks) -> np.ndarray:
        """(H, W) uint8 label image, see `read_label_image`."""
        return read_label_image(self._path, photo)


def read_label_image(path: str | Path, photo: Photo) -> np.ndarray:
    """Label image of `photo` from a picture file, ids of `fit3d.labels`.

    8-bit grey (value = id), palette (index = id), or RGB with three equal channels; lossless, so PNG for choice. It
    has the size of the photo after its EXIF orientation is applied.

    Returns:
        (H, W) uint8.

    Raises:
        LabelImageError: not readable, another size, colours in place of ids, or unknown ids.
    """
    name = str(path)
    try:
        with quiet_pillow(), Image.open(name) as image:
            kind, size = image.format, image.size
            if size == (photo.width, photo.height):  # else the message below; no need to decode a huge picture
                image.load()
            labels = np.asarray(image) if size == (photo.width, photo.height) else None
            mode = image.mode
    except FileNotFoundError as error:
        raise LabelImageError(f"{name}: no such label image; check the path given with --parts.") from error
    except Exception as error:  # Pillow's readers raise nearly anything on broken data
        raise LabelImageError(f"{name}: not a readable label image; give an 8-bit grey or palette PNG.") from error
    if labels is None:
        raise LabelImageError(
            f"{name}: the label image is {size[0]} x {size[1]} px, its photo {photo.path} is {photo.width} x "
            f"{photo.height} px (upright); give labels of the same size."
        )
    if kind == "JPEG":
        raise LabelImageError(f"{name}: JPEG blurs label ids; give an 8-bit grey or palette PNG.")
    if mode == "RGB" and (labels == labels[..., :1]).all():
        labels = labels[..., 0]
    elif mode not in ("L", "P"):
        raise LabelImageError(
            f"{name}: a label image of mode {mode} with colours or more than 8 bits; give an 8-bit grey or palette PNG "
            f"whose values are the ids 0 to {len(PART_NAMES) - 1}."
        )
    unknown = np.setdiff1d(labels, np.arange(len(PART_NAMES)))
    if unknown.size:
        shown = ", ".join(str(value) for value in unknown[:8]) + (", ..." if unknown.size > 8 else "")
        raise LabelImageError(
            f"{name}: unknown label ids {shown}; known are 0 (background) to {len(PART_NAMES) - 1} (other)."
        )
    return np.array(labels, dtype=np.uint8, order="C")  # a copy: what Pillow lends cannot be written to
