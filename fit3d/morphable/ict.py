"""ICT-FaceKit (light), USC Institute for Creative Technologies: reads the folder `FaceXModel` of its repository.

The folder holds `generic_neutral_mesh.obj`, `identity000.obj` ... `identity099.obj` (the neutral mesh plus one standard
deviation of each component), one OBJ per expression (the neutral mesh plus the expression at 1) and
`vertex_indices.json`. Centimetres, y up, z towards the viewer, the person's left is +x.

Expressions have ARKit's names, but for the letters: `browDown_L` is `browDownLeft`. Two shapes that ARKit has once,
`browInnerUp` and `cheekPuff`, ICT splits into sides; the halves stay the unknowns of the fit, because their sum as a
third one would be linearly dependent on them, and `fit3d.morphable.arkit` says which sum ARKit's name stands for.

UVs lie in seven tiles side by side, and several objects share the first. They are moved into one unit square, where no
two objects overlap, so that one texture serves the head.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fit3d.download import download
from fit3d.errors import ModelFileError
from fit3d.morphable.obj_file import ObjMesh, read_obj, read_obj_positions
from fit3d.morphable.raw import RawModel

NAME = "ict"
VERSION = "light"
LICENCE = (
    "MIT licence: results may be used for any purpose and sold; copies of the model itself must carry the notice of "
    "the USC Institute for Creative Technologies."
)
SOURCE = "ICT-FaceKit light, USC Institute for Creative Technologies, https://github.com/USC-ICT/ICT-FaceKit"
COMMIT = "da5f95a607f5e6b37755b38d3385d7f2853732e5"
"""The state of the repository that `fit3d models pull ict` downloads."""
URL = f"https://raw.githubusercontent.com/USC-ICT/ICT-FaceKit/{COMMIT}/FaceXModel/"
CONTENT_SHA256 = "35e91f52ceb7bcf3c5f6d9b34259981675f8bc66d676cec1ac1b9ee59456b049"
"""`content_sha256` of the mesh and shapes that the annotation was made for."""

FOLDER = "FaceXModel"
NEUTRAL = "generic_neutral_mesh"
INDICES = "vertex_indices.json"
LANDMARKS_KEY = "idx_to_landmark_verts"
IDENTITIES = 100
VERTICES, FACES = 26719, 26384

METRES_PER_UNIT = 0.01
FARTHEST = 10.0
"""Centimetres that no shape moves a vertex by (the farthest is 3.8): a larger step means another order of vertices."""
LARGEST_JSON = 16 * 1024 * 1024

EXPRESSIONS: tuple[str, ...] = (
    *("PupilDilate_L", "PupilDilate_R", "browDown_L", "browDown_R", "browInnerUp_L", "browInnerUp_R"),
    *("browOuterUp_L", "browOuterUp_R", "cheekPuff_L", "cheekPuff_R", "cheekRaiser_L", "cheekRaiser_R"),
    *("cheekSquint_L", "cheekSquint_R", "eyeBlink_L", "eyeBlink_R", "eyeLookDown_L", "eyeLookDown_R"),
    *("eyeLookIn_L", "eyeLookIn_R", "eyeLookOut_L", "eyeLookOut_R", "eyeLookUp_L", "eyeLookUp_R"),
    *("eyeSquint_L", "eyeSquint_R", "eyeWide_L", "eyeWide_R", "jawForward", "jawLeft", "jawOpen", "jawRight"),
    *("mouthClose", "mouthDimple_L", "mouthDimple_R", "mouthFrown_L", "mouthFrown_R", "mouthFunnel", "mouthLeft"),
    *("mouthLowerDown_L", "mouthLowerDown_R", "mouthPress_L", "mouthPress_R", "mouthPucker", "mouthRight"),
    *("mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmile_L", "mouthSmile_R"),
    *("mouthStretch_L", "mouthStretch_R", "mouthUpperUp_L", "mouthUpperUp_R", "noseSneer_L", "noseSneer_R"),
)
"""The expressions' files, without `.obj`."""

OBJECTS: dict[str, str] = {
    "M_Face": "head",
    "M_BackHead": "head",
    "M_GumsTongue": "gums_tongue",
    "M_Teeth": "teeth",
    "M_ScleraLeft": "left_eyeball",
    "M_IrisLeft": "left_eyeball",
    "M_ScleraRight": "right_eyeball",
    "M_IrisRight": "right_eyeball",
    "M_LacrimalFluid": "tear_film",
    "M_EyeBlend": "lid_blend_film",
    "M_EyeOcclusion": "lid_shadow_film",
    "M_EyeLashes": "lash_film",
}
"""Name of the piece that each material makes. '..._film' are the surfaces that engines draw mostly transparent: lash
cards, tears, and two veils that soften the edge of the eye; drawn opaque they hide it. 'eye' in a name means an
eyeball: the white with the cornea, which closes it, and the iris inside."""

UV_SQUARES: dict[tuple[str, int], tuple[float, float, float]] = {
    ("M_Face", 0): (0.0, 0.0, 0.72),
    ("M_BackHead", 1): (0.72, 0.0, 0.28),
    ("M_GumsTongue", 2): (0.72, 0.28, 0.28),
    ("M_Teeth", 3): (0.28, 0.72, 0.28),
    ("M_ScleraLeft", 0): (0.0, 0.72, 0.14),
    ("M_ScleraRight", 0): (0.0, 0.86, 0.14),
    ("M_IrisLeft", 0): (0.14, 0.72, 0.14),
    ("M_IrisRight", 0): (0.14, 0.86, 0.14),
    ("M_LacrimalFluid", 4): (0.72, 0.56, 0.14),
    ("M_LacrimalFluid", 5): (0.86, 0.56, 0.14),
    ("M_EyeLashes", 6): (0.56, 0.72, 0.16),
    ("M_EyeOcclusion", 0): (0.72, 0.70, 0.14),
    ("M_EyeBlend", 0): (0.86, 0.70, 0.14),
}
"""Where the unit square of a material's UVs in a tile comes to lie: left, bottom and side."""


def read_ict(folder: Path) -> RawModel:
    """The model in a checkout of ICT-FaceKit, or in its folder `FaceXModel`.

    Raises:
        ModelFileError: a file is missing, damaged or of another topology.
    """
    folder = find_folder(folder)
    landmarks68 = _landmarks(folder / INDICES)
    mesh = read_obj(folder / f"{NEUTRAL}.obj")
    if len(mesh.vertices) != VERTICES or len(mesh.faces) != FACES:
        raise ModelFileError(
            f"{folder / NEUTRAL}.obj: {len(mesh.vertices)} vertices and {len(mesh.faces)} faces, expected {VERTICES} "
            f"and {FACES}; the file is truncated or of another version of ICT-FaceKit"
        )
    objects = tuple(dict.fromkeys(OBJECTS.values()))
    by_material = np.array([objects.index(_known(OBJECTS, name, folder)) for name in mesh.materials], np.uint8)
    identity = np.stack([_shape(folder, f"identity{index:03d}", mesh) for index in range(IDENTITIES)])
    expression = np.stack([_shape(folder, name, mesh) for name in EXPRESSIONS])
    sha256 = content_sha256(mesh, identity, expression)
    return RawModel(
        name=NAME,
        version=VERSION if sha256 == CONTENT_SHA256 else f"{VERSION}, another revision",
        licence=LICENCE,
        source=SOURCE,
        mean=((mesh.vertices - _middle_of_eyes(mesh, folder)) * METRES_PER_UNIT).astype(np.float32),
        identity=identity * np.float32(METRES_PER_UNIT),
        expression=expression * np.float32(METRES_PER_UNIT),
        expression_names=tuple(arkit_name(name) for name in EXPRESSIONS),
        expression_bounds=np.tile(np.array([0.0, 1.0], np.float32), (len(EXPRESSIONS), 1)),
        faces=mesh.faces,
        uv=_one_square(mesh, folder),
        uv_faces=mesh.uv_faces,
        objects=objects,
        face_objects=by_material[mesh.face_materials],
        landmarks68=landmarks68,
        sha256=sha256,
    )


def pull_ict(folder: Path, on_file: Callable[[str], None], url: str) -> RawModel:
    """The model from its public repository, downloaded into `folder` and checked.

    Args:
        folder: what has come of an interrupted download stays there; a download that is damaged is deleted.
        on_file: told the name of each of `file_names()` when it is there.
        url: `URL`, or where else the repository's folder `FaceXModel` lies; ends in '/'.

    Raises:
        UsageError: the network fails.
        ModelFileError: what came is not what the annotation was made for.
    """
    download(url, file_names(), folder, on_file)
    try:
        raw = read_ict(folder)
        if raw.sha256 != CONTENT_SHA256:
            raise ModelFileError(f"SHA-256 {raw.sha256[:12]}..., expected {CONTENT_SHA256[:12]}...")
        return raw
    except ModelFileError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ModelFileError(
            f"what came from {url} is not ICT-FaceKit as expected and was deleted: {error}; run the same command "
            "again, or add a checkout with: fit3d models add ict --from FOLDER"
        ) from error


def file_names() -> tuple[str, ...]:
    """What `read_ict` reads of the folder `FaceXModel`."""
    shapes = [NEUTRAL, *(f"identity{index:03d}" for index in range(IDENTITIES)), *EXPRESSIONS]
    return (INDICES, *(f"{name}.obj" for name in shapes))


def find_folder(folder: Path) -> Path:
    """The folder `FaceXModel`, given it or the checkout that it lies in."""
    for found in (folder, folder / FOLDER):
        if (found / f"{NEUTRAL}.obj").is_file():
            return found
    raise ModelFileError(
        f"{folder}: no {NEUTRAL}.obj in it or in {FOLDER}/; expected a checkout of https://github.com/USC-ICT/ICT-FaceKit"
    )


def arkit_name(name: str) -> str:
    """ARKit's spelling of ICT's name of an expression."""
    side = {"L": "Left", "R": "Right"}.get(name[-1:], "") if name[-2:-1] == "_" else ""
    stem = name[:-2] if side else name
    return stem[:1].lower() + stem[1:] + side


def content_sha256(mesh: ObjMesh, identity: np.ndarray, expression: np.ndarray) -> str:
    """SHA-256 of the numbers that the files hold, whatever their comments, line ends and zeros' signs.

    Args:
        mesh: the neutral mesh, centimetres.
        identity, expression: (100, V, 3), (57, V, 3) float32 differences from it.
    """
    digest = hashlib.sha256()
    for array in (mesh.vertices, mesh.faces, mesh.uv, mesh.uv_faces, identity, expression):
        digest.update((array + array.dtype.type(0)).astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _shape(folder: Path, name: str, neutral: ObjMesh) -> np.ndarray:
    """(V, 3) float32, centimetres: what the shape adds to the neutral mesh."""
    path = folder / f"{name}.obj"
    step = read_obj_positions(path, len(neutral.vertices)) - neutral.vertices
    farthest = float(np.abs(step).max())
    if farthest > FARTHEST:
        raise ModelFileError(
            f"{path}: moves a vertex by {farthest:.0f} cm; the order of its vertices is not that of {NEUTRAL}.obj"
        )
    return step


def _middle_of_eyes(mesh: ObjMesh, folder: Path) -> np.ndarray:
    """(3,) float32, centimetres: midway between the centres of the spheres that fit the two whites best."""
    place = {name: index for index, name in enumerate(mesh.materials)}
    centres = []
    for side in ("M_ScleraLeft", "M_ScleraRight"):
        ids = mesh.faces[mesh.face_materials == _known(place, side, folder)]
        points = mesh.vertices[np.unique(ids[ids >= 0])].astype(np.float64)
        # |p|^2 = 2 c.p + (r^2 - |c|^2), linear in c and the bracket
        columns = np.column_stack([2.0 * points, np.ones(len(points))])
        centres.append(np.linalg.lstsq(columns, (points**2).sum(1), rcond=None)[0][:3])
    return np.mean(centres, axis=0, dtype=np.float64).astype(np.float32)


def _one_square(mesh: ObjMesh, folder: Path) -> np.ndarray:
    """(U, 2) float32: the UVs in one unit square."""
    uv = mesh.uv.copy()
    for index, material in enumerate(mesh.materials):
        ids = mesh.uv_faces[mesh.face_materials == index]
        ids = np.unique(ids[ids >= 0])
        tiles = np.floor(mesh.uv[ids, 0]).astype(int)
        for tile in np.unique(tiles):
            left, bottom, side = _known(UV_SQUARES, (material, int(tile)), folder)
            chosen = ids[tiles == tile]
            uv[chosen] = np.array([left, bottom]) + side * (mesh.uv[chosen] - np.array([tile, 0]))
    return uv


def _known(table: dict[Any, Any], key: Any, folder: Path) -> Any:
    if key not in table:
        raise ModelFileError(
            f"{folder / NEUTRAL}.obj: its materials and UVs are not ICT-FaceKit's (at {key}); the file is of another "
            "version"
        )
    return table[key]


def _landmarks(path: Path) -> np.ndarray:
    """(68,) int64: the vertices of the iBUG-68 landmarks."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"larger than {LARGEST_JSON // 1024**2} MB")
        ids = json.loads(path.read_text(encoding="utf-8"))[LANDMARKS_KEY]
        if len(ids) != 68 or not all(type(i) is int and 0 <= i < VERTICES for i in ids):
            raise ValueError(f"'{LANDMARKS_KEY}' must be 68 vertex ids")
        return np.array(ids, np.int64)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot read the file ({error.strerror})") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ModelFileError(f"{path}: not the indices of ICT-FaceKit: {what}") from error
