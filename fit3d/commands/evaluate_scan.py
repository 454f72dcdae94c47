"""The part of `fit3d evaluate geometry` that measures one mesh against a scan of the true face."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fit3d.checks import check_positive
from fit3d.commands.console import Console
from fit3d.commands.evaluate_record import Recorder
from fit3d.commands.evaluate_table import as_table, number
from fit3d.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from fit3d.evaluate.mesh_file import Mesh
    from fit3d.morphable.model import MorphableModel

Unit = Literal["mm", "cm", "m"]
FilePath = Path | None
PANEL = "A scan of the true face"


@dataclass(frozen=True)
class ScanOptions:
    """What is measured against which scan."""

    fit: Annotated[
        FilePath,
        typer.Argument(
            help="With --scan: the fit that is measured, a result's folder or JSON, or a mesh (OBJ, PLY, STL).",
            metavar="FIT",
            show_default=False,
        ),
    ] = None
    scan: Annotated[
        FilePath,
        typer.Option(
            "--scan",
            metavar="MESH",
            help="Measure FIT against this scan (OBJ, PLY, STL) instead of fits to random heads.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None
    landmarks: Annotated[
        FilePath,
        typer.Option(
            "--landmarks",
            metavar="FILE",
            help="Landmarks on the scan: text with a point a line, JSON or MeshLab's .pp. 7 points are taken as NoW's, "
            "51 and 68 as iBUG's.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None
    landmark_ids: Annotated[
        str | None,
        typer.Option(
            "--landmark-ids",
            metavar="N,N,…",
            help="iBUG's number, 0 to 67, of each point in the file, in its order.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None
    align: Annotated[
        Literal["similarity", "rigid"],
        typer.Option(
            "--align",
            help="'similarity' fits the size of the mesh to the scan, as NoW does; with 'rigid' the size counts.",
            rich_help_panel=PANEL,
        ),
    ] = "similarity"
    scan_unit: Annotated[Unit, typer.Option("--scan-unit", help="Of the scan.", rich_help_panel=PANEL)] = "mm"
    mesh_unit: Annotated[
        Unit,
        typer.Option("--mesh-unit", help="Of FIT where it is a mesh; a result says it itself.", rich_help_panel=PANEL),
    ] = "m"
    mesh_landmarks: Annotated[
        FilePath,
        typer.Option(
            "--mesh-landmarks",
            metavar="FILE",
            help="Landmarks on FIT where it is a mesh, of the same points as the scan's. Default: those of --model, "
            "if it has as many vertices.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None
    out: Annotated[
        FilePath,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Write the error map there: error.ply with colours and error.png.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None
    scale: Annotated[
        float, typer.Option("--scale", metavar="MM", help="End of the colours' scale.", rich_help_panel=PANEL)
    ] = 5.0


def measure_against_scan(options: ScanOptions, model: str, console: Console, recorder: Recorder) -> int:
    """What `fit3d evaluate geometry FIT --scan MESH --landmarks FILE` does."""
    if options.fit is None or options.scan is None or options.landmarks is None:
        raise UsageError("a scan is measured with: fit3d evaluate geometry FIT --scan MESH --landmarks FILE")
    check_positive("--scale", options.scale)
    numbers = _numbers(options.landmark_ids)
    from fit3d.evaluate.mesh_file import read_mesh
    from fit3d.evaluate.record import Data
    from fit3d.evaluate.scan import MM_PER_UNIT, measure_scan
    from fit3d.evaluate.scan_landmarks import read_scan_landmarks
    from fit3d.evaluate.scan_picture import error_picture, error_ply
    from fit3d.export.files import atomic_write, write_image

    per_unit = MM_PER_UNIT[options.scan_unit]
    landmarks = {n: per_unit * p for n, p in read_scan_landmarks(options.landmarks, numbers).items()}
    scan = _scaled(read_mesh(options.scan), per_unit)
    mesh, mesh_landmarks = _fitted(options, model, numbers)
    measured = measure_scan(mesh, mesh_landmarks, scan, landmarks, options.align)
    if options.out is not None:
        with atomic_write(options.out / "error.ply") as file:
            file.write(error_ply(measured, options.scale))
        write_image(options.out / "error.png", error_picture(measured, landmarks, options.scale))
    figures = measured.figures()
    if console.as_json:
        data = Data.of_files("scan", [options.scan])
        console.result("", recorder.record(data, {"alignment": options.align, **figures, "photos": []}))
    else:
        names = ("mean", "median", "rms", "p90", "max")
        cells = [number(figures[f"{name}_mm"]) for name in names]
        rows = [[options.fit.name, *cells, str(figures["points"]), number(figures["scale"], 4)]]
        console.result(as_table(["mm, scan to mesh", *names, "points", "scale"], rows), {})
        if options.out is not None:
            console.result(f"{options.out / 'error.ply'}, {options.out / 'error.png'}", {})
    return 0


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and len(word) <= 2 for word in words) or len(set(words)) < len(words):
        raise UsageError(f"--landmark-ids {text}: expected different numbers from 0 to 67, separated by commas")
    return [int(word) for word in words]


def _fitted(options: ScanOptions, model: str, numbers: list[int] | None) -> tuple[Mesh, dict[int, np.ndarray]]:
    """The mesh, mm, and its landmarks by iBUG's numbers."""
    from fit3d.evaluate.mesh_file import ENDINGS, read_mesh
    from fit3d.evaluate.scan import MM_PER_UNIT
    from fit3d.evaluate.scan_landmarks import read_scan_landmarks
    from fit3d.morphable.registry import load_model

    assert options.fit is not None
    if options.fit.suffix.lower() not in ENDINGS:
        return _of_result(options.fit)
    per_unit = MM_PER_UNIT[options.mesh_unit]
    mesh = _scaled(read_mesh(options.fit), per_unit)
    if options.mesh_landmarks is not None:
        found = read_scan_landmarks(options.mesh_landmarks, numbers)
        return mesh, {number: per_unit * point for number, point in found.items()}
    face_model = load_model(model)
    if len(face_model.mean) != len(mesh.vertices):
        raise UsageError(
            f"{options.fit}: {len(mesh.vertices)} vertices, the face model '{model}' has {len(face_model.mean)}; say "
            "with --model which one it is of, or give its landmarks with --mesh-landmarks"
        )
    return mesh, _landmarks_of(face_model, mesh.vertices)


def _of_result(path: Path) -> tuple[Mesh, dict[int, np.ndarray]]:
    """The fitted head, with its expression."""
    from fit3d.evaluate.mesh_file import Mesh
    from fit3d.export.read_result import read_fit, result_path
    from fit3d.morphable.registry import load_model

    fit = read_fit(result_path(path))
    model = load_model(fit.model_name)
    identity, expression = fit.coefficients(model)
    vertices = 1000.0 * model.vertices(identity.float(), expression.float()).double().numpy()
    return Mesh(vertices, model.triangles[model.opaque].astype("int64")), _landmarks_of(model, vertices)


def _landmarks_of(model: MorphableModel, vertices: np.ndarray) -> dict[int, np.ndarray]:
    """iBUG's, but those of the outline, which are no points of the surface."""
    import torch

    embedding = model.landmarks["ibug68"]
    points = embedding.points.of(torch.from_numpy(vertices)).numpy()
    sliding = set(embedding.sliding.tolist())
    return {index: point for index, point in enumerate(points) if index not in sliding}


def _scaled(mesh: Mesh, factor: float) -> Mesh:
    from fit3d.evaluate.mesh_file import Mesh

    return Mesh(factor * mesh.vertices, mesh.triangles)
