"""Backends by name: what 'auto' takes, what it says, and what a backend that cannot run says."""

from __future__ import annotations

import inspect
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import fit3d
from fit3d import pipeline
from fit3d.commands.app import main
from fit3d.errors import UnreadablePhotoError, UsageError
from fit3d.observe import look, registry, weights
from fit3d.observe.base import Backend, FaceParser, LandmarkDetector, Landmarks, Parsing
from fit3d.observe.registry import AUTO, choose, face_parser, landmark_detector, what_lacks
from fit3d.observe.weights import WeightFile
from fit3d.photo import Photo

FILE = WeightFile("better.pt", "https://example.org/better.pt", "Results may be sold.", 0.1)

QUICK = ["--iterations", "1", "--texture-size", "32"]


@pytest.fixture
def better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A parser that is better than the embedded one, its weights present; the module's source, to be broken."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    source = tmp_path / "better_parser.py"
    source.write_text("from test_registry import Better\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.delitem(sys.modules, "better_parser", raising=False)
    monkeypatch.setitem(registry._FACE_PARSERS, "better", registry._Entry("better_parser", "Better", "better_parser"))
    monkeypatch.setattr("fit3d.commands.options.FACE_PARSERS", (*registry.FACE_PARSERS, "better"))
    monkeypatch.setitem(registry._ORDER, "face parser", ("better", "contours"))
    monkeypatch.setitem(weights.BACKENDS, "better", (FILE,))
    FILE.path.parent.mkdir(parents=True)
    FILE.path.write_bytes(b"\0")
    registry._loaded.cache_clear()
    return source


class Better(FaceParser):
    """Labels as the embedded parser does, under its own name."""

    def __init__(self, device: str = "cpu") -> None:
        self.backend = Backend("better", "1")

    def parse(self, photo: Photo, landmarks: Landmarks) -> Parsing:
        return face_parser("contours").parse(photo, landmarks)


# --- the order --------------------------------------------------------------------------------------------------


def test_one_parser_can_always_run() -> None:
    last = registry.AUTO_PARSERS[-1]
    assert registry._FACE_PARSERS[last].package is None
    assert weights.present(last)


@pytest.mark.parametrize(
    "function", [look.observe, fit3d.fit, fit3d.fit_faces, pipeline.look, landmark_detector], ids=lambda f: f.__name__
)
def test_auto_is_the_default_everywhere(function: Any) -> None:
    names = {"landmarks", "parser", "name"} & set(inspect.signature(function).parameters)
    assert names and {inspect.signature(function).parameters[name].default for name in names} == {AUTO}


def test_without_weights_auto_takes_what_is_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mediapipe")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert choose("landmark detector").name == "mediapipe"
    assert choose("face parser").name == "embedded"
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert choose("face parser").name == "contours"
    assert list(tmp_path.iterdir()) == [], "nothing is downloaded"


def test_auto_takes_the_best_whose_weights_are_there(better: Path) -> None:
    assert choose("face parser") == registry.Choice("better")
    assert face_parser().backend.name == "better"
    assert face_parser(AUTO) is face_parser("better"), "made once"
    FILE.path.unlink()
    assert choose("face parser").name == "contours"
    assert face_parser().backend.name == "contours", "what auto takes is asked anew each time"


@pytest.mark.parametrize("package_name", ["face_alignment", "mediapipe"])
def test_a_package_that_is_missing_is_passed_over(package_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "require", lambda name: None)
    monkeypatch.setattr(registry, "import_backend", lambda kind, name: None)
    monkeypatch.setitem(sys.modules, package_name, None)
    expected = {"face_alignment": "mediapipe", "mediapipe": "face-alignment"}[package_name]
    assert choose("landmark detector").name == expected


def test_none_can_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(UsageError) as caught:
        landmark_detector()
    message = str(caught.value)
    assert message.startswith("no landmark detector can run: ") and "\n" not in message
    assert "fit3d weights pull face-alignment" in message
    assert "[embedded]" in message


# --- what cannot be imported ------------------------------------------------------------------------------------


def test_one_that_cannot_be_imported_is_passed_over_with_a_warning(better: Path) -> None:
    better.write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    choice = choose("face parser")
    assert choice.name == "contours"
    (warning,) = choice.warnings
    assert "better" in warning and "torchvision::nms does not exist" in warning and "\n" not in warning
    with pytest.warns(UserWarning, match="torchvision::nms"):
        assert face_parser().backend.name == "contours"
    with pytest.raises(UsageError, match=r"face parser 'better' cannot be loaded \(operator torchvision::nms"):
        face_parser("better")


def test_own_mistakes_are_not_passed_over(better: Path) -> None:
    better.write_text("import fit3d.nonsense\n")
    with pytest.raises(ModuleNotFoundError, match=r"fit3d\.nonsense"):
        choose("face parser")


def test_asked_for_by_name_without_weights(better: Path) -> None:
    FILE.path.unlink()
    with pytest.raises(UsageError, match=r"needs weights: better\.pt \(missing\); run: fit3d weights pull better$"):
        face_parser("better")


# --- MediaPipe of either kind -----------------------------------------------------------------------------------


@pytest.mark.parametrize("with_solutions", [True, False])
def test_the_module_for_mediapipe_follows_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_solutions: bool
) -> None:
    package = tmp_path / "site" / "mediapipe"
    (package / "python" / ("solutions" if with_solutions else "tasks")).mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('it must not be imported for this')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "mediapipe", raising=False)
    monkeypatch.setenv("FIT3D_HOME", str(tmp_path / "home"))
    expected = "fit3d.observe.mediapipe" if with_solutions else "fit3d.observe.mediapipe_tasks"
    assert registry._mediapipe_module() == expected
    assert weights.present("mediapipe") == with_solutions
    lacks = what_lacks("landmark detector", "mediapipe")
    assert lacks is None if with_solutions else lacks is not None and "fit3d weights pull mediapipe" in lacks


# --- on which device --------------------------------------------------------------------------------------------


@pytest.fixture
def made_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """Fake backends 'recorder' of both kinds: on which device each was made. No device is looked for."""
    made: dict[str, str] = {}

    class Detector(LandmarkDetector):
        def __init__(self, device: str = "cpu") -> None:
            made["landmarks"] = device
            self.backend = Backend("recorder", "1")

        def detect(self, photo: Photo) -> list[Landmarks]:
            return landmark_detector("mediapipe").detect(photo)

    class Parser(Better):
        def __init__(self, device: str = "cpu") -> None:
            made["parser"] = device
            super().__init__(device)

    module = types.SimpleNamespace(Detector=Detector, Parser=Parser)
    monkeypatch.setitem(sys.modules, "recorder_backends", module)  # type: ignore[arg-type]
    monkeypatch.setitem(registry._LANDMARK_DETECTORS, "recorder", registry._Entry("recorder_backends", "Detector"))
    monkeypatch.setitem(registry._FACE_PARSERS, "recorder", registry._Entry("recorder_backends", "Parser"))
    for names in ("LANDMARK_DETECTORS", "FACE_PARSERS"):
        monkeypatch.setattr(f"fit3d.commands.options.{names}", (*getattr(registry, names), "recorder"))
    registry._loaded.cache_clear()
    return made


RECORDERS = {"landmarks": "recorder", "parser": "recorder"}
ON_METAL = {"landmarks": "mps", "parser": "mps"}


class _StopError(Exception):
    """The backends have done their work."""


def test_a_device_reaches_the_backends_from_python(
    made_on: dict[str, str], astronaut: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mediapipe")
    checked: list[str] = []
    monkeypatch.setattr(pipeline, "check_device", lambda device, name="device": checked.append(device))

    def stop(*_: Any, **__: Any) -> None:
        raise _StopError

    monkeypatch.setattr(pipeline, "reconstruct", stop)
    pipeline.look(astronaut, **RECORDERS, device="mps")
    assert made_on == ON_METAL and set(checked) == {"mps"}
    for function in (fit3d.fit, fit3d.fit_faces):
        made_on.clear()
        registry._loaded.cache_clear()
        with pytest.raises(_StopError):
            function(astronaut, **RECORDERS, config=fit3d.FitConfig(device="mps"))
        assert made_on == ON_METAL


@pytest.mark.parametrize("command", ["fit", "observe"])
def test_a_device_reaches_the_backends_from_the_command_line(
    made_on: dict[str, str], command: str, astronaut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mediapipe")
    for module in ("pipeline", "commands.options", f"commands.{command}"):
        monkeypatch.setattr(f"fit3d.{module}.check_device", lambda device, name="": None, raising=False)
    monkeypatch.setattr(pipeline, "reconstruct", pipeline.reconstruct if command == "observe" else _stopped)
    named = ["--landmarks", "recorder", "--parser", "recorder", "--device", "mps"]
    code = main([command, str(astronaut), "-o", str(tmp_path / "out"), *named])
    assert code == (0 if command == "observe" else 1)
    assert made_on == ON_METAL


def _stopped(*_: Any, **__: Any) -> None:
    raise UnreadablePhotoError("stopped here")


@pytest.mark.parametrize("command", ["fit", "observe"])
def test_a_device_that_is_not_there_is_said_before_any_work(
    made_on: dict[str, str], command: str, astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    named = ["--landmarks", "recorder", "--parser", "recorder", "--device", "cuda:99"]
    assert main([command, str(astronaut), "-o", str(tmp_path / "out"), *named]) == 2
    (error,) = capfd.readouterr().err.splitlines()
    assert error.startswith("error: --device cuda:99: ")
    with pytest.raises(UsageError, match=r"^device cuda:99: "):
        pipeline.look("missing.jpg", **RECORDERS, device="cuda:99")
    assert made_on == {} and not (tmp_path / "out").exists()


# --- on screen and in the result --------------------------------------------------------------------------------


def test_what_auto_took_is_said_once(
    better: Path, astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mediapipe")
    photos = [str(astronaut), str(astronaut)]
    assert main(["fit", *photos, "-o", str(tmp_path / "out"), *QUICK]) == 0
    said = capfd.readouterr()
    assert said.err.splitlines() == ["landmarks by mediapipe, parts by better (`fit3d doctor` says what else there is)"]
    assert len(said.out.splitlines()) == 2
    result = json.loads((tmp_path / "out" / "astronaut" / "astronaut.json").read_text(encoding="utf-8"))
    assert "better" in json.dumps(result["observation"])

    assert main(["fit", *photos[:1], "-o", str(tmp_path / "out"), "--json", *QUICK]) == 0
    said = capfd.readouterr()
    record = json.loads(said.out)
    assert (record["landmark_backend"], record["parser_backend"]) == ("mediapipe", "better")
    assert said.err == ""

    named = ["--landmarks", "mediapipe", "--parser", "better"]
    assert main(["fit", *photos[:1], "-o", str(tmp_path / "out"), *named, *QUICK]) == 0
    assert capfd.readouterr().err == ""


def test_a_fallback_is_said_once_and_an_explicit_name_fails(
    better: Path, astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mediapipe")
    better.write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    assert main(["observe", str(astronaut), str(astronaut), "-o", str(tmp_path / "out")]) == 0
    warning, note = capfd.readouterr().err.splitlines()
    assert warning.startswith("warning: ") and "torchvision::nms" in warning
    assert "parts by contours" in note
    assert main(["observe", str(astronaut), "-o", str(tmp_path / "other"), "--parser", "better"]) == 2
    (error,) = capfd.readouterr().err.splitlines()
    assert error.startswith("error: ") and "torchvision::nms" in error
    assert not (tmp_path / "other").exists()


def test_explicit_names_are_checked_before_any_work(
    better: Path, astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    FILE.path.unlink()
    monkeypatch.setattr(pipeline, "look", lambda *args, **kwargs: pytest.fail("it looked"))
    assert main(["fit", str(astronaut), "-o", str(tmp_path / "out"), "--parser", "better"]) == 2
    assert "fit3d weights pull better" in capfd.readouterr().err


def test_doctor_says_what_cannot_be_imported(
    better: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    better.write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    entry = registry._Entry("better_parser", "Better", "better_parser", variants=("lapa", "celebm"))
    monkeypatch.setitem(registry._FACE_PARSERS, "facer", entry)
    monkeypatch.setitem(registry._ORDER, "face parser", ("facer:lapa", "contours"))
    for file in weights.files_of("facer:lapa"):
        file.path.touch()
        assert file.size is not None
        os.truncate(file.path, file.size)  # a hole, no bytes on disk
    main(["doctor", "--json"])
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["face parser"]["ok"] and "'auto' takes contours; " in checks["face parser"]["detail"]
    assert "torchvision::nms" in checks["face parser"]["detail"]
    assert not checks["facer"]["ok"] and "torchvision::nms" in checks["facer"]["detail"]
