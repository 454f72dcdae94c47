"""Runs the command line from a checkout: `python cli.py fit photo.jpg -o out`. Installed, the command is `fit3d`."""

from __future__ import annotations

from fit3d.commands.app import run

if __name__ == "__main__":
    run()
