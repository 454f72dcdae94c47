"""Draws README's picture from the example photo: the overlay as `fit3d fit` writes it.

Run from the top of a checkout, in the environment of README's commands: `python docs/draw_readme_picture.py`.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch

import fit3d

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Write docs/astronaut.jpg."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        saved = fit3d.fit(ROOT / "examples" / "astronaut.jpg").save(folder)
        shutil.copyfile(saved.files["overlay"], ROOT / "docs" / "astronaut.jpg")


if __name__ == "__main__":
    main()
