"""The JSON of a command of `fit3d evaluate`, and what was typed for it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from fit3d.evaluate.record import Data

_NOT_TOLD = ("quiet", "as_json", "sheet", "progress")
"""Parameters that change no figure."""


@dataclass(frozen=True)
class Recorder:
    """Started when the command begins."""

    context: typer.Context
    start: float = field(default_factory=time.perf_counter)

    def record(self, data: Data, figures: Mapping[str, Any], device: str = "cpu") -> dict[str, Any]:
        """See `fit3d.evaluate.record.record`."""
        from fit3d.evaluate.record import record

        return record(command_line(self.context), data, figures, time.perf_counter() - self.start, device)


def command_line(context: typer.Context) -> str:
    """What one would type to do the same again: folders and files by the names of `--help`, as FOLDER, whoever's they
    are; options only where they differ from their defaults."""
    words = ["fit3d", "evaluate", context.info_name or ""]
    options: list[str] = []
    for parameter in context.command.params:
        name, value = parameter.name or "", context.params.get(parameter.name or "")
        if name in _NOT_TOLD or value is None or value == () or value == parameter.default:
            continue
        if parameter.param_type_name == "argument":
            words.append(_shown(value, getattr(parameter, "metavar", None) or name.upper()))
        elif value is True:
            options.append(parameter.opts[0])
        elif value is not False:
            options += [parameter.opts[0], _shown(value, name.upper())]
    return " ".join([*words, *options])


def _shown(value: Any, path_name: str) -> str:
    if isinstance(value, Path):
        return path_name
    if isinstance(value, Sequence) and not isinstance(value, str):
        return path_name if value and isinstance(value[0], Path) else " ".join(map(str, value))
    return shlex.quote(str(value))
