"""The files of what was found in a photo, which can be corrected by hand and given back: see docs/correcting.md."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from fit3d import __version__
from fit3d.export.files import write_image, write_labels, write_text
from fit3d.export.result_json import CONFIDENCE_DECIMALS, LANDMARK_DECIMALS, plain, result_text
from fit3d.observe.base import Landmarks, Observation
from fit3d.observe.landmark_file import pts_text
from fit3d.photo import Photo
from fit3d.render.overlay import observation_picture

SCHEMA_VERSION = 1
"""Of the landmarks' JSON; raised when a field changes its meaning or vanishes."""


def write_observation(folder: Path, stem: str, photo: Photo, observation: Observation, face: int) -> dict[str, Path]:
    """Write the files of face number `face` to `folder`.

    Returns:
        Them by kind: 'landmarks', 'pts', 'labelme', 'parts', 'picture'.

    Raises:
        UsageError: the folder cannot be written to, or the disk is full.
    """
    files = {
        "landmarks": folder / f"{stem}_landmarks.json",
        "pts": folder / f"{stem}.pts",
        "labelme": folder / f"{stem}_labelme.json",
        "parts": folder / f"{stem}_parts.png",
        "picture": folder / f"{stem}_observation.jpg",
    }
    write_text(files["pts"], pts_text(observation.landmarks.points_px))
    write_text(files["labelme"], result_text(labelme_dict(photo, observation.landmarks)))
    write_labels(files["parts"], observation.parts)
    write_image(files["picture"], observation_picture(photo, observation))
    write_text(files["landmarks"], result_text(landmarks_dict(photo, observation.landmarks, face)))
    return files


def landmarks_dict(photo: Photo, landmarks: Landmarks, face: int) -> dict[str, Any]:
    """The landmarks of face number `face` as `fit3d.observe.landmark_file` reads them back: plain dicts, lists,
    strings, numbers and None, for what is missing or not told."""
    return plain(
        {
            "schema": SCHEMA_VERSION,
            "fit3d_version": __version__,
            "photo": {"path": photo.path, "width": photo.width, "height": photo.height, "sha256": photo.sha256},
            "face": face,
            "backend": dataclasses.asdict(landmarks.backend),
            "layout": landmarks.layout,
            "landmarks_px": np.round(landmarks.points_px, LANDMARK_DECIMALS),
            "confidence": None if landmarks.confidence is None else np.round(landmarks.confidence, CONFIDENCE_DECIMALS),
        }
    )


def labelme_dict(photo: Photo, landmarks: Landmarks) -> dict[str, Any]:
    """The landmarks as labelme opens them over the photo: a point for each that is present, labelled by its number
    from 0."""
    return plain(
        {
            "version": "5.0.0",
            "flags": {},
            "imagePath": str(Path(photo.path).resolve()),
            "imageData": None,
            "imageWidth": photo.width,
            "imageHeight": photo.height,
            "layout": landmarks.layout,
            "shapes": [
                {
                    "label": str(number),
                    "points": [point],
                    "group_id": None,
                    "description": "",
                    "shape_type": "point",
                    "flags": {},
                }
                for number, point in enumerate(np.round(landmarks.points_px, LANDMARK_DECIMALS).tolist())
                if np.isfinite(point).all()
            ],
        }
    )
