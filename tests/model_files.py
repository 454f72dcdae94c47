"""Writes small files in the layouts of face models that cannot be shipped: pickles of Python 2 with chumpy arrays
(FLAME), MATLAB and binary files (Basel 2009 and Deep3D), HDF5 (Basel 2017, 2019), 3DDFA-V3's .npy, OBJ, the archives of
eos (Surrey) and FaceVerse's .npy."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from scipy import sparse
from scipy.io import savemat


def head() -> tuple[np.ndarray, np.ndarray]:
    """(42, 3) float64 vertices, metres, of an egg that looks along +z, with a nose, and (80, 3) triangles that look
    outwards. Not centred, so that a reader has to move it."""
    ball = trimesh.creation.icosphere(subdivisions=1)
    vertices = np.array(ball.vertices) * [0.07, 0.12, 0.09]
    vertices[vertices[:, 2].argmax()] += [0.0, 0.0, 0.02]
    return vertices + [0.013, -0.021, 0.034], np.array(ball.faces, np.int64)


# --- Basel 2009 ------------------------------------------------------------------------------------------------------


@dataclass
class Bfm2009:
    """The content of the files, in their own units and counts."""

    mean: np.ndarray
    basis: np.ndarray
    deviation: np.ndarray
    triangles: np.ndarray
    kept: np.ndarray
    motion: np.ndarray
    motion_deviation: np.ndarray
    front: np.ndarray
    front_triangles: np.ndarray
    keypoints: np.ndarray


def bfm2009(rng: np.random.Generator, identity: int = 90, expression: int = 70) -> Bfm2009:
    """42 vertices, of which 40 have expressions, of which 36 are Deep3D's, in another order."""
    vertices, triangles = head()
    kept = np.delete(np.arange(42), [vertices[:, 1].argmin(), vertices[:, 1].argmax()])
    front = rng.permutation(np.delete(np.arange(40), vertices[kept][:, 2].argsort()[:4]))
    place = np.full(42, -1)
    place[kept[front]] = np.arange(36)
    left = place[triangles]
    return Bfm2009(
        mean=vertices * 1e6,
        basis=rng.normal(size=(126, identity)),
        deviation=rng.uniform(1e3, 1e5, identity),
        triangles=triangles[:, ::-1] + 1,  # clockwise, as the original
        kept=kept + 1,
        motion=rng.normal(size=(expression, 40, 3)).astype(np.float32),
        motion_deviation=rng.uniform(1e3, 1e5, expression).round(3),
        front=front + 1,
        front_triangles=left[(left >= 0).all(axis=1)] + 1,
        keypoints=rng.integers(1, 37, 68),
    )


def write_bfm2009(folder: Path, model: Bfm2009, *, front: bool, compressed: bool = True) -> None:
    folder.mkdir(exist_ok=True)
    shape = {
        "shapeMU": model.mean.reshape(-1, 1).astype(np.float32),
        "shapePC": model.basis.astype(np.float32),
        "shapeEV": model.deviation[:, None],
        "tl": model.triangles.astype(np.float64),
        "texMU": np.zeros((126, 1)),
        "segbin": np.zeros((42, 4), bool),
    }
    savemat(folder / "01_MorphableModel.mat", shape, do_compression=compressed)
    mean = np.zeros(120, "<f4")
    content = struct.pack("<i", len(model.motion)) + mean.tobytes() + model.motion.astype("<f4").tobytes()
    (folder / "Exp_Pca.bin").write_bytes(content)
    (folder / "std_exp.txt").write_text(" ".join(map(repr, model.motion_deviation.tolist())) + "\n")
    savemat(folder / "BFM_exp_idx.mat", {"trimIndex": model.kept[:, None].astype(np.int32)})
    if front:
        savemat(folder / "BFM_front_idx.mat", {"idx": model.front[:, None].astype(np.uint16)})
        info = {"tri": model.front_triangles.astype(np.int32), "keypoints": model.keypoints[None].astype(np.int32)}
        savemat(folder / "facemodel_info.mat", {**info, "point_buf": np.ones((36, 8), np.int32)})


def face_model_v3(rng: np.random.Generator) -> dict[str, Any]:
    """The dict of 3DDFA-V3's face_model.npy, with arrays and lists that fit3d does not need."""
    vertices, triangles = head()
    return {
        "u": (vertices * 10).reshape(-1, 1).astype(np.float32),
        "id": rng.normal(size=(126, 80)).astype(np.float32),
        "exp": rng.normal(size=(126, 64)).astype(np.float32),
        "u_alb": np.full((126, 1), 128.0, np.float32),
        "point_buf": np.zeros((42, 8), np.int64),
        "tri": triangles,
        "uv_coords": np.column_stack([rng.uniform(size=(42, 2)), np.zeros(42)]),
        "ldm68": rng.integers(0, 42, 68),
        "annotation": [np.arange(3), np.arange(5)],
        "annotation_tri": np.array([np.zeros((2, 3), int), np.zeros((3, 3), int)], dtype=object),
        "parallel": [[1, 2], [3]],
    }


# --- Basel 2017 and 2019 ---------------------------------------------------------------------------------------------


def bfm_h5(rng: np.random.Generator, identity: int = 7, expression: int = 5) -> dict[str, np.ndarray]:
    """The datasets by path."""
    vertices, triangles = head()
    content: dict[str, np.ndarray] = {
        "shape/model/mean": (vertices * 1e3).ravel().astype(np.float32),
        "expression/model/mean": rng.normal(size=126).astype(np.float32),
        "color/model/mean": np.zeros(126, np.float32),
        "shape/representer/cells": triangles.T.astype(np.int32),
        "shape/representer/points": vertices.T.astype(np.float32),
        "version/majorVersion": np.int32(0),
    }
    for name, count in (("shape", identity), ("expression", expression)):
        content[f"{name}/model/pcaBasis"] = rng.normal(size=(126, count)).astype(np.float32)
        content[f"{name}/model/pcaVariance"] = rng.uniform(1, 9, count).astype(np.float32)
        content[f"{name}/model/noiseVariance"] = np.zeros(1, np.float32)
    return content


def eye_corners_json(corners: np.ndarray) -> bytes:
    """The landmarks of a Basel file: the eye corners (4, 3), right outer and inner, left outer and inner, and more."""
    names = [f"{side}.eye.corner_{place}" for side in ("right", "left") for place in ("outer", "inner")]
    entries = [{"id": "center.nose.tip", "coordinates": [0, 0, 0]}]
    entries += [{"id": name, "coordinates": corner.tolist()} for name, corner in zip(names, corners, strict=True)]
    return json.dumps(entries).encode()


def write_h5(path: Path, content: dict[str, Any]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, value in content.items():
            file.create_dataset(name, data=value)


# --- FLAME -----------------------------------------------------------------------------------------------------------


def flame(rng: np.random.Generator, shapes: int = 302) -> dict[str, np.ndarray]:
    """The arrays of a small FLAME: an egg with a jaw and two eyeballs, 42 + 2 x 12 vertices, five joints."""
    skull, skull_triangles = head()
    ball = trimesh.creation.icosphere(subdivisions=0, radius=0.012)
    centres = np.array([[0.045, 0.02, 0.09], [-0.019, 0.02, 0.09]])  # left, right
    vertices = np.concatenate([skull, *(np.array(ball.vertices) + centre for centre in centres)])
    triangles = np.concatenate([skull_triangles, *(np.array(ball.faces) + 42 + 12 * k for k in range(2))])
    count = len(vertices)
    regressor = np.zeros((5, count))
    regressor[:3, :42] = rng.dirichlet(np.ones(42), 3)
    regressor[3, 42:54] = regressor[4, 54:] = 1 / 12
    weights = np.zeros((count, 5))
    weights[:42, :3] = rng.dirichlet(np.ones(3), 42)
    weights[42:54, 3] = weights[54:, 4] = 1.0
    return {
        "v_template": vertices,
        "shapedirs": rng.normal(scale=1e-3, size=(count, 3, shapes)),
        "posedirs": rng.normal(scale=1e-3, size=(count, 3, 36)) * (np.arange(count) < 42)[:, None, None],
        "J_regressor": regressor,
        "weights": weights,
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.int64),
        "f": triangles.astype(np.uint32),
    }


def write_flame(path: Path, arrays: dict[str, np.ndarray], protocol: int = 2) -> None:
    """As FLAME is given away: a pickle of Python 2 in which some arrays are chumpy's and one is sparse."""
    content = {
        **{key: Chumpy(arrays[key]) for key in ("v_template", "shapedirs")},
        **{key: arrays[key] for key in ("posedirs", "weights", "kintree_table", "f")},
        "J_regressor": sparse.csc_matrix(arrays["J_regressor"]),
        "J": arrays["J_regressor"] @ arrays["v_template"],
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }
    path.write_bytes(python2_pickle(content, protocol))


@dataclass
class Chumpy:
    """Stands for a chumpy.ch.Ch that holds an array."""

    x: Any
    name: str = "Ch"
    module: str = "chumpy.ch"


def python2_pickle(value: Any, protocol: int) -> bytes:
    """The pickle that Python 2 writes in protocol 0 or 2: text and the bytes of arrays are one type, `str`."""
    if protocol not in (0, 2):
        raise ValueError(protocol)
    memo = iter(range(1 << 30))
    return (b"\x80\x02" if protocol == 2 else b"") + b"".join(_python2(value, protocol, memo)) + b"."


def _python2(value: Any, protocol: int, memo: Any) -> list[bytes]:
    def parts(item: Any) -> list[bytes]:
        return _python2(item, protocol, memo)

    def put() -> bytes:
        index = next(memo)
        return b"p%d\n" % index if protocol == 0 else b"r" + struct.pack("<I", index)

    def text(content: bytes) -> bytes:
        if protocol == 2:
            return b"T" + struct.pack("<i", len(content)) + content
        return b"S" + repr(content)[1:].encode() + b"\n"

    def instance(module: str, name: str, state: dict[str, Any]) -> list[bytes]:
        if protocol == 2:
            made = [f"c{module}\n{name}\n".encode(), b")\x81"]
        else:
            made = [b"ccopy_reg\n_reconstructor\n(", f"c{module}\n{name}\n".encode(), b"c__builtin__\nobject\nNtR"]
        return [*made, put(), *parts(state), b"b"]

    if isinstance(value, str):
        return [text(value.encode("latin-1")), put()]
    if isinstance(value, bool) or value is None:
        return [{None: b"N", True: b"I01\n", False: b"I00\n"}[value]]
    if isinstance(value, int):
        return [b"I%d\n" % value]
    if isinstance(value, bytes):
        return [text(value), put()]
    if isinstance(value, tuple):
        return [b"(", *(part for item in value for part in parts(item)), b"t", put()]
    if isinstance(value, dict):
        pairs = [part for key, item in value.items() for part in (*parts(key), *parts(item), b"s")]
        return [b"(d", put(), *pairs]
    if isinstance(value, np.ndarray):
        code, order = value.dtype.str[1:], value.dtype.str[0]
        dtype = [b"cnumpy\ndtype\n(", text(code.encode()), b"I0\nI1\ntR", put()]
        dtype += [b"(I3\n", text(order.encode()), b"NNNI-1\nI-1\nI0\ntb"]
        fortran = value.flags.f_contiguous and not value.flags.c_contiguous
        return [
            *(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\nt", text(b"b"), b"tR", put()),
            *(b"(I1\n", *parts(value.shape), *dtype, *parts(fortran)),
            *(text(value.tobytes("F" if fortran else "C")), b"tb"),
        ]
    if isinstance(value, Chumpy):
        state = {"x": value.x, "_itr": None, "_make_dense": False, "_make_sparse": False, "_depends_on_deps": {}}
        return instance(value.module, value.name, state)
    if isinstance(value, sparse.csc_matrix):
        state = {"_shape": tuple(int(n) for n in value.shape), "maxprint": 50}
        arrays = {"data": value.data, "indices": value.indices, "indptr": value.indptr}
        return instance("scipy.sparse.csc", "csc_matrix", {**state, **arrays})
    raise TypeError(type(value))


# --- OBJ -------------------------------------------------------------------------------------------------------------


def write_obj(path: Path, vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray | None = None) -> None:
    """Vertices (V, 3) and faces (F, 4), a triangle's last id being -1; with one UV per vertex where `uv` is given."""
    path.parent.mkdir(exist_ok=True)
    lines = [f"v {x!r} {y!r} {z!r}" for x, y, z in vertices.tolist()]
    if uv is not None:
        lines += [f"vt {u!r} {v!r}" for u, v in uv.tolist()]
    for face in faces.tolist():
        corners = [f"{k + 1}/{k + 1}" if uv is not None else str(k + 1) for k in face if k >= 0]
        lines.append("f " + " ".join(corners))
    path.write_text("\n".join(lines) + "\n")


# --- Surrey ----------------------------------------------------------------------------------------------------------


def cereal_matrix(values: np.ndarray) -> bytes:
    """An Eigen matrix of floats: rows, columns, then column after column."""
    values = np.atleast_2d(values.T).T
    return struct.pack("<ii", *values.shape) + values.astype("<f4").tobytes("F")


def cereal_list(entries: np.ndarray) -> bytes:
    """A vector of fixed arrays (N, C), of int32 or float64."""
    return struct.pack("<Q", len(entries)) + np.ascontiguousarray(entries).tobytes()


@dataclass
class Surrey:
    """The content of eos' files, in their units."""

    mean: np.ndarray
    basis: np.ndarray
    eigenvalues: np.ndarray
    triangles: np.ndarray
    uv: np.ndarray
    blendshapes: dict[str, np.ndarray]

    def archive(self, version: int = 1) -> bytes:
        """sfm_shape_3448.bin: a model without colour."""
        shape = cereal_matrix(self.mean.reshape(-1, 1)) + cereal_matrix(self.basis)
        shape += cereal_matrix(self.eigenvalues[:, None]) + cereal_list(self.triangles.astype("<i4"))
        colour = cereal_matrix(np.zeros((0, 1))) + cereal_matrix(np.zeros((0, 0))) + cereal_matrix(np.zeros((0, 1)))
        colour += cereal_list(np.zeros((0, 3), "<i4"))
        optional = {1: b"", 2: b"\x01", 3: b"\x01\x01", 4: b"\x01\x01"}[version]
        end = cereal_list(np.zeros((0, 3), "<i4")) if version == 4 else b""
        return struct.pack("<I", version) + shape + colour + optional + cereal_list(self.uv.astype("<f8")) + end

    def expression_archive(self) -> bytes:
        """expression_blendshapes_3448.bin."""
        content = struct.pack("<Q", len(self.blendshapes))
        for name, displacement in self.blendshapes.items():
            content += struct.pack("<Q", len(name)) + name.encode() + cereal_matrix(displacement.reshape(-1, 1))
        return content


def surrey(rng: np.random.Generator) -> Surrey:
    vertices, triangles = head()
    names = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
    return Surrey(
        mean=vertices * 1e3,
        basis=rng.normal(size=(126, 5)),
        eigenvalues=rng.uniform(1.0, 9.0, 5),
        triangles=triangles,
        uv=rng.uniform(size=(42, 2)),
        blendshapes={name: rng.normal(size=(42, 3)) for name in names},
    )


IBUG_TO_SFM = """# Mapping from the 68-point ibug annotations to the Surrey Face Model (SFM) mesh vertex indices.
[landmark_mappings]
            # 1 to 8 are the right contour landmarks
 9 =    33  # chin bottom
37 =    11  # right eye outer-corner (1)
40 =    12  # right eye inner-corner (5)
43 =    13  # left eye inner-corner (8)
46 =    14  # left eye outer-corner (2)

[contour_landmarks]
right = [  1,
           2
        ]
"""


# --- FaceVerse -------------------------------------------------------------------------------------------------------


def face_with_marks() -> tuple[np.ndarray, np.ndarray]:
    """(68,) vertices of a face, metres, of which each is one of iBUG's landmarks, and some triangles of them."""
    rng = np.random.default_rng(5)
    place = rng.normal(scale=0.01, size=(68, 3)) + [0.0, -0.02, 0.05]
    for first, side in ((36, -1.0), (42, 1.0)):
        angle = np.linspace(0, 2 * np.pi, 6, endpoint=False)
        place[first : first + 6] = np.stack([side * 0.03 + 0.0145 * np.cos(angle), 0.004 * np.sin(angle), 0 * angle], 1)
    place[36], place[45] = (-0.0445, 0.0, 0.0), (0.0445, 0.0, 0.0)
    place[30], place[8] = (0.0, -0.04, 0.03), (0.0, -0.11, 0.0)
    return place, np.column_stack([np.arange(66), np.arange(66) + 1, np.arange(66) + 2])


def faceverse(version: int, rng: np.random.Generator) -> dict[str, Any]:
    """The dict of a FaceVerse file, with entries that fit3d does not need, in the frame and unit of that version."""
    place, triangles = face_with_marks()
    names = ["jawOpen", "eyeBlinkLeft", "mouthSmileLeft"]
    turn = np.array([1.0, -1.0, -1.0]) if version < 4 else np.array([-1.0, 1.0, 1.0])
    unit = {1: 7.0, 2: 7.0, 3: 1000.0, 4: 1000.0}[version]
    count = len(place)
    identity, expression = rng.normal(scale=0.01, size=(2, 3, count, 3)) * turn * unit
    content: dict[str, Any] = {
        "meanshape": (place * turn * unit).astype(np.float32),
        "idBase": identity.reshape(3, -1).T.astype(np.float32),
        "exBase": expression.reshape(3, -1).T.astype(np.float32),
        "texBase": np.zeros((3 * count, 2), np.float32),
        "meantex": np.full((count, 3), 128.0, np.float32),
        "tri": triangles,
        "point_buf": np.zeros((count, 8), np.int64),
    }
    marks = np.arange(count)
    mediapipe = np.zeros(478, np.int64)
    mediapipe[[33, 133, 159, 145]], mediapipe[[263, 362, 386, 374]] = (36, 39, 37, 41), (45, 42, 43, 47)
    mediapipe[[4, 152]] = 30, 8
    if version <= 2:
        content["keypoints"] = np.delete(marks, [60, 64])
    if version == 2:
        content["exp_name_list"] = np.array(names)
    if version >= 3:
        content["mediapipe_keypoints" if version == 3 else "keypoints_mediapipe"] = mediapipe
        content["ver_inds"] = np.array([40, 50, 60]) if version == 3 else np.array([40, 50, 60, 62, 64, 68])
    if version == 4:
        content["exp_name_list"] = names
        content["keypoints_68"] = marks
        content["parsing"] = {"skin": np.ones(count)}
    return content
