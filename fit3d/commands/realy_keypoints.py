"""`fit3d models realy-keypoints`: where REALY's keypoints lie on a face model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from fit3d.commands.console import Console
from fit3d.commands.models import NameArgument, QuietOption


def models_realy_keypoints_command(
    name: NameArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="File to write. With the ending .txt in the form that REALY's own code reads, and the mean head that "
            "its triangles are numbered on beside it, as .obj. Default: <NAME>_realy.json.",
            show_default=False,
        ),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Write the 85 keypoints by which REALY aligns meshes, for a face model.

    68 of them are the model's iBUG landmarks, 8 are points of the cheeks, of which 4 are used; 9 are not used by any
    step and repeat a landmark near them. The JSON says of each how it was made and how sure it is; see docs/realy.md.
    """
    from fit3d.evaluate.realy.model_keypoints import SURE, keypoints_of
    from fit3d.export.files import write_text
    from fit3d.morphable.registry import load_model

    model = load_model(name)
    keypoints = keypoints_of(model)
    path = out or Path(f"{name}_realy.json")
    console = Console(quiet=quiet)
    if path.suffix.lower() == ".txt":
        write_text(path, keypoints.realy_text())
        write_text(path.with_suffix(".obj"), keypoints.template_obj(model))
        console.result(f"{path} and {path.with_suffix('.obj')}", {})
    else:
        write_text(path, keypoints.text())
        console.result(str(path), {})
    for how, count in Counter(keypoints.how).items():
        console.result(f"{count:3} {how}: {SURE[how]}", {})
