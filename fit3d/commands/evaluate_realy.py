"""`fit3d evaluate realy`: predicted meshes against the scans of REALY."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fit3d.checks import read_bounded
from fit3d.commands.evaluate_options import OutputOptions
from fit3d.commands.evaluate_record import Recorder
from fit3d.commands.evaluate_table import as_table, number
from fit3d.commands.with_options import with_options
from fit3d.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from fit3d.evaluate.realy.keypoints import KeypointFile
    from fit3d.evaluate.realy.work import Measured, Summary

MEGABYTES_OF_MASK = 64


@with_options
def evaluate_realy_command(
    context: typer.Context,
    predictions: Annotated[
        Path,
        typer.Option(
            "--predictions",
            metavar="DIR",
            help="Predicted meshes X.obj or X.ply, or X/X.obj as `fit3d fit` and `batch` write them; X is the name of "
            "the image, which begins with the number of the subject: 12, 12_3. They may lie in folders 'frontal' and "
            "'side', which are then told apart.",
            show_default=False,
        ),
    ],
    benchmark: Annotated[
        Path,
        typer.Option(
            "--benchmark",
            metavar="DIR",
            help="REALY's data: REALY_HIFI3D_keypoints, REALY_scan_region and metrical_scale.txt. Its owners give them "
            "out on agreement, see docs/realy.md.",
            show_default=False,
        ),
    ],
    keypoints: Annotated[
        str,
        typer.Option(
            "--keypoints",
            metavar="MODEL|FILE",
            help="Where the 85 keypoints lie on the meshes: the name of the face model that they are of, or a file, "
            "fit3d's (see `fit3d models realy-keypoints`) or REALY's own.",
        ),
    ] = "anny",
    template: Annotated[
        Path | None,
        typer.Option(
            "--template",
            metavar="MESH",
            help="Mesh whose triangles a keypoint file of REALY's numbers. Default: each prediction's own.",
            show_default=False,
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask",
            metavar="FILE",
            help="0 or 1 for each vertex, separated by commas or lines: triangles of vertices with 0 are left out "
            "after the rigid alignment, as with REALY's --template_mask.",
            show_default=False,
        ),
    ] = None,
    errors: Annotated[
        Path | None,
        typer.Option(
            "--errors",
            metavar="FILE",
            help="Also write all errors in the layout of REALY's REALY_error.txt.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Processes. Default: one per core.", show_default=False),
    ] = None,
    *,
    output: OutputOptions,
) -> int:
    """Distance in millimetres of predicted meshes from the scans of the REALY benchmark, by its own protocol.

    For nose, mouth, forehead and cheek by themselves: the mesh is aligned by keypoints (with scale), then rigidly on
    the region, then the region is bent onto the mesh to find which points correspond; the error is the mean distance
    between them. Shown are mean, standard deviation and median over all meshes; 'all' is the mean of the four means.

    Scale and pose of the meshes do not matter; the expression does: they are measured as they are.

    Exit code: 0 all done; 1 some mesh could not be measured (one line says why); 2 wrong usage, or no data.
    """
    recorder = Recorder(context)
    from fit3d.evaluate.mesh_file import read_mesh
    from fit3d.evaluate.realy.benchmark import KEYPOINTS_FOLDER, find_predictions, open_benchmark
    from fit3d.evaluate.realy.work import RealyWork, measure, summarise
    from fit3d.evaluate.record import Data
    from fit3d.export.files import write_text

    data = open_benchmark(benchmark)
    files = find_predictions(predictions)
    work = RealyWork(
        data,
        _keypoints(keypoints),
        None if template is None else read_mesh(template).triangles,
        None if mask is None else _mask(mask),
    )
    console = output.console()
    results: list[Measured] = []
    with console.progress(len(files)):
        for result in measure(work, files, workers or os.cpu_count() or 1):
            results.append(result)
            console.advance()
            if result.failure is not None:
                console.error(f"{result.file.path}: {result.failure}")
    place = {file: index for index, file in enumerate(files)}
    results.sort(key=lambda result: place[result.file])
    by_view = {
        view: summarise([result for result in results if result.file.view == view])
        for view in dict.fromkeys(file.view for file in files)
    }
    if errors is not None:
        write_text(errors, _error_text(results))
    if output.as_json:
        subjects = sorted({file.subject for file in files if file.subject is not None})
        # of the scans, not of the predictions: two runs compare that are of the same scans
        scans = Data.of_files("REALY", [benchmark / KEYPOINTS_FOLDER / f"{subject}.obj" for subject in subjects])
        console.result("", recorder.record(replace(scans, photos=len(files)), _figures(results, by_view)))
    elif any(by_view.values()):
        console.result(_table({view: each for view, each in by_view.items() if each is not None}), {})
    return 1 if any(result.failure is not None for result in results) else 0


def _keypoints(given: str) -> KeypointFile:
    """Of a file or, by its name, of a face model."""
    from fit3d.evaluate.realy.keypoints import KeypointFile, read_keypoints

    path = Path(given)
    if path.is_file():
        return read_keypoints(path)
    if path.suffix or os.sep in given:
        raise UsageError(f"{given}: no such keypoint file; make one with `fit3d models realy-keypoints`")
    from fit3d.evaluate.realy.model_keypoints import keypoints_of
    from fit3d.morphable.registry import load_model

    made = keypoints_of(load_model(given))
    return KeypointFile(Path(f"--keypoints {given}"), made.vertices, made.weights, made.vertex_count)


def _mask(path: Path) -> np.ndarray:
    """(V,) bool."""
    import numpy as np

    expected = "0 or 1 for each vertex, separated by commas or lines"
    words = read_bounded(path, MEGABYTES_OF_MASK << 20, expected).replace(b",", b" ").split()
    if not words or not set(words) <= {b"0", b"1"}:
        raise UsageError(f"{path}: expected {expected}")
    return np.array([word == b"1" for word in words])


def _table(summaries: dict[str, Summary]) -> str:
    from fit3d.evaluate.realy.keypoints import REGIONS

    rows = []
    for view, summary in summaries.items():
        for name, figures in (("mean", summary.mean), ("std", summary.std), ("median", summary.median)):
            last = number(summary.all, 3) if name == "mean" else ""
            rows.append([view, name, *(number(figures[region], 3) for region in REGIONS), last])
        rows[-3][0] = f"{view} ({summary.count})"
        rows[-2][0] = rows[-1][0] = ""
    return as_table(["meshes", "mm", *REGIONS, "all"], rows)


def _figures(results: Sequence[Measured], by_view: dict[str, Summary | None]) -> dict[str, Any]:
    return {
        "views": {view: None if summary is None else vars(summary) for view, summary in by_view.items()},
        "failures": {str(result.file.path): result.failure for result in results if result.failure is not None},
        "photos": [
            {"photo": result.file.name, "group": result.file.view, **result.errors_mm}
            for result in results
            if result.failure is None
        ],
    }


def _error_text(results: Sequence[Measured]) -> str:
    """A line for each mesh, as REALY's code writes it: name, an empty cell, the four errors, nine characters each."""
    lines = []
    for result in results:
        if result.failure is None:
            lines.append("\t".join([result.file.name, "", *(str(error)[:9] for error in result.errors_mm.values())]))
    return "".join(f"{line}\n" for line in lines)
