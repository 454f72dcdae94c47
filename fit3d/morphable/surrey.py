"""Reads the Surrey Face Model as eos gives it away: `sfm_shape_3448.bin`, with eos' expression blendshapes.

Huber, Hu, Tena, Mortazavian, Koppen, Christmas, Raetsch, Kittler: A Multiresolution 3D Morphable Face Model and Fitting
Framework, VISAPP 2016; https://github.com/patrikhuber/eos, folder `share`. The files are what cereal's binary archive
(https://github.com/USCiLab/cereal) writes of eos' classes, little-endian, without any marks or padding:

    MorphableModel   uint32 version, 1 ... 4, then PcaModel shape, PcaModel colour, from version 2 an optional
                     expression model, from version 3 optional landmarks, then the texture coordinates, from version 4
                     the triangles of these  (include/eos/morphablemodel/MorphableModel.hpp, `serialize`)
    PcaModel         matrix mean (3V, 1), matrix orthonormal basis (3V, K), matrix eigenvalues (K, 1), list of
                     triangles of three int32, from 0  (PcaModel.hpp; a sample is mean + basis sqrt(eigenvalue) a)
    matrix           int32 rows, int32 columns, float32 values, column after column  (io/eigen_cerealisation.hpp)
    list, text, map  uint64 length, then the entries  (cereal/types/vector.hpp, string.hpp, unordered_map.hpp)
    optional         uint8 1 for nothing, else 0 and the value; an expression model begins with an int32, 0 for a
                     PcaModel, 1 for blendshapes  (cereal/types/optional.hpp, variant.hpp)
    coordinates      float64 u, v, the origin at the top left, as in the texture that eos extracts
    blendshapes      list of: text name, matrix displacement (3V, 1)  (Blendshape.hpp)

`ibug_to_sfm.txt` lists, from 1, the vertices of iBUG's landmarks that the mesh has. Millimetres, y up, z towards the
viewer. The mesh is the face alone, with no eyeballs, no holes for them, and a closed mouth.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np

from fit3d.errors import ModelFileError
from fit3d.morphable.arrays import (
    MOST_COMPONENTS,
    MOST_VERTICES,
    displacements,
    eyes_from_nose,
    faces_of,
    ids,
    numbers,
    outward,
)
from fit3d.morphable.raw import RawModel

NAME = "surrey"
LICENCE = (
    "Non-commercial use only: results must not be sold without a commercial licence from the University of Surrey "
    "(cvssp.org/facemodel)."
)
LICENCE_URL = "https://github.com/patrikhuber/eos#license--contributions"
SOURCE = "Surrey Face Model, University of Surrey, shape of 3448 vertices, https://github.com/patrikhuber/eos"
SHAPE_FILE, EXPRESSION_FILE, LANDMARK_FILE = (
    "sfm_shape_3448.bin",
    "expression_blendshapes_3448.bin",
    "ibug_to_sfm.txt",
)
VERTICES, IDENTITIES, EXPRESSIONS = 3448, 63, 6
"""What the published files hold."""
NEWEST = 4
"""Version of the archive."""
LARGEST_FILE = 256 << 20
LONGEST_TEXT = 256
METRES_PER_UNIT = 0.001
LEFT_LIDS, RIGHT_LIDS = (43, 44, 45, 46, 47, 48), (37, 38, 39, 40, 41, 42)
"""iBUG's landmarks of the eyes, from 1."""
LIDS_TO_EYEBALL_MM = np.array([0.0, 0.0, -12.0])


def read_surrey(folder: Path, name: str = NAME) -> RawModel:
    """The model in eos' folder `share`: the shape, and where they are there, expressions and landmarks.

    Args:
        folder: also a checkout of eos, or the shape file itself.

    Raises:
        ModelFileError: a file is missing, truncated, of another version, or does not fit the others.
    """
    shape_file = next(
        (path for path in (folder, folder / SHAPE_FILE, folder / "share" / SHAPE_FILE) if path.is_file()), None
    )
    if shape_file is None:
        raise ModelFileError(f"{folder}: no {SHAPE_FILE} in it; expected the folder 'share' of eos")
    where = shape_file
    try:
        archive = _Archive(shape_file)
        version = archive.unpack("I")
        if not 1 <= version <= NEWEST:
            raise ValueError(
                f"begins with the version {version}, expected 1 ... {NEWEST}: the very old layout, or another file"
            )
        mean, identity, triangles = archive.pca_model("the shape")
        if triangles is None or len(identity) == 0:
            raise ValueError("has no shapes or no triangles")
        archive.pca_model("the colour")
        uv = archive.texture(version, len(mean))

        where = shape_file.parent / EXPRESSION_FILE
        shapes = _Archive(where).blendshapes(len(mean)) if where.is_file() else {}
        where = shape_file.parent / LANDMARK_FILE
        marks = _landmarks(where, len(mean)) if where.is_file() else {}
    except ValueError as error:
        raise ModelFileError(f"{where}: {error}") from error
    eyes = [[marks[i] for i in lids if i in marks] for lids in (RIGHT_LIDS, LEFT_LIDS)]
    if all(eyes):
        origin = np.mean([mean[lids].mean(axis=0) for lids in eyes], axis=0) + LIDS_TO_EYEBALL_MM
    else:
        origin = eyes_from_nose(mean * METRES_PER_UNIT) / METRES_PER_UNIT
    faces = faces_of(outward(triangles, mean))
    expression = np.stack(list(shapes.values())) if shapes else np.zeros((0, *mean.shape))
    return RawModel(
        name=name,
        version=f"{len(mean)} vertices",
        licence=LICENCE,
        source=SOURCE,
        mean=((mean - origin) * METRES_PER_UNIT).astype(np.float32),
        identity=identity,
        expression=(expression * METRES_PER_UNIT).astype(np.float32),
        expression_names=tuple(shapes),
        expression_bounds=np.tile(np.array([0.0, 1.0], np.float32), (len(shapes), 1)),
        faces=faces,
        uv=np.zeros((0, 2), np.float32) if uv is None else uv.astype(np.float32),
        uv_faces=np.zeros_like(faces) if uv is None else faces.copy(),
        objects=("head",),
        face_objects=np.zeros(len(faces), np.uint8),
    )


class _Archive:
    """Reads a cereal binary archive. Nothing is allocated before it is known to be in the file."""

    def __init__(self, path: Path) -> None:
        try:
            if path.stat().st_size > LARGEST_FILE:
                raise ValueError(f"larger than {LARGEST_FILE >> 20} MB; no such model is")
            self.data = path.read_bytes()
        except OSError as error:
            raise ValueError(f"cannot read it ({error.strerror})") from error
        self.at = 0

    def take(self, count: int, what: str) -> bytes:
        """The next bytes."""
        left = len(self.data) - self.at
        if not 0 <= count <= left:
            raise ValueError(f"ends within {what}: truncated, or not an archive of eos")
        self.at += count
        return self.data[self.at - count : self.at]

    def unpack(self, layout: str, what: str = "its head") -> int:
        """One whole number."""
        value: int = struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout), what))[0]
        return value

    def length(self, what: str, each: int, most: int) -> int:
        """Length of a list whose entries take at least `each` bytes."""
        count = self.unpack("Q", what)
        if count > most or count * each > len(self.data) - self.at:
            raise ValueError(f"claims {count} entries in {what}, more than it holds or a face model has")
        return count

    def matrix(self, what: str) -> np.ndarray:
        """(rows, columns) float64, finite."""
        rows, columns = self.unpack("i", what), self.unpack("i", what)
        if not (0 <= rows <= 3 * MOST_VERTICES and 0 <= columns <= MOST_COMPONENTS):
            raise ValueError(f"claims a matrix {rows} x {columns} for {what}")
        values = np.frombuffer(self.take(4 * rows * columns, what), "<f4")
        return numbers(values.reshape((rows, columns), order="F"), what, (rows, columns))

    def triangles(self, what: str, count: int) -> np.ndarray | None:
        """(T, 3) int64 ids of `count` things; None for an empty list."""
        length = self.length(what, 12, 4 * MOST_VERTICES)
        found = np.frombuffer(self.take(12 * length, what), "<i4").reshape(-1, 3)
        return ids(found, what, (None, 3), count) if length else None

    def pca_model(self, what: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Mean (V, 3), millimetres, displacements (K, V, 3) float32, metres, and triangles (T, 3); of a model without
        colour all are empty."""
        mean = self.matrix(f"the mean of {what}")
        basis = self.matrix(f"the basis of {what}")
        variance = self.matrix(f"the eigenvalues of {what}")
        rows, components = basis.shape
        if mean.size != rows or rows % 3 or variance.size != components:
            raise ValueError(
                f"{what} has {mean.size} numbers in its mean, {rows} x {components} in its basis and {variance.size} "
                "eigenvalues"
            )
        if (variance < 0.0).any():
            raise ValueError(f"{what} has a negative eigenvalue")
        triangles = self.triangles(f"the triangles of {what}", max(rows // 3, 1))
        scale = np.sqrt(variance.ravel()) * METRES_PER_UNIT
        return mean.reshape(-1, 3), displacements(basis, scale), triangles

    def blendshapes(self, vertices: int) -> dict[str, np.ndarray]:
        """(V, 3) displacements, millimetres, by name, to the end of the archive."""
        shapes: dict[str, np.ndarray] = {}
        for _ in range(self.length("the blendshapes", 16, MOST_COMPONENTS)):
            name = self.text()
            shape = self.matrix(f"the blendshape '{name}'")
            if shape.shape != (3 * vertices, 1):
                raise ValueError(f"the blendshape '{name}' is {shape.shape[0]} x {shape.shape[1]}, not of this mesh")
            if name in shapes:
                raise ValueError(f"two blendshapes are called '{name}'")
            shapes[name] = shape.reshape(-1, 3)
        if self.at != len(self.data):
            raise ValueError(f"goes on for {len(self.data) - self.at} bytes after the blendshapes")
        return shapes

    def texture(self, version: int, vertices: int) -> np.ndarray | None:
        """(V, 2) one UV per vertex, origin bottom left, to the end of the archive; None where there are none."""
        if version >= 2 and self.unpack("B", "the expression model") == 0:
            raise ValueError(f"holds an expression model of its own; expected {SHAPE_FILE}, which is the shape alone")
        if version >= 3 and self.unpack("B", "the landmarks") == 0:
            for _ in range(self.length("the landmarks", 12, MOST_VERTICES)):
                self.text()
                self.unpack("i", "the landmarks")
        length = self.length("the texture coordinates", 16, 6 * MOST_VERTICES)
        uv = np.frombuffer(self.take(16 * length, "the texture coordinates"), "<f8").reshape(-1, 2)
        apart = self.triangles("the texture's triangles", max(length, 1)) if version >= 4 else None
        if self.at != len(self.data):
            raise ValueError(f"goes on for {len(self.data) - self.at} bytes after its end")
        if length == 0 or apart is not None:
            return None  # a layout with seams: no published Surrey file has one
        uv = numbers(uv, "the texture coordinates", (vertices, 2))
        return np.column_stack([uv[:, 0], 1.0 - uv[:, 1]])

    def text(self) -> str:
        """A printable name."""
        content = self.take(self.length("a name", 1, LONGEST_TEXT), "a name")
        if not content.isascii() or not content.decode("ascii").isprintable():
            raise ValueError("has a name that is no text")
        return content.decode("ascii")


def _landmarks(path: Path, vertices: int) -> dict[int, int]:
    """Vertex ids by iBUG's number, from 1, of the lines `number = vertex` before the file's second table."""
    try:
        if path.stat().st_size > 1 << 20:
            raise ValueError("too long to be eos' list of landmarks")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError("cannot be read as text") from error
    table = text.partition("[contour_landmarks]")[0]
    found = {int(number): int(vertex) for number, vertex in re.findall(r"(?m)^\s*(\d{1,3})\s*=\s*(\d{1,9})\b", table)}
    wrong = [vertex for vertex in found.values() if not 0 <= vertex < vertices]
    if not found or wrong or not all(1 <= number <= 68 for number in found):
        raise ValueError(f"is no list of landmarks of a mesh with {vertices} vertices")
    return found
