"""`python -m fit3d` is the installed command `fit3d`."""

from __future__ import annotations

from fit3d.commands.app import run

run()
