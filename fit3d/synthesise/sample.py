"""The files of one edit: image, label image, and a JSON with all that is known of it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from fit3d import __version__
from fit3d.batch.storage import Storage
from fit3d.export.files import picture_bytes
from fit3d.export.result_json import LANDMARK_DECIMALS, camera_dict, plain, result_text
from fit3d.labels import PART_NAMES
from fit3d.reconstruction import Reconstruction
from fit3d.synthesise.confirm import Confirmation
from fit3d.synthesise.edit import Edit
from fit3d.synthesise.options import Draw, ImageFormat
from fit3d.synthesise.record import sample_files

SCHEMA_VERSION = 1
"""Of the JSON; raised when a field changes its meaning or vanishes."""
JPEG_QUALITY = 95


@dataclass(frozen=True)
class EncodedEdit:
    """An edit as its image file holds it."""

    edit: Edit
    """Its image is the file's, decoded."""
    content: bytes
    """Of the image file."""


def encode(edit: Edit, image_format: ImageFormat) -> EncodedEdit:
    """The bytes of the image file, and the edit as whoever reads the file sees it."""
    content = picture_bytes(Image.fromarray(edit.image), image_format, JPEG_QUALITY)
    if image_format == "png":
        return EncodedEdit(edit, content)
    with Image.open(io.BytesIO(content)) as image:
        return EncodedEdit(replace(edit, image=np.asarray(image)), content)


def sample_dict(
    reconstruction: Reconstruction, photo: str, draw: Draw, edit: Edit, confirmation: Confirmation, image: str
) -> dict[str, Any]:
    """The content of an edit's JSON: plain dicts, lists, strings, numbers and None.

    Args:
        reconstruction: of the photo.
        photo: its name in the folder of photos.
        draw: which edit it is.
        edit: what it came to.
        confirmation: what detector and parser saw in it.
        image: name of the image file, without folder.
    """
    model, observation, fit = reconstruction.model, reconstruction.observation, reconstruction.fit
    _, parts, _ = sample_files(image)
    camera = edit.camera
    return plain(
        {
            "schema": SCHEMA_VERSION,
            "fit3d_version": __version__,
            "image": {"file": image, "parts": parts, "width": camera.width, "height": camera.height},
            "part_names": list(PART_NAMES),
            "photo": {
                "path": photo,
                "sha256": reconstruction.photo.sha256,
                "width": reconstruction.photo.width,
                "height": reconstruction.photo.height,
                "face": reconstruction.source.face,
            },
            "recipe": asdict(draw.recipe),
            "index": draw.index,
            "seed": draw.seed,
            "model": {"name": model.name, "version": model.version, "licence": model.licence, "source": model.source},
            "parameters": {
                "identity": edit.identity,
                "expression": edit.expression,
                "photo_expression": dict(zip(model.expression_names, fit.expression.tolist(), strict=True)),
            },
            "camera": camera_dict(camera, reconstruction.source.focal),
            "landmarks": {
                layout: {"points_px": np.round(each.points_px, LANDMARK_DECIMALS), "visible": each.visible}
                for layout, each in edit.landmarks.items()
            },
            "fit": {"part_iou": fit.part_iou, "landmark_nme": fit.landmark_nme},
            "confirmation": {
                "is_confirmed": confirmation.is_confirmed,
                "reasons": list(confirmation.reasons),
                "landmark_nme": confirmation.landmark_nme,
                "part_iou": confirmation.part_iou,
                "landmark_backend": asdict(observation.landmarks.backend),
                "parser_backend": asdict(observation.parser),
            },
        }
    )


def write_sample(out: Storage, image: str, content: bytes, parts: np.ndarray, sample: Mapping[str, Any]) -> str:
    """Write an edit whose image is `image`, relative to OUT; the JSON last, as it means that the others are there.

    Returns:
        The SHA-256 of all three, one after the other.
    """
    # without a palette, which loaders of training data would turn into colours
    label_content = picture_bytes(Image.fromarray(np.ascontiguousarray(parts)), "png")
    text = result_text(sample).encode()
    _, parts_file, json_file = sample_files(image)
    out.remove(json_file)
    out.write(image, content)
    out.write(parts_file, label_content)
    out.write(json_file, text)
    return hashlib.sha256(content + label_content + text).hexdigest()
