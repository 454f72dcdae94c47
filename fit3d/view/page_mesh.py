"""Meshes in the form in which the page takes them.

A clay head, a wireframe and facial parts are plain meshes: at a change only their vertices travel. A texture needs a
GLB; it is laid out once, and at a change only the positions in it are written anew.
"""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from fit3d.labels import PART_COLOURS
from fit3d.morphable.model import MorphableModel
from fit3d.view.subject import Surface
from fit3d.view.tone import before_tone_mapping

PAGE_TEXTURE = 1024
"""Side of the texture on the page, px: it travels at every change."""
TEXTURE_QUALITY = 90
CUTS = 4
"""Into how many pieces the sides of a triangle are cut that holds the border of a part."""

_GLB_MAGIC, _JSON_CHUNK, _BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
_FLOAT, _UNSIGNED_INT = 5126, 5125


class TexturedMesh:
    """A GLB whose positions change: unlit, since the light is in the texture."""

    def __init__(self, surface: Surface, texture: np.ndarray) -> None:
        corners = np.stack([surface.triangles, surface.uv_triangles], -1).reshape(-1, 2)
        unique, inverse = np.unique(corners, axis=0, return_inverse=True)
        self._vertex = unique[:, 0]
        uv = surface.uv[unique[:, 1]]
        flipped = np.stack([uv[:, 0], 1.0 - uv[:, 1]], 1).astype(np.float32)
        colours, gain = before_tone_mapping(_page_size(texture))
        chunks = [
            bytes(12 * len(unique)),
            flipped.tobytes(),
            inverse.astype(np.uint32).tobytes(),
            _jpeg(colours),
        ]
        self._content, self._start = _glb(chunks, len(unique), len(inverse), gain)

    def glb(self, vertices: np.ndarray) -> bytes:
        """The file with the surface's vertices at `vertices` (V, 3)."""
        positions = np.ascontiguousarray(vertices[self._vertex], np.float32).tobytes()
        self._content[self._start : self._start + len(positions)] = positions
        return bytes(self._content)


@dataclass(frozen=True)
class PartMesh:
    """The region of one facial part, cut out of the model's surface."""

    colour: tuple[int, int, int]
    """sRGB."""
    vertex: np.ndarray
    """(N, 3) int64: each vertex is a sum of three of the model's,"""
    weight: np.ndarray
    """(N, 3) float32: with these weights."""
    triangles: np.ndarray
    """(T, 3) int64 into the N vertices."""

    def positions(self, vertices: np.ndarray) -> np.ndarray:
        """(N, 3) float32 places of its vertices where the model's are at `vertices` (V, 3)."""
        return np.einsum("nk,nkc->nc", self.weight, vertices[self.vertex]).astype(np.float32)


@lru_cache(maxsize=1)
def part_meshes(model: MorphableModel) -> tuple[PartMesh, ...]:
    """The parts of the outer surface, eye and mouth openings included. A triangle with a border in it is cut into
    `CUTS`² smaller ones, each of the part that its middle belongs to."""
    annotation = model.annotation
    triangles, fixed = annotation.triangles.numpy(), annotation.fixed_label.numpy()
    fields, labels = annotation.fields.numpy(), annotation.field_labels.numpy()
    at_corners = labels[fields.argmax(0)][triangles]
    whole = (fixed >= 0) | (at_corners == at_corners[:, :1]).all(1)
    # a corner of a triangle is given by three vertex ids and weights, in pieces of a side
    ids = [np.repeat(triangles[whole][:, None], 3, 1)]
    weights = [np.broadcast_to(CUTS * np.eye(3, dtype=np.int64), (int(whole.sum()), 3, 3))]
    label = [np.where(fixed >= 0, fixed, at_corners[:, 0])[whole]]
    cut, small = triangles[~whole], _small_triangles()
    middle = small.mean(1) / CUTS
    label.append(labels[np.einsum("fnk,sk->fns", fields[:, cut], middle).argmax(0)].ravel())
    ids.append(np.repeat(cut[:, None], 3 * len(small), 1).reshape(-1, 3, 3))
    weights.append(np.broadcast_to(small, (len(cut), *small.shape)).reshape(-1, 3, 3))
    all_ids, all_weights, all_labels = (np.concatenate(each) for each in (ids, weights, label))
    return tuple(
        _part_mesh(int(each), all_ids[all_labels == each], all_weights[all_labels == each])
        for each in np.unique(all_labels)
    )


def _part_mesh(label: int, ids: np.ndarray, weights: np.ndarray) -> PartMesh:
    """Of triangles whose corners are `ids` (T, 3, 3) with `weights` (T, 3, 3); corners at one place become one, so that
    the surface is smooth."""
    ids, weights = ids.reshape(-1, 3), weights.reshape(-1, 3)
    used = np.where(weights > 0, ids, -1)
    order = np.argsort(used, axis=1)
    key = np.concatenate([np.take_along_axis(used, order, 1), np.take_along_axis(weights, order, 1)], 1)
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    return PartMesh(PART_COLOURS[label], ids[first], (weights[first] / CUTS).astype(np.float32), inverse.reshape(-1, 3))


def _small_triangles() -> np.ndarray:
    """(CUTS², 3, 3) int64: corners, in weights of the large triangle's corners times `CUTS`, turning the same way."""
    found = []
    for i in range(CUTS):
        for j in range(CUTS - i):
            a, b, c = (i, j), (i + 1, j), (i, j + 1)
            found.append((a, b, c))
            if i + j < CUTS - 1:
                found.append((b, (i + 1, j + 1), c))
    return np.array([[(CUTS - i - j, i, j) for i, j in triangle] for triangle in found], np.int64)


def _page_size(texture: np.ndarray) -> np.ndarray:
    if len(texture) <= PAGE_TEXTURE:
        return texture
    image = Image.fromarray(np.ascontiguousarray(texture))
    return np.asarray(image.resize((PAGE_TEXTURE, PAGE_TEXTURE), Image.Resampling.BOX))


def _jpeg(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "JPEG", quality=TEXTURE_QUALITY, subsampling=0)
    return content.getvalue()


def _glb(chunks: list[bytes], vertices: int, corners: int, gain: float) -> tuple[bytearray, int]:
    """A GLB of the chunks positions, UVs, indices and texture, and where in it the positions begin.

    Args:
        gain: factor of the texture's colours.
    """
    views, binary = [], bytearray()
    for chunk in chunks:
        binary += bytes(-len(binary) % 4)
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(chunk)})
        binary += chunk
    binary += bytes(-len(binary) % 4)
    gltf = {
        "asset": {"version": "2.0"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2, "material": 0}]}],
        "materials": [
            {
                "pbrMetallicRoughness": {
                    "baseColorTexture": {"index": 0},
                    "baseColorFactor": [gain, gain, gain, 1.0],
                    "metallicFactor": 0.0,
                },
                "doubleSided": True,
                "extensions": {"KHR_materials_unlit": {}},
            }
        ],
        "textures": [{"source": 0}],
        "images": [{"bufferView": 3, "mimeType": "image/jpeg"}],
        "accessors": [
            # the reader measures the mesh itself
            {
                **{"bufferView": 0, "componentType": _FLOAT, "count": vertices, "type": "VEC3"},
                **{"min": [-1.0] * 3, "max": [1.0] * 3},
            },
            {"bufferView": 1, "componentType": _FLOAT, "count": vertices, "type": "VEC2"},
            {"bufferView": 2, "componentType": _UNSIGNED_INT, "count": corners, "type": "SCALAR"},
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": len(binary)}],
    }
    text = json.dumps(gltf).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<III", _GLB_MAGIC, 2, 12 + 8 + len(text) + 8 + len(binary))
    head += struct.pack("<II", len(text), _JSON_CHUNK) + text + struct.pack("<II", len(binary), _BINARY_CHUNK)
    return bytearray(head) + binary, len(head)
