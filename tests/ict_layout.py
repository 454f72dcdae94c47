"""The repository of ICT-FaceKit as its makers laid it out, written from the numbers in one file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]
FEW = 2
"""Identities of the copy that the tests write: the hundred take a minute."""


def vertex_lines(values: np.ndarray) -> list[str]:
    """Nine digits carry a float32 there and back."""
    text = "v %.9g %.9g %.9g\n" * len(values) % tuple(values.astype(np.float64).ravel().tolist())
    return text.splitlines(keepends=True)


def write_layout(folder: Path, arrays: Arrays) -> None:
    """`FaceXModel/` as the repository has it, but with the first `FEW` identities only."""
    folder.mkdir(parents=True)
    neutral = arrays["neutral_cm"]
    lines = [f"vt {u:.9g} {v:.9g}\n" for u, v in arrays["uv"].tolist()]
    material = None
    for face, uv_face, name in zip(
        arrays["faces"].tolist(), arrays["uv_faces"].tolist(), arrays["face_materials"].tolist(), strict=True
    ):
        if name != material:
            lines.append(f"usemtl {name}\n")
            material = name
        lines.append("f " + " ".join(f"{v + 1}/{t + 1}" for v, t in zip(face, uv_face, strict=True) if v >= 0) + "\n")
    head, tail, rest = "# ICT FaceKit\n\nmtllib ICTFaceModelMaterial.mtl\n", "".join(lines), vertex_lines(neutral)

    def write(name: str, step: np.ndarray) -> None:
        moved = np.flatnonzero(step.any(axis=1))
        own = rest.copy()
        places = (neutral[moved].astype(np.float64) + step[moved]).astype(np.float32)
        for index, line in zip(moved.tolist(), vertex_lines(places), strict=True):
            own[index] = line
        (folder / f"{name}.obj").write_text(head + "".join(own) + tail, encoding="ascii")

    write("generic_neutral_mesh", np.zeros_like(neutral))
    for index in range(FEW):
        write(f"identity{index:03d}", arrays["identity_cm"][index])
    for name, step in zip(arrays["expression_names"].tolist(), arrays["expression_cm"], strict=True):
        write(name, step)
    indices = {
        "expressions": [name for name in arrays["expression_names"].tolist() if name[0].islower()],
        "incompatibilities": [],
        "idx_to_landmark_verts": arrays["landmarks68"].tolist(),
    }
    (folder / "vertex_indices.json").write_text(json.dumps(indices), encoding="utf-8")
