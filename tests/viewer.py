"""Results for the viewer's tests, made without a fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fit3d.camera import Camera
from fit3d.morphable.model import MorphableModel
from synthetic import synthetic_camera, synthetic_identity

SKIN = (200, 150, 120)
"""The one colour of the texture."""
DISC, DISC_RADIUS = (40.0, 60.0), 14
"""A blue disc in the upper left of the photo, px."""


def turned_camera() -> Camera:
    """Looks at a turned and rolled head, off the middle of the picture."""
    return replace(synthetic_camera(width=360, height=480, yaw_deg=25.0, roll_deg=12.0), principal_px=(150.0, 250.0))


def write_result(
    folder: Path, model: MorphableModel, camera: Camera, seed: int = 0, **changes: Any
) -> tuple[Path, torch.Tensor, torch.Tensor]:
    """A result in `folder`: its JSON with `changes` of the content, the photo and the texture.

    Returns the JSON's path, identity (K,) and expression (L,)."""
    folder.mkdir(parents=True)
    identity = synthetic_identity(model, seed).double()
    names, bounds = model.expression_names, model.expression_bounds.double()
    share = torch.rand(len(names), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expression = bounds[:, 0] + 0.2 * share * (bounds[:, 1] - bounds[:, 0])
    y, x = np.mgrid[: camera.height, : camera.width] + 0.5
    photo = np.full((camera.height, camera.width, 3), (90, 140, 90), np.uint8)
    photo[np.hypot(x - DISC[0], y - DISC[1]) < DISC_RADIUS] = (0, 0, 255)
    photo_path = folder / "photo.png"
    Image.fromarray(photo).save(photo_path)
    Image.fromarray(np.full((64, 64, 3), SKIN, np.uint8)).save(folder / f"{folder.name}_texture.png")
    content: dict[str, Any] = {
        "schema": 1,
        "status": "ok",
        "photo": {"path": str(photo_path), "sha256": "-"},
        "model": {"name": model.name, "version": model.version},
        "parameters": {
            "identity": identity.tolist(),
            "expression": dict(zip(names, expression.tolist(), strict=True)),
        },
        "camera": {
            "width": camera.width,
            "height": camera.height,
            "focal_px": camera.focal_px,
            "principal_px": list(camera.principal_px),
            "cam_from_world": camera.cam_from_world.tolist(),
        },
    }
    path = folder / f"{folder.name}.json"
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path, identity, expression
