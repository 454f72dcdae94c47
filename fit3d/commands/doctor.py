"""`fit3d doctor`: what is installed, what is missing, and what to type."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

import fit3d
from fit3d.commands.console import json_line, one_line
from fit3d.errors import UsageError
from fit3d.observe.registry import Kind, choose, import_backend, order_of, what_lacks
from fit3d.resources import install_command

MARKS = {True: "ok", False: "--"}


@dataclass(frozen=True)
class Check:
    """One thing that fit3d uses."""

    name: str
    ok: bool
    detail: str
    """Its version and more, or what is wrong."""
    needed: bool
    """Whether `fit3d fit` with its default options needs it."""
    remedy: str = ""
    """What to type where it is not ok."""


def doctor_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Say what is installed, what is missing and what to type.

    Exit code: 0 if `fit3d fit` works with its default options, else 1.
    """
    checks = run_checks()
    works = all(check.ok for check in checks if check.needed)
    if as_json:
        print(json_line({"works": works, "checks": [asdict(check) for check in checks]}))
        return 0 if works else 1
    for check in checks:
        missing = "missing" if check.needed else "missing (the default options do without)"
        print(f"{MARKS[check.ok]}  {check.name:17} {check.detail if check.ok else f'{missing}: {check.detail}'}")
        if not check.ok and check.remedy:
            print(f"    {'':17} type: {check.remedy}")
    print("`fit3d fit` works." if works else "`fit3d fit` does not work with its default options yet, see above.")
    return 0 if works else 1


def run_checks() -> list[Check]:
    """All checks, in the order in which the fit uses the things."""
    install = install_command()
    return [
        Check("fit3d", True, f"{fit3d.__version__}, Python {platform.python_version()}", needed=True),
        _check("torch", _torch, needed=True, remedy=install),
        _check("numpy", lambda: _imported("numpy"), needed=True, remedy=install),
        _check("scipy", lambda: _imported("scipy"), needed=True, remedy=install),
        _check("rich", lambda: _imported("rich"), needed=True, remedy=install),
        _check("typer", lambda: _imported("typer"), needed=True, remedy=install),
        _check("pillow", lambda: _imported("PIL", "pillow"), needed=True, remedy=install),
        _check("model anny", _bundled_model, needed=True, remedy=f"{install} --force-reinstall --no-deps"),
        # one of each kind is enough; the packages of those whose weights are missing are not imported: that takes
        # seconds
        _automatic("landmark detector"),
        _backend("landmark detector", "face-alignment", lambda: _version("face-alignment")),
        _backend("landmark detector", "mediapipe", _mediapipe),
        _automatic("face parser"),
        _backend("face parser", "facer", lambda: f"pyfacer {_version('pyfacer')}"),
        # fit3d is installed with it, but the default options do without
        _check("trimesh", lambda: _imported("trimesh"), needed=False, remedy=install),
    ]


def _check(name: str, look: Callable[[], str], *, needed: bool, remedy: str) -> Check:
    try:
        return Check(name, True, look(), needed)
    except UsageError as error:
        problem, _, advice = one_line(str(error)).partition("; run: ")
        return Check(name, False, problem, needed, advice or remedy)
    except Exception as error:  # a broken package may raise anything while it is imported
        if "libGL" in str(error) or "libgthread" in str(error):  # OpenCV's wheels expect them from the system
            remedy = "sudo apt install libgl1 libglib2.0-0"
        return Check(name, False, one_line(f"{type(error).__name__}: {error}"), needed, remedy)


def _automatic(kind: Kind) -> Check:
    """What 'auto' takes, and what to type for a better one."""
    try:
        taken = choose(kind)
    except UsageError as error:
        return Check(kind, False, one_line(str(error)), needed=True)
    better = order_of(kind)[0]
    hindrance = what_lacks(kind, better) if taken.name != better else None
    words = [f"'auto' takes {taken.name}", *taken.warnings]
    if hindrance is not None:
        words.append(f"for a better one, {better}, type: {hindrance.partition('; run: ')[2]}")
    return Check(kind, True, "; ".join(words), needed=True)


def _backend(kind: Kind, name: str, look: Callable[[], str]) -> Check:
    """Whether one of them can run."""
    hindrance = what_lacks(kind, name)
    if hindrance is None:
        return _check(name, lambda: f"{look()}, {_importable(kind, name)}", needed=False, remedy=install_command())
    problem, _, remedy = hindrance.partition("; run: ")
    return Check(name, False, problem.removeprefix(f"{name} needs "), needed=False, remedy=remedy)


def _importable(kind: Kind, name: str) -> str:
    import_backend(kind, name)
    return "its weights are there"


def _version(distribution: str) -> str:
    return importlib.metadata.version(distribution)


def _imported(module: str, distribution: str | None = None) -> str:
    importlib.import_module(module)
    return _version(distribution or module)


def _torch() -> str:
    import torch

    devices = ["cpu"]
    devices += [f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return f"{torch.__version__}, devices: {', '.join(devices)}"


def _mediapipe() -> str:
    importlib.import_module("mediapipe")
    return _version("mediapipe")


def _bundled_model() -> str:
    from fit3d.morphable.registry import load_model

    start = time.perf_counter()
    model = load_model("anny")
    return f"{model.version}, {len(model.mean)} vertices, loaded in {time.perf_counter() - start:.2f} s"
