"""Fit one photo.

The shortest way from a photo to a head: `fit3d.fit` looks at the photo, fits the bundled face model to its largest
face and takes the texture. The result knows the mesh, the camera and how well the fit agrees with what was seen;
`save` writes all files to a folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import fit3d


def main() -> None:
    photo = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "astronaut.jpg"
    head = fit3d.fit(photo)

    for part, overlap in head.fit.part_iou.items():
        print(f"{part:14} {100 * overlap:5.1f} % overlap")
    camera = head.fit.camera
    print(f"the camera is {camera.cam_from_world[2, 3]:.2f} m away, its field of view {camera.fov_deg:.0f} degrees")
    strongest = sorted(zip(head.fit.expression.tolist(), head.model.expression_names, strict=True), reverse=True)[:5]
    print("expression:", ", ".join(f"{name} {value:.2f}" for value, name in strongest))
    for warning in head.warnings:
        print("warning:", warning)

    saved = head.save("out")
    print(f"files in {saved.folder}: {', '.join(path.name for path in saved.files.values())}")


if __name__ == "__main__":
    main()
