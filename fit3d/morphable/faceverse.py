"""Reads FaceVerse, all versions that its makers have given out: an .npy file that holds a pickled dict.

Wang, Chen, Yu, Ma, Li, Liu: FaceVerse, a Fine-grained and Detail-controllable 3D Face Morphable Model from a Hybrid
Dataset, CVPR 2022. The layout is what their own code reads: https://github.com/LizhenWangT/FaceVerse,
`model/FaceVerseModel.py` (versions 0 to 2) and `faceversev3_jittor/faceverse_cuda/FaceVerseModel.py` (3);
https://github.com/LizhenWangT/FaceVerse_v4, `faceversev4/FaceVerseModel_torch.py` (4). Entries read here, V vertices:

    meanshape                 (V, 3) or 3V numbers, x, y, z of one vertex after another
    idBase, exBase            (3V, K), (3V, L), or with an axis for x, y, z; a head is meanshape + idBase a + exBase b
    tri                       (T, 3), from 0
    exp_name_list             from version 2: ARKit's names of the expressions, where there are as many as these
    keypoints                 to version 2: iBUG's landmarks, 68 or without the corners inside the mouth 66
    mediapipe_keypoints       version 3; `keypoints_mediapipe` in version 4: 478 of MediaPipe's
    ver_inds                  from version 3: vertices up to [0] are the head, to [1] and [2] the eyeballs, then teeth
                              and tongue

The files do not say which way the head looks and in which unit: versions 1 to 3 have y down and z away from the viewer,
versions 3 and 4 are in millimetres, the older ones in none. So both are found from the landmarks: each axis is turned
as eyes, nose and chin have it, and the unit is the one of m, dm, cm and mm in which the outer corners of the eyes are
as far apart as an adult's; where none is, the mean head is scaled to a mean adult's `EYES_M`.

Coefficients of identity are standard normal as the makers draw them. Named expressions are ARKit's, from 0 to 1, the
others are components bounded to three standard deviations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fit3d.errors import ModelFileError
from fit3d.morphable.arrays import LIDS_TO_EYEBALL_M, MOST_COMPONENTS, MOST_VERTICES, faces_of, ids, numbers, outward
from fit3d.morphable.raw import RawModel
from fit3d.morphable.restricted_pickle import load_npy

NAME = "faceverse"
LICENCE = (
    "Not for sale without asking: the makers' dataset is for non-commercial research only (Tsinghua University), and "
    "the model itself states no licence; their BSD 2-Clause licence is that of the code."
)
LICENCE_URL = "https://github.com/LizhenWangT/FaceVerse-Dataset#agreement"
SOURCE = "FaceVerse, Tsinghua University and Ant Group (Wang et al. 2022), https://github.com/LizhenWangT/FaceVerse"
COMPONENT_BOUND = 3.0
"""Standard deviations."""
EYES_M = 0.089
"""Between the outer corners of a mean adult's eyes."""
LEAST_EYES_M, GREATEST_EYES_M = 0.07, 0.11
UNITS_M = (1.0, 0.1, 0.01, 0.001)
MARKS: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, int], int, int]] = {
    "keypoints_mediapipe": ((33, 133, 159, 145), (263, 362, 386, 374), (33, 263), 4, 152),
    "mediapipe_keypoints": ((33, 133, 159, 145), (263, 362, 386, 374), (33, 263), 4, 152),
    "keypoints": ((36, 37, 38, 39, 40, 41), (42, 43, 44, 45, 46, 47), (36, 45), 30, 8),
}
"""By entry of the file: landmarks of the right and of the left eye, their outer corners, the tip of the nose, and the
chin."""


def read_faceverse(path: Path, name: str = NAME) -> RawModel:
    """FaceVerse as downloaded: `faceverse_simple_v2.npy`, `faceverse_v3_1.npy`, `faceverse_v4_2.npy` or an older one.

    Raises:
        ModelFileError: the file is truncated, asks for more than numbers, or is another model.
    """
    content = load_npy(path)
    try:
        if not isinstance(content, dict):
            raise ValueError("holds no dict")
        marks_key = next((key for key in MARKS if key in content), None)
        lacking = [key for key in ("meanshape", "idBase", "exBase", "tri") if key not in content]
        if lacking or marks_key is None:
            raise ValueError(f"lacks {', '.join(lacking or ['landmarks'])}")
        mean = numbers(np.ravel(content["meanshape"]), "meanshape", (None,))
        if len(mean) % 3 or not 0 < len(mean) <= 3 * MOST_VERTICES:
            raise ValueError(f"meanshape has {len(mean)} numbers, expected three per vertex")
        mean = mean.reshape(-1, 3)
        identity, expression = (_basis(content[key], key, len(mean)) for key in ("idBase", "exBase"))
        triangles = ids(content["tri"], "tri", (None, 3), len(mean))
        right, left, corners, nose, chin = MARKS[marks_key]
        marks = ids(np.ravel(content[marks_key]), marks_key, (None,), len(mean))
        if len(marks) <= max(*right, *left, nose, chin):
            raise ValueError(f"{marks_key} has {len(marks)} landmarks")
        place = mean[marks]
        eyes = np.stack([place[list(right)].mean(0), place[list(left)].mean(0)])
        # the way from right to left, from chin up to the eyes, and from the eyes out to the tip of the nose
        ways = eyes[1, 0] - eyes[0, 0], eyes[:, 1].mean() - place[chin, 1], place[nose, 2] - eyes[:, 2].mean()
        apart = float(np.linalg.norm(place[corners[0]] - place[corners[1]]))
        if not (min(abs(way) for way in ways) > 0.05 * apart > 0.0):
            raise ValueError("its landmarks are not those of a face that looks along z")
        pieces, piece_of = _pieces(content.get("ver_inds"), mean[:, 0] * np.sign(ways[0]), triangles)
        names, bounds = _expressions(content.get("exp_name_list"), len(expression))
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}; expected FaceVerse's .npy file") from error
    scale = next((unit for unit in UNITS_M if LEAST_EYES_M < apart * unit < GREATEST_EYES_M), EYES_M / apart)
    turn = np.sign(ways) * scale
    mean = mean * turn
    origin = eyes.mean(0) * turn + LIDS_TO_EYEBALL_M
    older = "2" if "exp_name_list" in content else "0 or 1"
    version = {"keypoints_mediapipe": "4", "mediapipe_keypoints": "3"}.get(marks_key, older)
    faces = faces_of(outward(triangles, mean))
    return RawModel(
        name=name,
        version=version,
        licence=LICENCE,
        source=f"{SOURCE}, {path.name}",
        mean=(mean - origin).astype(np.float32),
        identity=(identity * turn).astype(np.float32),
        expression=(expression * turn).astype(np.float32),
        expression_names=names,
        expression_bounds=bounds,
        faces=faces,
        uv=np.zeros((0, 2), np.float32),
        uv_faces=np.zeros_like(faces),
        objects=pieces,
        face_objects=piece_of,
    )


def _basis(value: Any, what: str, vertices: int) -> np.ndarray:
    """(K, V, 3) float64 of a basis (3V, K) or (V, 3, K)."""
    array = np.asarray(value)
    if array.ndim == 3 and array.shape[:2] == (vertices, 3):
        array = array.reshape(3 * vertices, -1)
    if array.ndim == 2 and not 0 < array.shape[1] <= MOST_COMPONENTS:
        raise ValueError(f"{what} has {array.shape[1]} components")
    return numbers(array, what, (3 * vertices, None)).T.reshape(-1, vertices, 3)


def _expressions(names: Any, count: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and bounds (L, 2) of the expressions."""
    if isinstance(names, (list, tuple)) and len(names) == count and all(isinstance(name, str) for name in names):
        if not all(name.isidentifier() and name.isascii() and len(name) < 64 for name in names):
            raise ValueError("exp_name_list holds what is no name")
        return tuple(names), np.tile(np.array([0.0, 1.0], np.float32), (count, 1))
    digits = len(str(max(count - 1, 0)))
    bounds = np.array([-COMPONENT_BOUND, COMPONENT_BOUND], np.float32)
    return tuple(f"expression_{k:0{digits}d}" for k in range(count)), np.tile(bounds, (count, 1))


def _pieces(ends: Any, to_left: np.ndarray, triangles: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the pieces and the piece (T,) of each triangle, from where the vertices of each end and how far to the
    person's left (V,) each lies; one piece where the file does not tell."""
    if ends is None:
        return ("head",), np.zeros(len(triangles), np.uint8)
    ends = ids(np.ravel(ends), "ver_inds", (None,), len(to_left) + 1)
    if len(ends) < 3 or (np.diff(ends[:3]) <= 0).any() or ends[0] == 0:
        raise ValueError(f"ver_inds is {ends.tolist()}")
    first_is_left = to_left[ends[0] : ends[1]].mean() > to_left[ends[1] : ends[2]].mean()
    balls = ("left_eyeball", "right_eyeball") if first_is_left else ("right_eyeball", "left_eyeball")
    piece = np.searchsorted(ends[:3], triangles[:, 0], side="right").astype(np.uint8)
    return ("head", *balls, *(("teeth_tongue",) if piece.max() == 3 else ())), piece
