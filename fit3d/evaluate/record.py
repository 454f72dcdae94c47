"""What the JSON of every evaluation says besides its figures: what makes it comparable and repeatable."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fit3d import __version__
from fit3d.batch.source import source_hash

SCHEMA = "fit3d-evaluation/1"
"""Raised when a field changes its meaning or vanishes.

Fields of all: 'schema', 'command' as one would type it, 'data' (name, photos, digest), 'versions', 'hardware',
'seconds', and 'photos': rows, each with 'photo' (its name) and, where there are several runs in one record, 'group'
(which of them); all other numbers of a row are figures of that photo. Figures over all photos are the command's own.
"""
PACKAGES = ("torch", "numpy", "scipy", "pillow", "mediapipe", "pyfacer", "face-alignment")
"""Whose versions may change figures."""
DIGITS = 6
"""Significant digits of numbers in a record that is kept."""


@dataclass(frozen=True)
class Data:
    """What was measured on."""

    name: str
    photos: int
    digest: str
    """SHA-256 by which runs on the same data are told."""

    @classmethod
    def of_files(cls, name: str, files: Sequence[Path]) -> Data:
        """Photos without labels."""
        lines = [f"{file.name} {sha256(file.read_bytes()).hexdigest()}\n" for file in files if file.is_file()]
        return cls(name, len(files), sha256("".join(lines).encode()).hexdigest())

    @classmethod
    def of_settings(cls, name: str, photos: int, settings: Mapping[str, Any]) -> Data:
        """What was not read but drawn at random with `settings`."""
        return cls(name, photos, sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest())


def record(command: str, data: Data, figures: Mapping[str, Any], seconds: float, device: str = "cpu") -> dict[str, Any]:
    """The whole JSON object: where the figures come from, and then the `figures`, 'photos' last."""
    rows = figures.get("photos", [])
    return {
        "schema": SCHEMA,
        "command": command,
        "data": vars(data),
        "versions": versions(),
        "hardware": hardware(device),
        "seconds": round(seconds, 1),
        **{name: value for name, value in figures.items() if name != "photos"},
        "photos": rows,
    }


def versions() -> dict[str, str]:
    """Of fit3d, Python and those of `PACKAGES` that are installed; `code` tells states of one version apart."""
    found = {"fit3d": __version__, "code": source_hash()[:12], "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware(device: str = "cpu") -> dict[str, Any]:
    """What it ran on."""
    import torch

    told: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }
    if device.startswith("cuda") and torch.cuda.is_available():
        told["device"] = torch.cuda.get_device_name(torch.device(device))
    elif device != "cpu":
        told["device"] = device
    return told


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def rounded(value: Any) -> Any:
    """`value` with numbers of `DIGITS` significant digits, NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if value - value == 0 else None
    return value


def as_text(content: Mapping[str, Any]) -> str:
    """A record as the text of a file: a line for each field, and for each row."""
    fields = []
    for name, value in rounded(content).items():
        if name == "photos" and value:
            lines = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in value)
            fields.append(f'"photos": [\n{lines}\n ]')
        else:
            fields.append(f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n " + ",\n ".join(fields) + "\n}\n"
