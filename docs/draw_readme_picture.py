"""Draws README's picture from the example photo: the overlay as `fit3d fit` writes it, and the head turned.

Run from the top of a checkout, in the environment of README's commands: `python docs/draw_readme_picture.py`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import fit3d
from fit3d.render.overlay import contact_view

ROOT = Path(__file__).resolve().parent.parent
YAWS_DEG = (-60.0, -25.0, 0.0, 25.0, 60.0)


def main() -> None:
    """Write docs/astronaut.jpg."""
    head = fit3d.fit(ROOT / "examples" / "astronaut.jpg")
    with tempfile.TemporaryDirectory() as folder:
        overlay = Image.open(head.save(folder).files["overlay"]).convert("RGB")
    textured = Image.fromarray(contact_view(head.vertices, head.model, head.texture, size=420, yaws_deg=YAWS_DEG))
    textured = textured.resize(
        (overlay.width, round(textured.height * overlay.width / textured.width)), Image.Resampling.LANCZOS
    )
    picture = Image.fromarray(np.vstack([np.asarray(overlay), np.asarray(textured)]))
    picture.save(ROOT / "docs" / "astronaut.jpg", quality=88)


if __name__ == "__main__":
    main()
