"""GLB (glTF 2.0): the neutral head as separate meshes with every expression as a morph target, and the photo's camera.

Morph targets are sparse, since most expressions move a small region. Their names stand in each mesh's
`extras.targetNames`, where Blender, three.js, Unity and Unreal look for them. `extras.arkitResiduals` tells which of
them are ARKit's only nearly, and how nearly. The fitted coefficients are the meshes' default weights: the file opens
with the expression of the photo, and shows the neutral head with all weights at 0.
glTF blends morph targets linearly. What turns about a joint (FLAME's jaw, neck and eyes) is exact for this person at
weights 0 and 1 of one turn; between them it goes straight where the model goes along an arc, and two turns add up.

glTF's frame is the world frame of `fit3d.camera`: metres, y up, z towards the viewer.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pygltflib import (
    ARRAY_BUFFER,
    BLEND,
    CLAMP_TO_EDGE,
    ELEMENT_ARRAY_BUFFER,
    FLOAT,
    GLTF2,
    LINEAR,
    LINEAR_MIPMAP_LINEAR,
    OPAQUE,
    SCALAR,
    UNSIGNED_INT,
    VEC2,
    VEC3,
    Accessor,
    AccessorSparseIndices,
    AccessorSparseValues,
    Asset,
    Attributes,
    Buffer,
    BufferView,
    Material,
    Mesh,
    Node,
    PbrMetallicRoughness,
    Perspective,
    Primitive,
    Sampler,
    Scene,
    Sparse,
    Texture,
    TextureInfo,
)
from pygltflib import Camera as GltfCamera
from pygltflib import Image as GltfImage
from torch import Tensor

from fit3d.camera import Camera
from fit3d.export.files import atomic_write
from fit3d.morphable.arkit import arkit_shapes
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.pieces import PieceKind, piece_kind
from fit3d.render.atlas import triangulate
from fit3d.render.shade import weighted_normals

STILL_M = 2e-6
"""A vertex that a morph target moves by less than this, metres, is left out of it."""
STILL_NORMAL = 0.004
"""The same for the change of a unit normal."""
TEXTURE_QUALITY = 95
"""Of the embedded JPEG, which has a fifth of the bytes of a PNG; the PNG lies beside the GLB."""

MaterialName = Literal["skin", "eye", "mouth", "film"]
ROUGHNESS: dict[MaterialName, float] = {"skin": 0.6, "eye": 0.15, "mouth": 0.35, "film": 0.0}
"""How matt each material is, from 0, a mirror, to 1."""
MATERIALS: dict[PieceKind, MaterialName] = {
    **{"skin": "skin", "attached": "skin", "eye": "eye", "teeth": "mouth", "tongue": "mouth", "film": "film"}
}
FILM_OPACITY = 0.02
"""Films, such as tears, are there to shine, not to be seen."""


def write_glb(
    path: str | Path,
    neutral: Tensor | np.ndarray,
    expression: Tensor | np.ndarray,
    model: MorphableModel,
    texture: np.ndarray,
    camera: Camera | None = None,
    generator: str = "fit3d",
) -> None:
    """Write a fitted head as GLB, atomically.

    Args:
        path: ends in '.glb'.
        neutral: (V, 3) world, metres, without expression.
        expression: (L,) coefficients of the model's expressions.
        model: gives faces, UVs, objects and expressions.
        texture: (S, S, 3) uint8 sRGB in the model's UV layout.
        camera: of the photo; None writes no camera. glTF cannot say where a principal point lies off the centre: the
            camera is then right but for that shift.
        generator: program and version that made it.
    """
    content = glb_bytes(neutral, expression, model, texture, camera, generator)
    with atomic_write(path) as file:
        file.write(content)


def glb_bytes(
    neutral: Tensor | np.ndarray,
    expression: Tensor | np.ndarray,
    model: MorphableModel,
    texture: np.ndarray,
    camera: Camera | None = None,
    generator: str = "fit3d",
) -> bytes:
    """The bytes of `write_glb`: the same input always gives the same."""
    positions = torch.as_tensor(np.asarray(neutral, np.float32))
    coefficients = np.asarray(expression, np.float64)
    assert positions.shape == model.mean.shape and coefficients.shape == (len(model.expression_names),)
    if not bool(torch.isfinite(positions).all()):
        raise ValueError("the mesh has positions that are not finite")
    targets = morph_targets(model.morphing(positions))
    weights = [float(coefficients[target.shape[0]]) if target.own else 0.0 for target in targets]
    triangles = torch.from_numpy(model.triangles.astype(np.int64))
    around = weighted_normals(positions, triangles)
    normals = _unit(around)
    bent = [_turned_normals(positions, around, triangles, target) - normals for target in targets]

    buffer = _Binary()
    gltf = GLTF2(
        asset=Asset(generator=generator, copyright=model.licence),
        scene=0,
        scenes=[Scene(nodes=[0], name="fit3d")],
        nodes=[Node(name="head_of_photo", children=[])],
        samplers=[Sampler(magFilter=LINEAR, minFilter=LINEAR_MIPMAP_LINEAR, wrapS=CLAMP_TO_EDGE, wrapT=CLAMP_TO_EDGE)],
        textures=[Texture(sampler=0, source=0)],
        images=[GltfImage(bufferView=buffer.view(_jpeg(texture)), mimeType="image/jpeg", name="texture")],
    )
    materials: dict[MaterialName, int] = {}
    for piece in pieces(model):
        kind = material_of(piece.name)
        if kind not in materials:
            materials[kind] = len(gltf.materials)
            gltf.materials.append(_material(kind))
        primitive = Primitive(
            attributes=Attributes(
                POSITION=buffer.dense(positions[piece.vertex].numpy(), bounds=True),
                NORMAL=buffer.dense(normals[piece.vertex].numpy()),
                TEXCOORD_0=buffer.dense(piece.uv),
            ),
            indices=buffer.indices(piece.triangles),
            material=materials[kind],
            targets=[],
        )
        moving = []
        for index, (target, turned) in enumerate(zip(targets, bent, strict=True)):
            offset = target.offset[piece.vertex].numpy()
            if np.abs(offset).max() <= STILL_M:
                continue
            moving.append(index)
            primitive.targets.append(
                Attributes(
                    POSITION=buffer.sparse(offset, STILL_M, bounds=True),
                    NORMAL=buffer.sparse(turned[piece.vertex].numpy(), STILL_NORMAL),
                )
            )
        mesh = Mesh(name=piece.name, primitives=[primitive])
        if moving:
            mesh.weights = [weights[index] for index in moving]
            mesh.extras = {"targetNames": [targets[index].name for index in moving]}
            residuals = {targets[index].name: targets[index].residual for index in moving}
            residuals = {name: round(value, 4) for name, value in residuals.items() if value is not None}
            if residuals:
                mesh.extras["arkitResiduals"] = residuals
        gltf.nodes[0].children.append(len(gltf.nodes))
        gltf.nodes.append(Node(name=piece.name, mesh=len(gltf.meshes)))
        gltf.meshes.append(mesh)
    if camera is not None:
        gltf.cameras.append(_camera(camera))
        gltf.scenes[0].nodes.append(len(gltf.nodes))
        gltf.nodes.append(Node(name="photo_camera", camera=0, matrix=_camera_matrix(camera)))
    buffer.into(gltf)
    return b"".join(gltf.save_to_bytes())


@dataclass(frozen=True)
class MorphTarget:
    """One expression that the file offers."""

    name: str
    shape: tuple[int, ...]
    """Expressions of the model whose sum it is."""
    offset: Tensor
    """(V, 3) float32, metres at weight 1."""
    touched: Tensor
    """(n,) int64: triangles of the model that change."""
    residual: float | None = None
    """Of a shape of ARKit's that is only nearly met: RMS of what is wrong, as a share of the shape's."""

    @property
    def own(self) -> bool:
        """Whether it is one of the model's own expressions, rather than made of them by ARKit's name."""
        return len(self.shape) == 1 and self.residual is None


@lru_cache(maxsize=1)
def morph_targets(model: MorphableModel) -> tuple[MorphTarget, ...]:
    """The model's own expressions, then ARKit's shapes that are sums of them, then those that combinations of them
    nearly are. Only the first start at the fitted weights: they are the fit, and its sides may differ."""
    own = [(name, (index,)) for index, name in enumerate(model.expression_names)]
    sums = [(name, shape) for name, shape in arkit_shapes(model.expression_names).items() if len(shape) > 1]
    triangles = torch.from_numpy(model.triangles.astype(np.int64))
    found = []
    offsets: list[tuple[str, tuple[int, ...], Tensor, float | None]]
    offsets = [(name, shape, model.expression[list(shape)].sum(0), None) for name, shape in (*own, *sums)]
    for name, each in model.arkit.items():
        coefficients = torch.tensor(each.coefficients, dtype=model.expression.dtype)
        shape = tuple(torch.nonzero(coefficients).squeeze(1).tolist())
        offset = torch.einsum("l,lvc->vc", coefficients, model.expression)
        offsets.append((name, shape, offset, each.residual))
    for name, shape, offset, residual in offsets:
        moved = offset.abs().amax(1) > STILL_M
        if bool(moved.any()):
            touched = torch.nonzero(moved[triangles].any(1)).squeeze(1)
            found.append(MorphTarget(name, shape, offset, touched, residual))
    return tuple(found)


@dataclass(frozen=True)
class Piece:
    """One object of the model with one UV per vertex, as glTF wants it: vertices on UV seams are there twice."""

    name: str
    vertex: np.ndarray
    """(N,) int64: the model's vertex."""
    uv: np.ndarray
    """(N, 2) float32, origin top left."""
    triangles: np.ndarray
    """(T, 3) uint32 into the piece's vertices."""


@lru_cache(maxsize=1)
def pieces(model: MorphableModel) -> tuple[Piece, ...]:
    """The model's objects, in their order; those without faces are left out."""
    quads = model.faces[:, 3] >= 0
    owner = np.concatenate([model.face_objects, model.face_objects[quads]])
    uv_triangles = triangulate(model.uv_faces)
    found = []
    for index, name in enumerate(model.objects):
        here = owner == index
        if not here.any():
            continue
        corners = np.stack([model.triangles[here], uv_triangles[here]], -1).reshape(-1, 2).astype(np.int64)
        unique, inverse = np.unique(corners, axis=0, return_inverse=True)
        uv = model.uv[unique[:, 1]] if len(model.uv) else np.zeros((len(unique), 2), np.float32)
        flipped = np.stack([uv[:, 0], 1.0 - uv[:, 1]], 1).astype(np.float32)
        found.append(Piece(name, unique[:, 0], flipped, inverse.reshape(-1, 3).astype(np.uint32)))
    return tuple(found)


def material_of(object_name: str) -> MaterialName:
    """What a piece of a head is made of, by its name."""
    return MATERIALS[piece_kind(object_name)]


def _material(kind: MaterialName) -> Material:
    matt = PbrMetallicRoughness(metallicFactor=0.0, roughnessFactor=ROUGHNESS[kind])
    if kind == "film":
        matt.baseColorFactor = [1.0, 1.0, 1.0, FILM_OPACITY]
    else:
        matt.baseColorTexture = TextureInfo(index=0)
    # a head is open at the neck: its inside may be seen
    see_through = BLEND if kind == "film" else OPAQUE
    return Material(name=kind, pbrMetallicRoughness=matt, alphaMode=see_through, doubleSided=kind != "film")


def _camera(camera: Camera) -> GltfCamera:
    return GltfCamera(
        name="photo_camera",
        type="perspective",
        perspective=Perspective(
            yfov=2.0 * math.atan(camera.height / (2.0 * camera.focal_px)),
            aspectRatio=camera.width / camera.height,
            znear=0.01,
            zfar=100.0,
        ),
        extras={
            "width_px": camera.width,
            "height_px": camera.height,
            "focal_px": camera.focal_px,
            "principal_px": list(camera.principal_px),
        },
    )


def _camera_matrix(camera: Camera) -> list[float]:
    """World from glTF's camera frame (x right, y up, looking along -z), column by column."""
    world_from_cam = torch.linalg.inv(camera.cam_from_world.double())
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    return [float(value) + 0.0 for value in (world_from_cam @ flip).T.reshape(-1)]


def _turned_normals(positions: Tensor, around: Tensor, triangles: Tensor, target: MorphTarget) -> Tensor:
    """(V, 3) unit normals of the mesh with a target at 1; `around` are the `weighted_normals` (V, 3) without it."""
    some = triangles[target.touched]
    before, after = (weighted_normals(places, some) for places in (positions, positions + target.offset))
    return _unit(around + (after - before))


def _unit(around: Tensor) -> Tensor:
    """Unit normals (V, 3) of `weighted_normals`; a vertex without area, which has none, gets one that points to the
    viewer."""
    length = around.norm(dim=1, keepdim=True)
    return torch.where(length > 0.0, around / length, around.new_tensor([0.0, 0.0, 1.0]))


def _jpeg(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "JPEG", quality=TEXTURE_QUALITY, subsampling=0)
    return content.getvalue()


class _Binary:
    """The file's binary chunk while it grows, and what the JSON says of it."""

    def __init__(self) -> None:
        self._content = bytearray()
        self._views: list[BufferView] = []
        self._accessors: list[Accessor] = []

    def view(self, content: bytes, target: int | None = None) -> int:
        """Appends bytes; returns the number of their buffer view."""
        self._content += b"\0" * (-len(self._content) % 4)
        self._views.append(BufferView(buffer=0, byteOffset=len(self._content), byteLength=len(content), target=target))
        self._content += content
        return len(self._views) - 1

    def dense(self, values: np.ndarray, bounds: bool = False) -> int:
        """Appends a vertex attribute (N, 2) or (N, 3) float32; returns the number of its accessor."""
        accessor = _vectors(values, bounds)
        accessor.bufferView = self.view(np.ascontiguousarray(values, np.float32).tobytes(), ARRAY_BUFFER)
        return self._add(accessor)

    def sparse(self, values: np.ndarray, least: float, bounds: bool = False) -> int:
        """Appends a vertex attribute (N, 3) float32 of which only rows with an entry beyond `least` are written."""
        some = np.flatnonzero(np.abs(values).max(1) > least)
        if not len(some):
            some = np.zeros(1, np.int64)  # glTF wants one
        kept = np.zeros_like(values)
        kept[some] = values[some]
        accessor = _vectors(kept, bounds)
        accessor.byteOffset = None  # of a buffer view that it does not have
        accessor.sparse = Sparse(
            count=len(some),
            indices=AccessorSparseIndices(
                bufferView=self.view(some.astype(np.uint32).tobytes()), componentType=UNSIGNED_INT
            ),
            values=AccessorSparseValues(bufferView=self.view(np.ascontiguousarray(kept[some], np.float32).tobytes())),
        )
        return self._add(accessor)

    def indices(self, triangles: np.ndarray) -> int:
        """Appends triangles (T, 3) uint32; returns the number of their accessor."""
        view = self.view(triangles.tobytes(), ELEMENT_ARRAY_BUFFER)
        return self._add(Accessor(bufferView=view, componentType=UNSIGNED_INT, count=triangles.size, type=SCALAR))

    def into(self, gltf: GLTF2) -> None:
        """Hands everything over."""
        gltf.accessors, gltf.bufferViews = self._accessors, self._views
        self._content += b"\0" * (-len(self._content) % 4)
        gltf.buffers = [Buffer(byteLength=len(self._content))]
        gltf.set_binary_blob(bytes(self._content))

    def _add(self, accessor: Accessor) -> int:
        self._accessors.append(accessor)
        return len(self._accessors) - 1


def _vectors(values: np.ndarray, bounds: bool) -> Accessor:
    accessor = Accessor(componentType=FLOAT, count=len(values), type=VEC3 if values.shape[1] == 3 else VEC2)
    if bounds:
        single = values.astype(np.float32)
        accessor.min, accessor.max = single.min(0).tolist(), single.max(0).tolist()
    return accessor
