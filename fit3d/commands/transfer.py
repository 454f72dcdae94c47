"""`fit3d models transfer`: brings a fitted head to another face model's topology."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fit3d.checks import LARGEST_TEXTURE, SMALLEST_TEXTURE
from fit3d.commands.console import Console
from fit3d.commands.options import QuietOption

if TYPE_CHECKING:
    from fit3d.transfer.transfer import Distances


def models_transfer_command(
    result: Annotated[
        Path,
        typer.Argument(help="Folder that `fit3d fit` wrote for one photo, or the JSON in it.", metavar="RESULT"),
    ],
    to: Annotated[
        str, typer.Option("--to", help="Face model to bring it to, see `fit3d models list`.", metavar="NAME")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Output folder; the files go to OUT/<result>-NAME/. Default: the folder that RESULT's folder lies in, "
            "so that OUT/photo becomes OUT/photo-NAME.",
            metavar="OUT",
            show_default=False,
        ),
    ] = None,
    texture_size: Annotated[
        int | None,
        typer.Option(
            "--texture-size",
            min=SMALLEST_TEXTURE,
            max=LARGEST_TEXTURE,
            help="Side of the new texture, px. Default: that of the result's.",
            show_default=False,
        ),
    ] = None,
    quiet: QuietOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Bring a fitted head, with its expression and its texture, to the vertices, quads and UVs of another face model.

    The other model is fitted to the head, then bent until it lies on it; the head stays where it is, so the camera of
    the result fits the new mesh too. Writes the mesh with and without expression (OBJ), its texture and a JSON.
    Distances are in millimetres over the face, between each mesh's vertices and the other's surface.
    """
    import torch

    from fit3d.transfer.source import read_result
    from fit3d.transfer.transfer import transfer

    # as in `fit`: sums come out the same on any number of cores
    torch.set_num_threads(1)
    console = Console(quiet=quiet, as_json=as_json)
    source = read_result(result)
    for warning in source.warnings:
        console.warn(warning)
    done = transfer(source, to, texture_size=texture_size)
    files = done.save(source.path.resolve().parent.parent if output is None else output)
    lines = [
        f"{files['json'].parent}  {done.timings_s['total']:.1f} s",
        "mm over the face          to the source      mean    95 %     max   from the source    mean    95 %     max",
    ]
    for name, label in (("model", f"{to} alone"), ("refined", "refined")):
        posed, neutral = done.errors[name], done.errors[f"{name}_neutral"]
        for errors, kind in ((neutral, "neutral"), (posed, "with expression")):
            lines.append(f"{label + ', ' + kind:40}{_cells(errors.to_source)}{'':16}{_cells(errors.from_source)}")
    lines.append(
        f"{100.0 * done.corresponding:.1f} % of the face's vertices have a counterpart, {100.0 * done.textured:.1f} % "
        "of its texture is the result's"
    )
    lines += [f"licence of {name}: {licence}" for name, licence in done.licences.items()]
    if len(done.licences) > 1:
        lines.append("All of them hold for this head: it may be sold only if each allows it.")
    content = done.as_dict() | {"files": {kind: str(path) for kind, path in files.items()}}
    console.result("\n".join(lines), content)


def _cells(distances: Distances) -> str:
    return f"{distances.mean:8.3f}{distances.percentile_95:8.3f}{distances.max:8.2f}"
