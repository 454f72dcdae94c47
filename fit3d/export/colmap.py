"""The photo's camera as COLMAP's text files, which photogrammetry programs and NeRF tools read.

COLMAP's camera frame and pixel centres are those of `fit3d.camera` (x right, y down, z forward; the centre of the
top-left pixel is (0.5, 0.5)), so nothing is converted. Format: colmap.github.io/format.html.
"""

from __future__ import annotations

from pathlib import Path

from scipy.spatial.transform import Rotation

from fit3d.camera import Camera
from fit3d.export.files import write_text

COLMAP_FILES = ("cameras.txt", "images.txt", "points3D.txt")


def write_colmap(folder: str | Path, camera: Camera, photo_name: str) -> tuple[Path, ...]:
    """Write `COLMAP_FILES` to `folder`: one camera, one image, no points. Returns their paths.

    Args:
        folder: is made where it is missing.
        camera: of the photo; its world is the one the head is exported in, metres.
        photo_name: the photo's file name, by which COLMAP finds it in its image folder.
    """
    paths = tuple(Path(folder) / name for name in COLMAP_FILES)
    for path, text in zip(paths, colmap_texts(camera, photo_name), strict=True):
        write_text(path, text)
    return paths


def colmap_texts(camera: Camera, photo_name: str) -> tuple[str, str, str]:
    """The texts of `COLMAP_FILES`."""
    cx, cy = camera.principal_px
    lens = " ".join(f"{value:.9g}" for value in (camera.focal_px, camera.focal_px, cx, cy))
    pose = camera.cam_from_world.double().numpy()
    x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat(canonical=True)
    place = " ".join(f"{value + 0.0:.9g}" for value in (w, x, y, z, *pose[:3, 3]))
    name = " ".join(photo_name.split())  # the rest of the line is the name
    return (
        f"# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy\n1 PINHOLE {camera.width} {camera.height} {lens}\n",
        f"# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then POINTS2D[]\n1 {place} 1 {name}\n\n",
        "# POINT3D_ID X Y Z R G B ERROR TRACK[]\n",
    )
