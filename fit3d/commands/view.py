"""`fit3d view`: the interactive viewer in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fit3d.commands.console import debug


def view_command(
    result: Annotated[
        Path,
        typer.Argument(
            help="Folder that `fit3d fit` wrote for one photo or for several, or the JSON of one.",
            metavar="RESULT|FOLDER",
            show_default=False,
        ),
    ],
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port of the page on this machine; 0 takes a free one.")
    ] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the browser, or only print the address.")
    ] = True,
) -> None:
    """Look at fitted heads in the browser: over the photo and from all sides, with sliders for expression and shape.

    The page is served to this machine alone. It shows the head with its texture, in clay, as wireframe or by facial
    parts, and saves the pose on the screen as OBJ or GLB beside the result. Ctrl-C ends it.
    """
    import logging

    import torch

    from fit3d.view.serve import view

    if not debug():  # a connection that breaks off is nothing to tell a user of
        logging.getLogger("websockets").setLevel(logging.CRITICAL)
    torch.set_num_threads(1)  # small operations gain nothing from a second one
    view(result, port=port, browser=browser, say=lambda line: print(line, flush=True))
