"""Imports run one way: each room of the package imports only from rooms above it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "fit3d"

ROOMS = (
    "errors",
    "checks",
    "labels",
    "landmarks",
    "config",
    "devices",
    "resources",
    "download",
    "camera",
    "photo",
    "raster",
    "metrics",
    "observe",
    "morphable",
    "energy",
    "targets",
    "solve",
    "render",
    "export",
    "annotate",
    "transfer",
    "saved",
    "sighting",
    "reconstruction",
    "pipeline",
    "batch",
    "evaluate",
    "synthesise",
    "view",
    "commands",
    "__main__",
)
"""From the top; the table of contents, `fit3d/__init__.py`, stands outside: it loads nothing by itself."""


def room_of(module: str) -> str:
    return module.split(".")[1]


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "fit3d":
            names.update(f"fit3d.{alias.name}" for alias in node.names if alias.name != "__version__")
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name for name in names if name.startswith("fit3d.")}


def files() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_from_above(path: Path) -> None:
    here = ROOMS.index(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))
    for module in imported(path):
        assert ROOMS.index(room_of(module)) <= here, f"{path.name} imports {module}, which stands below it"


def test_every_room_is_listed() -> None:
    assert {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in files()} == set(ROOMS)
