"""`import fit3d` and `--help` must answer at once: nothing heavy may be imported for them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "mediapipe",
    "cv2",
    "numba",
    "scipy",
    "numpy",
    "PIL",
    "trimesh",
    "skimage",
    "face_alignment",
    "facer",
    "triton",
    "pebble",
    "ray",
    "pyarrow",
    "jinja2",
    "fsspec",
    "yaml",
)

IMPORT = "import fit3d, fit3d.errors, fit3d.config, fit3d.labels"
HELP = "from fit3d.commands.app import main; assert main({arguments!r}) == 0"


@pytest.mark.parametrize(
    "statement",
    [
        IMPORT,
        HELP.format(arguments=["--help"]),
        HELP.format(arguments=["fit", "--help"]),
        HELP.format(arguments=["batch", "--help"]),
        HELP.format(arguments=["synthesise", "--help"]),
        HELP.format(arguments=["evaluate", "parts", "--help"]),
        HELP.format(arguments=["evaluate", "compare", "--help"]),
        HELP.format(arguments=["evaluate", "realy", "--help"]),
        HELP.format(arguments=["evaluate", "report", "--help"]),
        HELP.format(arguments=["evaluate", "plausibility", "--help"]),
        HELP.format(arguments=["weights", "list"]),
        HELP.format(arguments=["--version"]),
    ],
)
def test_nothing_heavy_is_imported(statement: str) -> None:
    code = (
        f"import json, sys\n{statement}\n"
        f"print('\\n' + json.dumps(sorted({set(HEAVY)!r} & {{name.split('.')[0] for name in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_public_names_are_all_there() -> None:
    import fit3d

    assert {name for name in fit3d.__all__ if getattr(fit3d, name, None) is None} == set()
    assert set(fit3d._MODULE_OF) | {"__version__"} == set(fit3d.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = fit3d.nonsense  # type: ignore[attr-defined]
