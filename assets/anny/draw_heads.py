"""Draws the mean head and random heads of the bundled model, to judge by eye whether they are people.

Run it from the top of a checkout: `python assets/anny/draw_heads.py [--seed 0] [--picture docs/random_heads.jpg]`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fit3d.morphable.anny import load_anny
from fit3d.render.overlay import contact_view

ROWS, COLUMNS = 6, 4
HEAD_PX = 150


def main(
    seed: Annotated[int, typer.Option(help="Seed of the random heads.")] = 0,
    picture: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("docs/random_heads.jpg"),
) -> None:
    """24 heads from the front and from three quarters: the mean head first, then identities drawn from the prior."""
    model = load_anny()
    generator = torch.Generator().manual_seed(seed)
    silent = torch.zeros(len(model.expression))
    identities = torch.randn(ROWS * COLUMNS, len(model.identity), generator=generator)
    identities[0] = 0.0
    drawn = [
        contact_view(model.vertices(identity, silent), model, size=HEAD_PX, yaws_deg=(0.0, 40.0))
        for identity in identities
    ]
    rows = [np.concatenate(drawn[COLUMNS * row : COLUMNS * (row + 1)], axis=1) for row in range(ROWS)]
    Image.fromarray(np.concatenate(rows, axis=0)).save(picture, quality=88)


if __name__ == "__main__":
    typer.run(main)
