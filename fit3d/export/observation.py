"""The files of what was found in a photo, which can be corrected by hand and given back: see docs/correcting.md."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from fit3d import __version__
from fit3d.export.files import write_image, write_labels, write_text
from fit3d.export.result_json import CONFIDENCE_DECIMALS, LANDMARK_DECIMALS, plain, result_text
from fit3d.observe.base import Landmarks, Observation
from fit3d.observe.landmark_file import MOST_BYTES, pts_text
from fit3d.photo import Photo
from fit3d.render.overlay import observation_picture

SCHEMA_VERSION = 1
"""Of the landmarks' JSON; raised when a field changes its meaning or vanishes."""

_EDITABLE = ("pts", "labelme", "parts")
"""Kinds of files, beside the landmarks' JSON, that people edit."""


def observation_names(stem: str) -> dict[str, str]:
    """Names of an observation's files by kind."""
    return {
        "landmarks": f"{stem}_landmarks.json",
        "pts": f"{stem}.pts",
        "labelme": f"{stem}_labelme.json",
        "parts": f"{stem}_parts.png",
        "picture": f"{stem}_observation.jpg",
    }


def write_observation(folder: Path, stem: str, photo: Photo, observation: Observation, face: int) -> dict[str, Path]:
    """Write the files of face number `face` to `folder`.

    Returns:
        Them by kind: 'landmarks', 'pts', 'labelme', 'parts', 'picture'; 'labelme', which opens the photo by its path,
        only where that is a file.

    Raises:
        UsageError: the folder cannot be written to, or the disk is full.
    """
    files = {kind: folder / name for kind, name in observation_names(stem).items()}
    write_text(files["pts"], pts_text(observation.landmarks.points_px))
    if Path(photo.path).is_file():
        write_text(files["labelme"], result_text(labelme_dict(photo, observation.landmarks)))
    else:
        del files["labelme"]
    write_labels(files["parts"], observation.parts)
    write_image(files["picture"], observation_picture(photo, observation))
    record = landmarks_dict(photo, observation.landmarks, face)
    digests = {files[kind].name: _file_digest(files[kind]) for kind in _EDITABLE if kind in files}
    record["written_sha256"] = digests | {files["landmarks"].name: _record_digest(record)}
    write_text(files["landmarks"], result_text(record))
    return files


def edited_file(folder: Path, stem: str) -> Path | None:
    """The first of an observation's files in `folder` that is not as `write_observation` wrote it, or None.

    Each counts as edited where `<stem>_landmarks.json` does not tell how it was written.
    """
    names = observation_names(stem)
    landmarks = folder / names["landmarks"]
    record, digests = {}, {}
    try:
        if landmarks.is_file():
            if landmarks.stat().st_size > MOST_BYTES:
                return landmarks
            record = json.loads(landmarks.read_text(encoding="utf-8"))
            digests = record.pop("written_sha256")
            if digests[landmarks.name] != _record_digest(record):
                return landmarks
        for path in (folder / names[kind] for kind in _EDITABLE):
            if path.is_file() and digests.get(path.name) != _file_digest(path):
                return path
    except OSError:
        return None  # what cannot be read cannot be written to either, which says why
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return landmarks
    return None


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _record_digest(record: dict[str, Any]) -> str:
    """Of what it says, however an editor lays it out."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


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
