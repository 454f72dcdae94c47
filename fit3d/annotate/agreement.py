"""How far two annotations of one model agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fit3d.annotate.mesh import Mesh, places_of
from fit3d.labels import PART_NAMES, PRDL_PARTS
from fit3d.landmarks import CONTOUR_LANDMARKS, LandmarkLayout
from fit3d.morphable.model import MorphableModel, PartAnnotation

SUBDIVISION = 2
"""Each triangle is sampled at the middles of this squared many equal ones."""
IRISES: dict[LandmarkLayout, tuple[int, ...]] = {"ibug68": (), "mediapipe478": tuple(range(468, 478))}


@dataclass(frozen=True)
class Agreement:
    """Two annotations compared on the mean head."""

    parts: dict[str, float]
    """By part, of the surface that either calls so the share that both do (intersection over union by area)."""
    landmarks_mm: dict[LandmarkLayout, float]
    """By layout, mean distance between the landmarks that neither slide nor lie on the eyeballs."""
    worst_mm: dict[LandmarkLayout, float]
    """The largest of them."""

    def as_text(self) -> list[str]:
        """The figures, a line each."""
        shares = ", ".join(f"{name} {100.0 * share:.0f}" for name, share in self.parts.items())
        lines = [f"area of the same label, %: {shares}"]
        for layout, mean in self.landmarks_mm.items():
            lines.append(f"landmarks {layout}: {mean:.1f} mm apart on average, at most {self.worst_mm[layout]:.1f} mm")
        return lines


def compare(first: MorphableModel, second: MorphableModel) -> Agreement:
    """Agreement of two annotations of one mesh."""
    positions = first.mean.double().numpy()
    counted = {}
    for one, other in ((first, second), (second, first)):
        places, normals, area, labels = _samples(one.annotation, positions)
        hit = Mesh(positions, other.annotation.triangles.numpy()).nearest(places, normals, candidates=8)
        counted[id(one)] = (area, labels, labels_at(other.annotation, hit.triangle, hit.weights))
    parts = {}
    for part in PRDL_PARTS:
        both = union = 0.0
        for area, here, there in counted.values():
            both += float(area[(here == part) & (there == part)].sum())
            union += float(area[here == part].sum())
        # each surface's own part is counted once, their common part from both sides
        parts[PART_NAMES[part]] = both / 2.0 / max(union - both / 2.0, 1e-12) if union else float("nan")
    mean, worst = {}, {}
    for layout in sorted(set(first.landmarks) & set(second.landmarks)):
        apart = np.linalg.norm(
            places_of(first.landmarks[layout].points, positions)
            - places_of(second.landmarks[layout].points, positions),
            axis=1,
        )
        apart = np.delete(apart, [*CONTOUR_LANDMARKS[layout], *IRISES[layout]])
        mean[layout], worst[layout] = 1000.0 * float(apart.mean()), 1000.0 * float(apart.max())
    return Agreement(parts, mean, worst)


def labels_at(parts: PartAnnotation, triangle: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N,) labels of points in triangles (N,) of the annotation, with these weights (N, 3)."""
    ids = torch.from_numpy(triangle)
    values = torch.einsum("fnc,nc->fn", parts.fields[:, parts.triangles[ids]].double(), torch.from_numpy(weights))
    fixed = parts.fixed_label[ids]
    return np.asarray(torch.where(fixed >= 0, fixed, parts.field_labels[values.argmax(0)]).numpy())


def _samples(parts: PartAnnotation, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Places (N, 3), normals (N, 3), areas (N,) and labels (N,) of points that sample the annotated surface evenly."""
    n = SUBDIVISION
    up = [(a + 1 / 3, b + 1 / 3) for a in range(n) for b in range(n - a)]
    down = [(a + 2 / 3, b + 2 / 3) for a in range(n - 1) for b in range(n - 1 - a)]
    grid = np.array([(a, b, n - a - b) for a, b in up + down]) / n  # (n^2, 3)
    mesh = Mesh(positions, parts.triangles.numpy())
    count = len(mesh.triangles)
    triangle, weights = np.repeat(np.arange(count), len(grid)), np.tile(grid, (count, 1))
    places = np.einsum("nk,nkc->nc", weights, mesh.corners[triangle])
    a, b, c = mesh.corners.transpose(1, 0, 2)
    normal = np.cross(b - a, c - a)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-20)
    return places, normal[triangle], mesh.areas[triangle] / len(grid), labels_at(parts, triangle, weights)
