"""A head from one model's topology to another's, from files to files: read, describe, bend, carry, measure, write."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fit3d import __version__
from fit3d.annotate.mesh import Mesh, triangles_of
from fit3d.annotate.register import MOST_SCALED, MOST_TURNED_DEG, skin_faces
from fit3d.checks import check_texture_size
from fit3d.errors import UsageError
from fit3d.export.files import safe_stem, staged, usage_errors, write_image
from fit3d.export.obj import write_mtl, write_obj
from fit3d.export.result_json import SCHEMA_VERSION, plain, write_result
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.registry import load_model
from fit3d.transfer.person import Head, Person, describe
from fit3d.transfer.pieces import place_pieces
from fit3d.transfer.sheet import Laid, carry_motion, lay
from fit3d.transfer.source import Result, read_result
from fit3d.transfer.texture import carry_texture

KIND = "transfer"
FARTHEST_MM = 3.0
"""A larger mean distance over the face after the wrap, with or without expression, means that it failed."""


@dataclass(frozen=True)
class Distances:
    """Distances over the face, mm."""

    mean: float
    percentile_95: float
    max: float

    @classmethod
    def of(cls, metres: np.ndarray) -> Distances:
        mm = 1000.0 * metres
        return cls(float(mm.mean()), float(np.quantile(mm, 0.95)), float(mm.max()))


@dataclass(frozen=True)
class Errors:
    """How far two surfaces are apart over the face."""

    to_source: Distances
    """From the target's vertices to the source's skin."""
    from_source: Distances
    """From the source's vertices to the target's skin."""


@dataclass(frozen=True)
class Transferred:
    """A head in the target model's topology."""

    source: Result
    head: Head
    texture: np.ndarray
    """(S, S, 3) uint8 sRGB in the target's layout."""
    person: Person
    expression: np.ndarray
    """(L,) of the target, within bounds: with `person`, what the model alone makes of the posed head."""
    errors: dict[str, Errors]
    """'model' (before the refinement) and 'refined', each with and without '_neutral'."""
    corresponding: float
    """Share of the face's vertices that have a counterpart on the source."""
    textured: float
    """Share of the face's texels whose colour comes from the source's texture."""
    timings_s: dict[str, float]

    @property
    def name(self) -> str:
        """Stem of its files."""
        return safe_stem(f"{self.source.stem}-{self.head.model.name}")

    def save(self, folder: str | Path) -> dict[str, Path]:
        """Write all files to `folder/<stem>-<model>/`, all or nothing; an earlier one of that name is replaced. Returns
        them by kind.

        Raises:
            UsageError: the folder cannot be written to, the disk is full, or the source lies there.
        """
        target = Path(folder) / self.name
        if target.resolve() == self.source.path.resolve().parent:
            raise UsageError(f"{target} is the folder of the result itself; choose another one (-o)")
        model = self.head.model
        endings = {
            "obj": ".obj",
            "mtl": ".mtl",
            "texture": "_texture.png",
            "neutral_obj": "_neutral.obj",
            "json": ".json",
        }
        with usage_errors(target), staged(target) as stage:
            files = {kind: stage / f"{target.name}{ending}" for kind, ending in endings.items()}
            write_obj(files["obj"], self.head.posed, model, files["mtl"].name)
            write_obj(files["neutral_obj"], self.head.neutral, model, files["mtl"].name)
            write_mtl(files["mtl"], files["texture"].name)
            write_image(files["texture"], self.texture)
            write_result(files["json"], self.as_dict())
        return {kind: target / path.name for kind, path in files.items()}

    def as_dict(self) -> dict[str, Any]:
        """The content of the JSON, described in docs/transfer.schema.json."""
        source, model, place = self.source, self.head.model, self.person.world_from_model
        content: dict[str, Any] = plain(
            {
                "kind": KIND,
                "schema": SCHEMA_VERSION,
                "fit3d_version": __version__,
                "source": {
                    "path": str(source.path),
                    "sha256": source.sha256,
                    "model": source.head.model.name,
                    "model_version": source.head.model.version,
                },
                "model": {
                    "name": model.name,
                    "version": model.version,
                    "licence": model.licence,
                    "source": model.source,
                    "units": "metres",
                },
                "licences": self.licences,
                "parameters": {
                    "identity": self.person.identity,
                    "expression": dict(zip(model.expression_names, self.expression.tolist(), strict=True)),
                    "neutral_expression": dict(
                        zip(model.expression_names, self.person.neutral_expression.tolist(), strict=True)
                    ),
                    "world_from_model": {
                        "scale": place.scale,
                        "rotation": place.rotation,
                        "shift_m": place.shift,
                    },
                },
                "errors_mm": {name: dataclasses.asdict(errors) for name, errors in self.errors.items()},
                "corresponding": self.corresponding,
                "textured": self.textured,
                "texture_size": len(self.texture),
                "timings_s": self.timings_s,
                "warnings": list(source.warnings),
            }
        )
        return content

    @property
    def licences(self) -> dict[str, str]:
        """May it be sold? One plain sentence for each model that had a part in it; all of them hold."""
        return {**self.source.licences, self.head.model.name: self.head.model.licence}


def transfer(
    source: Result | str | Path, target: str | MorphableModel, *, texture_size: int | None = None
) -> Transferred:
    """Bring a head to the topology of the model `target`; it stays where it is in the world.

    Args:
        source: a result, or its folder or JSON.
        target: name of a face model (`fit3d models list`), or one that is loaded.
        texture_size: side of the new texture, px; None is that of the source's.

    Raises:
        UsageError: no such result or model, or they do not fit together.
        ModelFileError: a file of a model or a mesh is damaged.
    """
    if texture_size is not None:
        check_texture_size(texture_size)
    begin = time.perf_counter()
    model = load_model(target) if isinstance(target, str) else target
    if not len(model.uv):
        raise UsageError(f"the face model '{model.name}' has no UVs, so it cannot take a texture")
    if not isinstance(source, Result):
        source = read_result(source)
    timings, clock = {"load": time.perf_counter() - begin}, time.perf_counter()
    person = describe(source.head, model)
    _check(source.head, model, person)
    start = person.vertices(model, person.neutral_expression)
    timings["describe"], clock = time.perf_counter() - clock, time.perf_counter()
    laid = lay(source.head, model, start)
    motion, expression = carry_motion(source.head, model, person, laid)
    neutral, posed = place_pieces(source.head, model, start, laid, motion)
    head = Head(model, neutral, posed, dict(zip(model.expression_names, expression.tolist(), strict=True)))
    timings["refine"], clock = time.perf_counter() - clock, time.perf_counter()
    alone = Head(model, start, person.vertices(model, expression), {})
    errors = {
        "model": errors_between(source.head, alone, posed=True),
        "model_neutral": errors_between(source.head, alone, posed=False),
        "refined": errors_between(source.head, head, posed=True),
        "refined_neutral": errors_between(source.head, head, posed=False),
    }
    if max(errors[name].to_source.mean for name in ("refined", "refined_neutral")) > FARTHEST_MM:
        raise UsageError(_failed(source.head, model))
    timings["measure"], clock = time.perf_counter() - clock, time.perf_counter()
    size = len(source.texture) if texture_size is None else texture_size
    texture, textured = carry_texture(source.head, source.texture, model, neutral, size)
    timings["texture"] = time.perf_counter() - clock
    timings["total"] = time.perf_counter() - begin
    return Transferred(
        source=source,
        head=head,
        texture=texture,
        person=person,
        expression=expression,
        errors=errors,
        corresponding=_corresponding(head, laid),
        textured=textured,
        timings_s=timings,
    )


def errors_between(source: Head, target: Head, posed: bool) -> Errors:
    """Distances between both heads' skins over their faces, with or without expression. The skins hold their cavities,
    so that what lies in one head's nostril is compared with the other's."""

    def skin(head: Head) -> Mesh:
        points = head.posed if posed else head.neutral
        return Mesh(points, triangles_of(head.model.faces[skin_faces(head.model)]))

    ours, theirs = skin(target), skin(source)
    return Errors(
        Distances.of(theirs.nearest(ours.points[target.face]).distance),
        Distances.of(ours.nearest(theirs.points[source.face]).distance),
    )


def _corresponding(head: Head, laid: Laid) -> float:
    return float((laid.trust[np.isin(laid.ids, head.face)] > 0.5).mean())


def _check(source: Head, target: MorphableModel, person: Person) -> None:
    """Raises UsageError where the description is no head."""
    place = person.world_from_model
    turn = np.degrees(np.arccos(np.clip((np.trace(place.rotation) - 1.0) / 2.0, -1.0, 1.0)))
    if not (1.0 / MOST_SCALED < place.scale < MOST_SCALED and turn < MOST_TURNED_DEG):
        raise UsageError(_failed(source, target))


def _failed(source: Head, target: MorphableModel) -> str:
    return (
        f"{target.name} could not be laid onto this head of {source.model.name}; is the head a good fit, and are the "
        "parts and landmarks of both models right (fit3d models annotate)?"
    )
