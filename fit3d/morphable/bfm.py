"""Reads the Basel Face Models: 2009 as Deep3D and 3DDFA-V3 combine it with expressions, 2017 and 2019 as published.

    2009    Paysan, Knothe, Amberg, Romdhani, Vetter: A 3D Face Model for Pose and Illumination Invariant Face
            Recognition, AVSS 2009. Expressions: Guo et al., CNN-based Real-time Dense Face Reconstruction, TPAMI 2018,
            from FaceWarehouse. Combination: Deng et al., Accurate 3D Face Reconstruction with Weakly-Supervised
            Learning, CVPRW 2019; 3DDFA-V3: Wang et al., CVPR 2024.
    2017    Gerig et al.: Morphable Face Models, an Open Framework, FG 2018.
    2019    the same with a larger face and a full head.

All have the form mean + sum_k a_k s_k u_k with standard normal a_k, directions u_k and standard deviations s_k; y is
up, z towards the viewer, +x to the person's left. No Basel model has eyeballs, so the origin is estimated: 12 mm behind
the middle of the lids where the files have landmarks, else from the tip of the nose (`fit3d.morphable.arrays`).

Expressions are components without names: `expression_00` ..., bounded to three standard deviations.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fit3d.errors import ModelFileError, UsageError
from fit3d.morphable.arrays import (
    LIDS_TO_EYEBALL_M,
    MOST_COMPONENTS,
    MOST_VERTICES,
    displacements,
    eyes_from_landmarks,
    eyes_from_nose,
    faces_of,
    ids,
    numbers,
    outward,
)
from fit3d.morphable.raw import RawModel
from fit3d.morphable.restricted_pickle import load_npy
from fit3d.resources import install_command

if TYPE_CHECKING:
    import h5py

LICENCE = (
    "Research only: the University of Basel licenses the Basel Face Model for non-commercial use; results must not be "
    "sold without a commercial licence from Basel, and the model must not be passed on."
)
LICENCE_2009 = f"{LICENCE} Its expressions come from FaceWarehouse, for non-commercial research too."
VERTICES_2009, IDENTITY_2009, EXPRESSION_2009 = 35709, 80, 64
"""Vertices and components that Deep3D and 3DDFA-V3 keep, of 53,490, 199 and 79."""
EXPRESSION_BOUND = 3.0
"""Standard deviations."""
SHAPE_FILE, EXPRESSION_FILE, DEVIATION_FILE = "01_MorphableModel.mat", "Exp_Pca.bin", "std_exp.txt"
KEPT_FILE, FRONT_FILE, INFO_FILE = "BFM_exp_idx.mat", "BFM_front_idx.mat", "facemodel_info.mat"
LARGEST_UNPACKED = 2 << 30
"""Bytes that the variables of one .mat or .h5 file may take."""
LARGEST_RATIO = 100
"""How much smaller than its numbers a compressed array of measured shapes can be; more is a decompression bomb."""


def read_bfm2009(folder: Path, name: str = "bfm2009") -> RawModel:
    """The Basel Face Model 2009 with Guo et al.'s expressions, as Deep3D combines them.

    `folder` holds `01_MorphableModel.mat` from Basel (shapeMU (3V,), micrometres; shapePC (3V, K), of unit length, and
    its standard deviations shapeEV; tl, triangles from 1), `Exp_Pca.bin` from Guo et al. (int32 number of components,
    then as float32 a mean (3 V') and the components one after another, micrometres), and from Deep3D's `BFM` folder
    `std_exp.txt` (the components' standard deviations) and `BFM_exp_idx.mat` (trimIndex, from 1: which of
    the V = 53,490 vertices are the V' = 53,215 that have expressions). With `BFM_front_idx.mat` (idx, from 1: Deep3D's
    35,709 of these) and `facemodel_info.mat` (tri and 68 keypoints, from 1) the mesh is Deep3D's, otherwise all V'
    vertices with the triangles of tl between them. Like Deep3D we keep 80 and 64 components and leave out the
    expressions' mean, so that no expression is Basel's mean face.

    Raises:
        ModelFileError: a file is missing, truncated, or does not fit the others.
    """
    where = str(folder)
    try:
        where = str(folder / SHAPE_FILE)
        shape = _mat(folder / SHAPE_FILE, ("shapeMU", "shapePC", "shapeEV", "tl"))
        mean = numbers(shape["shapeMU"].ravel(), "shapeMU", (None,)).reshape(-1, 3)
        count = len(mean)
        basis = numbers(shape["shapePC"][:, :IDENTITY_2009], "shapePC", (3 * count, None))
        deviation = numbers(shape["shapeEV"].ravel()[:IDENTITY_2009], "shapeEV", (basis.shape[1],))
        triangles = ids(shape["tl"], "tl", (None, 3), count, first=1)

        where = str(folder / KEPT_FILE)
        kept = _indices(folder / KEPT_FILE, "trimIndex", count)
        where = str(folder / EXPRESSION_FILE)
        motions = _expressions(folder / EXPRESSION_FILE, len(kept))
        where = str(folder / DEVIATION_FILE)
        motion_deviation = _text_numbers(folder / DEVIATION_FILE)[: len(motions)]
        motion_deviation = numbers(motion_deviation, "the standard deviations", (len(motions),))
        landmarks = None
        if (folder / FRONT_FILE).exists() and (folder / INFO_FILE).exists():
            where = str(folder / FRONT_FILE)
            front = _indices(folder / FRONT_FILE, "idx", len(kept))
            kept, motions = kept[front], motions[:, front]
            where = str(folder / INFO_FILE)
            info = _mat(folder / INFO_FILE, ("tri", "keypoints"))
            triangles = ids(info["tri"], "tri", (None, 3), len(kept), first=1)
            landmarks = ids(info["keypoints"].ravel(), "keypoints", (68,), len(kept), first=1)
        else:
            place = np.full(count, -1)
            place[kept] = np.arange(len(kept))
            triangles = place[triangles]
            triangles = triangles[(triangles >= 0).all(axis=1)]
            if len(triangles) == 0:
                raise ValueError("keeps no triangle of the mesh")
    except ValueError as error:
        raise ModelFileError(f"{where}: {error}; expected the files of the Basel Face Model 2009 and Deep3D") from error
    identity = displacements(basis, deviation * 1e-6)[:, kept]
    expression = (motions * (motion_deviation * 1e-6)[:, None, None]).astype(np.float32)
    return _model(
        *(name, "2009", mean[kept] * 1e-6, identity, expression, triangles),
        landmarks=landmarks,
        licence=LICENCE_2009,
        source="Basel Face Model 2009 (faces.dmi.unibas.ch), expressions of Guo et al. (FaceWarehouse), as in Deep3D",
    )


def read_3ddfa_v3(path: Path, name: str = "bfm2009") -> RawModel:
    """The Basel Face Model 2009 as 3DDFA-V3 gives it away: `face_model.npy`, a pickled dict, read without running it.

    Its entries: u (3V, 1), id (3V, 80), exp (3V, 64) in decimetres, per standard deviation; tri (T, 3), from 0;
    uv_coords (V, 2 or 3), origin bottom left, one per vertex; ldm68 (68,), from 0.

    Raises:
        ModelFileError: the file is truncated, asks for more than numbers, or is another one.
    """
    content = load_npy(path)
    try:
        if not isinstance(content, dict):
            raise ValueError("holds no dict")
        lacking = [key for key in ("u", "id", "exp", "tri") if key not in content]
        if lacking:
            raise ValueError(f"lacks {', '.join(lacking)}")
        mean = numbers(np.ravel(content["u"]), "u", (None,))
        if len(mean) % 3 or not 0 < len(mean) <= 3 * MOST_VERTICES:
            raise ValueError(f"u has {len(mean)} numbers, expected three per vertex")
        count = len(mean) // 3
        bases = [numbers(content[key], key, (3 * count, None)) for key in ("id", "exp")]
        identity, expression = (displacements(basis, np.full(basis.shape[1], 0.1)) for basis in bases)
        triangles = ids(content["tri"], "tri", (None, 3), count)
        uv = None
        if "uv_coords" in content:
            uv = numbers(content["uv_coords"], "uv_coords", (count, None))[:, :2]
            if uv.shape[1] != 2:
                raise ValueError("uv_coords has no two columns")
        landmarks = ids(content["ldm68"], "ldm68", (68,), count) if "ldm68" in content else None
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}; expected 3DDFA-V3's face_model.npy") from error
    return _model(
        *(name, "2009 (3DDFA-V3)", mean.reshape(-1, 3) * 0.1, identity, expression, triangles),
        landmarks=landmarks,
        uv=uv,
        licence=LICENCE_2009,
        source="Basel Face Model 2009 with FaceWarehouse expressions, face_model.npy of 3DDFA-V3 (Wang et al. 2024)",
    )


def read_bfm_h5(path: Path, name: str | None = None) -> RawModel:
    """The Basel Face Model 2017 or 2019, any of its meshes (`model2017-1_bfm_nomouth.h5`, `model2019_face12.h5`, ...).

    Read are, of `shape/model` and `expression/model`, mean (3V,), pcaBasis (3V, K) and pcaVariance (K,) in millimetres;
    `shape/representer/cells` (3, T), from 0; and, where given, the eye corners of `metadata/landmarks/json`. The mean
    head is the sum of both means, as published: Basel's mean expression, which is nearly neutral. All components are
    kept.

    Raises:
        ModelFileError: the file is truncated, of another layout, or claims absurd sizes.
        UsageError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise UsageError(f"{path.name} needs h5py; type: {install_command('basel')}") from error
    try:
        with h5py.File(path, "r") as file:
            mean, identity = _h5_component(file, "shape", None)
            count = len(mean)
            mean_expression, expression = _h5_component(file, "expression", count)
            cells = _h5_array(file, "shape/representer/cells", 2, limit=3 * 4 * MOST_VERTICES)
            triangles = ids(cells.T, "shape/representer/cells", (None, 3), count)
            corners = _h5_eye_corners(file)
    except FileNotFoundError as error:
        raise ModelFileError(f"{path}: no such file") from error
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"{path}: {reason}; expected the Basel Face Model 2017 or 2019 as .h5") from error
    in_file, in_name = (re.search(r"20(17|19)", text) for text in (path.name, name or ""))
    if in_file and in_name and in_file[0] != in_name[0]:
        raise ModelFileError(f"{path}: named as the Basel Face Model {in_file[0]}; add it as bfm{in_file[0]}")
    year = in_file or in_name
    version = year[0] if year else "2017 or 2019"
    mean_m = (mean + mean_expression) * 1e-3
    origin = eyes_from_nose(mean_m) if corners is None else corners.mean(axis=0) * 1e-3 + LIDS_TO_EYEBALL_M
    return _model(
        *(name or f"bfm{year[0] if year else ''}", version, mean_m, identity, expression, triangles),
        origin=origin,
        licence=LICENCE,
        source=f"Basel Face Model {version} (faces.dmi.unibas.ch), {path.name}",
    )


def _model(
    name: str,
    version: str,
    mean: np.ndarray,
    identity: np.ndarray,
    expression: np.ndarray,
    triangles: np.ndarray,
    *,
    licence: str,
    source: str,
    landmarks: np.ndarray | None = None,
    origin: np.ndarray | None = None,
    uv: np.ndarray | None = None,
) -> RawModel:
    if origin is None:
        origin = eyes_from_nose(mean) if landmarks is None else eyes_from_landmarks(mean, landmarks)
    faces = faces_of(outward(triangles, mean))
    bounds = np.tile(np.array([-EXPRESSION_BOUND, EXPRESSION_BOUND], np.float32), (len(expression), 1))
    digits = len(str(max(len(expression) - 1, 0)))
    return RawModel(
        name=name,
        version=version,
        licence=licence,
        source=source,
        mean=(mean - origin).astype(np.float32),
        identity=identity,
        expression=expression,
        expression_names=tuple(f"expression_{k:0{digits}d}" for k in range(len(expression))),
        expression_bounds=bounds,
        faces=faces,
        uv=np.zeros((0, 2), np.float32) if uv is None else uv.astype(np.float32),
        uv_faces=np.zeros_like(faces) if uv is None else faces.copy(),
        objects=("head",),
        face_objects=np.zeros(len(faces), np.uint8),
        landmarks68=landmarks,
    )


# --- MATLAB files ----------------------------------------------------------------------------------------------------


def _mat(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The numeric matrices `names` of a MATLAB 5 file. Nothing else in it is read, and no more than it may hold."""
    from scipy.io import loadmat, whosmat

    _check_unpacked(path)
    try:
        found = {name: (shape, kind) for name, shape, kind in whosmat(path) if name in names}
        lacking = [name for name in names if name not in found]
        if lacking:
            raise ValueError(f"lacks {', '.join(lacking)}")
        for name, (shape, kind) in found.items():
            if not re.fullmatch(r"double|single|u?int(8|16|32|64)", kind):
                raise ValueError(f"{name} is of type {kind}, expected a matrix of numbers")
            if math.prod(shape) > LARGEST_UNPACKED // 4 or len(shape) != 2:
                raise ValueError(f"{name} claims the shape {shape}")
        stored = loadmat(path, variable_names=list(names))
        return {name: np.asarray(stored[name]) for name in names}
    except (OSError, TypeError, KeyError, IndexError, EOFError, MemoryError, NotImplementedError, zlib.error) as error:
        raise ValueError(f"a damaged or truncated MATLAB file ({' '.join(str(error).split())})") from error


def _check_unpacked(path: Path) -> None:
    """Raises ValueError where the compressed variables of a MATLAB 5 file unpack to more than it may hold.

    Layout: a header of 128 bytes, then per variable its type (15: compressed with zlib), its length in bytes, the data.
    """
    total = 0
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(128)
            if head[:10] == b"MATLAB 7.3" or head[:4] == b"\x89HDF":
                raise ValueError("is a MATLAB 7.3 file, the original is MATLAB 5")
            if len(head) < 128 or head[126:128] not in (b"IM", b"MI"):
                raise ValueError("is no MATLAB 5 file")
            order = "<" if head[126:128] == b"IM" else ">"
            while len(tag := file.read(8)) == 8:
                kind, length = struct.unpack(order + "II", tag)
                end = file.tell() + length
                if end > size:
                    raise ValueError("is truncated")
                inflate = zlib.decompressobj()
                while kind == 15 and file.tell() < end:
                    packed = file.read(min(1 << 16, end - file.tell()))
                    while packed:
                        total += len(inflate.decompress(packed, 1 << 22))
                        packed = inflate.unconsumed_tail
                        if total > LARGEST_UNPACKED:
                            raise ValueError(f"would unpack to more than {LARGEST_UNPACKED / 1e9:.1f} GB; refused")
                file.seek(end)
    except OSError as error:
        raise ValueError(f"cannot read it ({error.strerror})") from error
    except zlib.error as error:
        raise ValueError(f"is damaged ({error})") from error


def _indices(path: Path, name: str, count: int) -> np.ndarray:
    """(N,) int64 from 0, each once: which of `count` vertices are kept."""
    kept = ids(_mat(path, (name,))[name].ravel(), name, (None,), count, first=1)
    if len(np.unique(kept)) < len(kept):
        raise ValueError(f"{name} names a vertex twice")
    return kept


def _expressions(path: Path, count: int) -> np.ndarray:
    """(64, V', 3) float32, unit directions: the first components of `Exp_Pca.bin` for `count` vertices."""
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            components = int(np.frombuffer(file.read(4), "<i4")[0]) if size >= 4 else 0
            expected = 4 + 4 * 3 * count * (1 + components)
            if not 1 <= components <= MOST_COMPONENTS or size != expected:
                raise ValueError(
                    f"{size} bytes that begin with {components} components; for {count} vertices {expected} bytes were "
                    "expected: truncated, or for another mesh"
                )
            file.seek(4 + 4 * 3 * count)
            kept = min(components, EXPRESSION_2009)
            data = np.frombuffer(file.read(4 * 3 * count * kept), "<f4")
    except OSError as error:
        raise ValueError(f"cannot read it ({error.strerror})") from error
    return numbers(data, "the components", (3 * count * kept,)).reshape(kept, count, 3)


def _text_numbers(path: Path) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            words = file.read(1 << 20).split()
        return np.array([float(word) for word in words])
    except OSError as error:
        raise ValueError(f"cannot read it ({error.strerror})") from error


# --- HDF5 files ------------------------------------------------------------------------------------------------------


def _h5_component(file: h5py.File, name: str, count: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean (V, 3), millimetres, and displacements (K, V, 3) float32, metres, of 'shape' or 'expression'."""
    mean = _h5_array(file, f"{name}/model/mean", 1, limit=3 * MOST_VERTICES)
    mean = numbers(mean, f"{name}/model/mean", (None if count is None else 3 * count,))
    if len(mean) == 0 or len(mean) % 3:
        raise ValueError(f"{name}/model/mean has {len(mean)} numbers, expected three per vertex")
    variance = _h5_array(file, f"{name}/model/pcaVariance", 1, limit=MOST_COMPONENTS)
    variance = numbers(variance, f"{name}/model/pcaVariance", (None,))
    if (variance < 0).any():
        raise ValueError(f"{name}/model/pcaVariance is negative")
    basis = _h5_array(file, f"{name}/model/pcaBasis", 2, limit=len(mean) * len(variance))
    basis = numbers(basis, f"{name}/model/pcaBasis", (len(mean), len(variance)))
    return mean.reshape(-1, 3), displacements(basis, np.sqrt(variance) * 1e-3)


def _h5_array(file: h5py.File, path: str, dimensions: int, limit: int) -> np.ndarray:
    """The dataset at `path`, if it lies in this file, has that many `dimensions` and at most `limit` elements."""
    dataset = _h5_dataset(file, path)
    if dataset.dtype.kind not in "iuf" or len(dataset.shape) != dimensions:
        raise ValueError(f"{path} is {dataset.dtype} {dataset.shape}")
    size = math.prod(dataset.shape)
    if size > limit or size * dataset.dtype.itemsize > LARGEST_RATIO * dataset.id.get_storage_size() + 65536:
        raise ValueError(f"{path} claims the shape {dataset.shape}, more than a face model has or the file stores")
    return np.asarray(dataset[()])


def _h5_dataset(file: h5py.File, path: str) -> h5py.Dataset:
    import h5py

    node: Any = file
    for part in path.split("/"):
        if not isinstance(node, h5py.Group) or part not in node:
            raise ValueError(f"lacks {path}")
        if not isinstance(node.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"{path} is a link to somewhere else; refused")
        node = node[part]
    if not isinstance(node, h5py.Dataset):
        raise ValueError(f"lacks {path}")
    if node.is_virtual or node.external:
        raise ValueError(f"{path} lies in another file; refused")
    return node


def _h5_eye_corners(file: h5py.File) -> np.ndarray | None:
    """(4, 3) the corners of both eyes, millimetres, or None where the file does not give them."""
    if "metadata/landmarks/json" not in file:
        return None
    dataset = _h5_dataset(file, "metadata/landmarks/json")
    if math.prod(dataset.shape) * dataset.dtype.itemsize > 1 << 20:
        raise ValueError("metadata/landmarks/json is too long")
    stored = dataset[()]
    text = stored if isinstance(stored, bytes) else np.asarray(stored, np.uint8).tobytes()
    content = json.loads(text.decode("utf-8"))
    if isinstance(content, list):
        content = {entry["id"]: entry["coordinates"] for entry in content}
    names = [f"{side}.eye.corner_{place}" for side in ("right", "left") for place in ("outer", "inner")]
    if not all(name in content for name in names):
        return None
    return numbers([content[name] for name in names], "metadata/landmarks/json", (4, 3))
