"""Turn the head.

A fitted head is an ordinary mesh in metres. Here it is drawn from five sides in clay and with its texture, first as in
the photo and then without expression, with the small renderer that fit3d uses for its own pictures; any 3D tool does
the same with the OBJ file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import fit3d
from fit3d.render.overlay import contact_view

SIZE_PX = 320
YAWS_DEG = (-70.0, -35.0, 0.0, 35.0, 70.0)


def main() -> None:
    photo = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "astronaut.jpg"
    head = fit3d.fit(photo)
    rows = [
        contact_view(vertices, head.model, texture, size=SIZE_PX, yaws_deg=YAWS_DEG)
        for vertices in (head.vertices, head.neutral_vertices)
        for texture in (None, head.texture)
    ]
    Path("out").mkdir(exist_ok=True)
    Image.fromarray(np.vstack(rows)).save("out/turned.png")
    print("out/turned.png: with expression above, without below")


if __name__ == "__main__":
    main()
