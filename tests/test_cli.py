"""The command line from end to end: what each good and bad input prints, writes and returns."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fit3d import pipeline, resources
from fit3d.commands.app import main
from fit3d.commands.console import one_line, with_hint
from fit3d.errors import ObservationError
from fit3d.photo import PIXEL_LIMIT

QUICK = ["--iterations", "1", "--texture-size", "32"]

FILES = {
    *("{}.json", "{}.obj", "{}.mtl", "{}.glb"),
    *("{}_texture.png", "{}_neutral.obj", "{}_overlay.jpg", "{}_parts.png"),
}


def files_of(stem: str) -> set[str]:
    return {name.format(stem) for name in FILES}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def without_timings(folder: Path, stem: str) -> dict[str, object]:
    result = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
    del result["timings_s"]
    return result


@pytest.fixture(scope="session")
def example(astronaut: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `fit3d fit examples/astronaut.jpg` writes with its defaults."""
    out = tmp_path_factory.mktemp("example")
    assert main(["fit", str(astronaut), "-o", str(out), "--quiet"]) == 0
    return out / "astronaut"


def test_example_writes_every_file_and_nothing_else(example: Path) -> None:
    assert names_in(example) == files_of("astronaut")
    assert names_in(example.parent) == {"astronaut"}


def test_example_is_fitted_well(example: Path) -> None:
    result = json.loads((example / "astronaut.json").read_text(encoding="utf-8"))
    assert result["metrics"]["part_iou"]["mean"] > 0.7
    assert result["metrics"]["landmark_nme"] < 0.03
    assert result["metrics"]["part_iou"].keys() >= {"right_eye", "nose", "lower_lip", "skin"}
    assert {"load", "observe", "fit", "texture", "write", "total"} == set(result["timings_s"])
    assert result["warnings"] == []


def test_camera_in_json_puts_the_mesh_over_the_photo(example: Path) -> None:
    result = json.loads((example / "astronaut.json").read_text(encoding="utf-8"))
    vertices = np.array(
        [line.split()[1:4] for line in (example / "astronaut.obj").read_text().splitlines() if line.startswith("v ")],
        dtype=float,
    )
    camera = result["camera"]
    cam = np.c_[vertices, np.ones(len(vertices))] @ np.array(camera["cam_from_world"]).T
    px = cam[:, :3] @ np.array(camera["K"]).T
    px = px[:, :2] / px[:, 2:]
    parts = np.asarray(Image.open(example / "astronaut_parts.png"))  # a palette picture: its values are the ids
    rows, columns = np.nonzero(parts)
    assert parts.shape == (camera["height"], camera["width"]) == (512, 512)
    # every labelled pixel lies in the box of the projected mesh, and the face is where it is in the photo
    assert (px.min(0) <= [columns.min() + 1, rows.min() + 1]).all()
    assert (px.max(0) >= [columns.max(), rows.max()]).all()
    bridge, base = (np.array(result["observation"]["landmarks_px"][index]) for index in (168, 2))
    assert np.linalg.norm(np.argwhere(parts == 5).mean(0)[::-1] - (bridge + base) / 2) < 6


def test_formats_units_and_axes(astronaut: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--format", "obj, colmap", "--units", "cm", "--up", "z"]
    assert main(["fit", str(astronaut), "-o", str(tmp_path), *QUICK, *options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["files"]) >= {"obj", "mtl", "neutral_obj", "cameras", "images", "points3D"}
    assert "glb" not in told["files"] and not (tmp_path / "astronaut" / "astronaut.glb").exists()
    assert "Centimetres, z up" in (tmp_path / "astronaut" / "astronaut.obj").read_text()[:300]
    for wrong in ("fbx", "obj,", ""):
        assert main(["fit", str(astronaut), "-o", str(tmp_path / "no"), "--format", wrong]) == 2
        assert "expected one or more of obj, glb, colmap" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_two_runs_write_the_same_bytes(example: Path, astronaut: Path, tmp_path: Path) -> None:
    assert main(["fit", str(astronaut), "-o", str(tmp_path), "--quiet"]) == 0
    for name in files_of("astronaut") - {"astronaut.json"}:
        assert (tmp_path / "astronaut" / name).read_bytes() == (example / name).read_bytes(), name
    assert without_timings(tmp_path / "astronaut", "astronaut") == without_timings(example, "astronaut")


def test_other_files_of_the_same_picture_give_the_same_fit(example: Path, astronaut: Path, tmp_path: Path) -> None:
    pixels = Image.open(astronaut)
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    assert main(["fit", str(tmp_path / "turned.png"), "-o", str(tmp_path), "--quiet"]) == 0
    turned, upright = without_timings(tmp_path / "turned", "turned"), without_timings(example, "astronaut")
    assert turned["parameters"] == upright["parameters"]
    assert turned["camera"] == upright["camera"]


def test_prints_one_line_per_photo(astronaut: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(astronaut), str(astronaut), "-o", str(tmp_path / "out"), *QUICK]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines] == [
        str(tmp_path / "out" / name) for name in ("astronaut", "astronaut-2")
    ]
    assert all("Part IoU" in line and "landmark error" in line for line in lines)
    assert said.err.startswith("landmarks by ") and len(said.err.splitlines()) == 1
    assert names_in(tmp_path / "out" / "astronaut-2") == files_of("astronaut-2")


def test_json_lines(astronaut: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "missing.jpg"
    assert main(["fit", str(missing), str(astronaut), "-o", str(tmp_path), "--json", *QUICK]) == 1
    failed, fitted = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (failed["photo"], failed["status"]) == (str(missing), "unreadable")
    assert (fitted["photo"], fitted["status"]) == (str(astronaut), "ok")
    assert {Path(path).name for path in fitted["files"].values()} == files_of("astronaut")
    assert all(Path(path).is_file() for path in fitted["files"].values())
    assert 0 < fitted["part_iou"]["mean"] <= 1


def test_quiet_prints_nothing(astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(astronaut), "-o", str(tmp_path), "--quiet", *QUICK]) == 0
    assert capfd.readouterr() == ("", "")


# --- photos that cannot be fitted -------------------------------------------------------------------------------


def missing(folder: Path, astronaut: Path) -> Path:
    return folder / "missing.jpg"


def a_folder(folder: Path, astronaut: Path) -> Path:
    (folder / "folder.jpg").mkdir()
    return folder / "folder.jpg"


def empty(folder: Path, astronaut: Path) -> Path:
    (folder / "empty.jpg").write_bytes(b"")
    return folder / "empty.jpg"


def truncated(folder: Path, astronaut: Path) -> Path:
    (folder / "truncated.jpg").write_bytes(astronaut.read_bytes()[:40_000])
    return folder / "truncated.jpg"


def not_an_image(folder: Path, astronaut: Path) -> Path:
    (folder / "text.jpg").write_text("no image\nat all\n")
    return folder / "text.jpg"


def one_pixel(folder: Path, astronaut: Path) -> Path:
    Image.new("RGB", (1, 1)).save(folder / "tiny.png")
    return folder / "tiny.png"


def bomb(folder: Path, astronaut: Path) -> Path:
    """A PNG of a few bytes that claims 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b""))
    return folder / "bomb.png"


def no_face(folder: Path, astronaut: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    return folder / "noise.png"


UNFIT = [missing, a_folder, empty, truncated, not_an_image, one_pixel, bomb, no_face]


@pytest.mark.parametrize("make", UNFIT)
def test_bad_photo_is_one_line_and_leaves_nothing(
    make: Callable[[Path, Path], Path], astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photo = make(tmp_path, astronaut)
    out = tmp_path / "new" / "out"
    assert main(["fit", str(photo), "-o", str(out)]) == 1
    said = capfd.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("error: ")
    assert str(photo) in said.err
    assert not out.parent.exists()


def test_bad_photos_do_not_stop_the_others(astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bad = [str(make(tmp_path, astronaut)) for make in UNFIT]
    assert main(["fit", *bad, str(astronaut), "-o", str(tmp_path / "out"), *QUICK]) == 1
    *errors, note = capfd.readouterr().err.splitlines()
    assert len(errors) == len(bad) and all(line.startswith("error: ") for line in errors)
    assert note.startswith("landmarks by ")
    assert names_in(tmp_path / "out") == {"astronaut"}
    assert names_in(tmp_path / "out" / "astronaut") == files_of("astronaut")


def test_unexpected_exception_is_one_line(
    astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ValueError("first line\nsecond line")

    monkeypatch.setattr(pipeline, "fit_observation", broken)
    assert main(["fit", str(astronaut), "-o", str(tmp_path / "out")]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "unexpected ValueError: first line second line" in lines[0]
    assert not (tmp_path / "out").exists()

    monkeypatch.setenv("FIT3D_DEBUG", "1")
    assert main(["fit", str(astronaut), "-o", str(tmp_path / "out")]) == 1
    assert "Traceback" in capfd.readouterr().err


def test_nan_from_a_backend(
    astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import fit3d.observe.mediapipe as backend

    detect = backend.MediapipeLandmarks.detect

    def with_nan(self: backend.MediapipeLandmarks, photo: pipeline.Photo) -> list[backend.Landmarks]:
        found = detect(self, photo)
        for landmarks in found:
            landmarks.points_px[:] = np.nan
        return found

    monkeypatch.setattr(backend.MediapipeLandmarks, "detect", with_nan)
    assert main(["fit", str(astronaut), "-o", str(tmp_path / "out")]) == ObservationError.exit_code == 1
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


# --- warnings, faces, label images ------------------------------------------------------------------------------


def test_animation_is_fitted_with_a_warning(astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    frame = Image.open(astronaut)
    frame.save(tmp_path / "moving.webp", save_all=True, append_images=[Image.new("RGB", frame.size)], lossless=True)
    assert main(["fit", str(tmp_path / "moving.webp"), "-o", str(tmp_path), *QUICK]) == 0
    assert capfd.readouterr().err.count("warning: ") == 1


def test_several_faces(shared_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    girls = str(shared_data / "photos" / "twogirls.jpg")
    assert main(["fit", girls, "-o", str(tmp_path), *QUICK]) == 0
    warning, note = capfd.readouterr().err.splitlines()
    assert warning.startswith("warning: ")
    assert "--face" in warning
    assert note.startswith("landmarks by ")
    assert main(["fit", girls, "-o", str(tmp_path), "--face", "all", *QUICK]) == 0
    assert capfd.readouterr().err.splitlines() == [note]
    assert names_in(tmp_path) == {"twogirls", "twogirls-face1", "twogirls-face2"}
    largest, first, second = (
        without_timings(tmp_path / name, name) for name in ("twogirls", "twogirls-face1", "twogirls-face2")
    )
    assert largest["parameters"] == first["parameters"] != second["parameters"]
    assert main(["fit", girls, "-o", str(tmp_path), "--face", "3", *QUICK]) == 1
    assert "face 3" in capfd.readouterr().err


def test_label_image_drives_the_fit(example: Path, astronaut: Path, tmp_path: Path) -> None:
    parts = ["--parts", str(example / "astronaut_parts.png")]
    assert main(["fit", str(astronaut), "-o", str(tmp_path), "--quiet", *parts]) == 0
    result = without_timings(tmp_path / "astronaut", "astronaut")
    # what the model drew itself, it can draw again
    assert result["metrics"]["part_iou"]["mean"] > 0.85  # type: ignore[index]


def wrong_size() -> Image.Image:
    return Image.new("L", (300, 200))


def unknown_ids() -> Image.Image:
    return Image.new("L", (512, 512), 77)


@pytest.mark.parametrize("make", [wrong_size, unknown_ids, None])
def test_bad_label_image(
    make: Callable[[], Image.Image] | None, astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels.png"
    if make is not None:
        make().save(labels)
    assert main(["fit", str(astronaut), "-o", str(tmp_path / "out"), "--parts", str(labels)]) == 1
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 1
    assert "labels.png" in err
    assert not (tmp_path / "out").exists()


# --- usage and surroundings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ["--device", "nonsense"],
        ["--device", "meta"],
        pytest.param(["--device", "cuda"], marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")),
        ["--model", "nonsense"],
        ["--landmarks", "nonsense"],
        ["--parser", "nonsense"],
        ["--face", "0"],
        ["--face", "smallest"],
        ["--focal", "-1"],
        ["--focal", "nan"],
        ["--focal", "0"],
        ["--loss", "nonsense"],
        ["--solver", "nonsense"],
        ["--anchors", "0"],
        ["--iterations", "-1"],
        ["--texture-size", "1"],
        ["--parts", "a.png", "--parts", "b.png"],
        ["--nonsense"],
    ],
)
def test_wrong_option(options: list[str], astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(astronaut), "-o", str(tmp_path / "out"), *options]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("error: ")
    assert options[0].lstrip("-") in said.err or options[-1] in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--landmarks", "--parser", "--device", "--focal", "--face"])
@pytest.mark.parametrize("command", [["fit", "missing.jpg", "-o", "out"], ["evaluate", "parts", "nowhere"]])
def test_wrong_value_names_its_option_before_anything_is_read(
    option: str, command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if command[0] == "evaluate" and option in ("--focal", "--face"):
        return
    monkeypatch.chdir(tmp_path)
    assert main([*command, option, "0"]) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"error: {option} 0")
    assert "expected" in err
    assert names_in(tmp_path) == set()


@pytest.mark.parametrize("arguments", [["fit"], ["fit", "x.jpg"], ["nonsense"], ["evaluate", "parts", "nowhere"]])
def test_wrong_command(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capfd.readouterr().err.startswith("error: ")


def test_what_a_terminal_might_obey_is_escaped() -> None:
    assert one_line("model '\x1b[31m\x07'\nof\ta\u202efile, Ä 😀") == r"model '\x1b[31m\x07' of a\u202efile, Ä 😀"


def test_a_file_whose_name_begins_like_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-dash.jpg").write_text("")
    arguments = ["fit", "-x.jpg", "-dash.jpg", "-o", "out"]
    assert with_hint("No such option: -d", arguments) == (
        f"No such option: -d; for the file of that name write .{os.sep}-dash.jpg"
    )
    assert with_hint("No such option: -d", [f".{os.sep}-dash.jpg", "-o", "out"]) == "No such option: -d"


def test_output_folder_under_a_file(astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        assert main(["fit", str(astronaut), "-o", str(out)]) == 2
        err = capfd.readouterr().err
        assert err.startswith(f"error: cannot write to the output folder {out}: a file stands where a folder is needed")
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["fit", "observe", "batch", "synthesise"])
def test_an_empty_output_folder_is_not_the_current_one(
    command: str, astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = str(astronaut.parent if command == "batch" else astronaut)
    assert main([command, photos, "-o", ""]) == 2
    assert capfd.readouterr().err == "error: --out: an empty path; expected a folder, '.' is the current one\n"
    assert names_in(tmp_path) == set()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_output_folder_without_permission(astronaut: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o555)
    assert main(["fit", str(astronaut), "-o", str(tmp_path / "out")]) == 2


def test_full_disk_leaves_the_earlier_result(
    astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")
    out = tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fit_with_files_limited_to(size: int, *options: str) -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            return main(["fit", str(astronaut), "-o", str(out), "--quiet", *QUICK, *options])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    # a file that may not grow is refused as on a full disk, by the same calls
    assert fit_with_files_limited_to(20_000) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"error: cannot write {out / 'astronaut'}")
    assert len(err.splitlines()) == 1
    assert not out.exists()

    assert fit_with_files_limited_to(limits[0]) == 0
    before = {path.name: path.read_bytes() for path in (out / "astronaut").iterdir()}
    assert fit_with_files_limited_to(20_000, "--seed", "1") == 2
    assert names_in(out) == {"astronaut"}
    assert {path.name: path.read_bytes() for path in (out / "astronaut").iterdir()} == before


@pytest.mark.parametrize(
    "place", ["pipeline.fit_observation", "pipeline.project_texture", "reconstruction.write_result"]
)
def test_interrupt(
    place: str, astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"fit3d.{place}", interrupted)
    assert main(["fit", str(astronaut), str(astronaut), "-o", str(tmp_path / "out")]) == 130
    assert capfd.readouterr().err == "interrupted\n"
    assert not (tmp_path / "out").exists()


def test_failure_while_moving_is_no_result(
    astronaut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit", str(astronaut), "-o", str(tmp_path), "--quiet", *QUICK]
    assert main(arguments) == 0

    replace = os.replace

    def refuse_to_move(source: str | Path, target: str | Path) -> None:
        if Path(source).parent != Path(target).parent and str(target).endswith(".obj"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse_to_move)
    assert main(arguments) == 2
    # the earlier result is no longer whole, so it has no JSON
    assert names_in(tmp_path) == {"astronaut"}
    assert "astronaut.json" not in names_in(tmp_path / "astronaut")


def test_pixel_limit_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    limit = f"{PIXEL_LIMIT / 1e6:g} megapixels"
    assert main(["fit", "--help"]) == 0
    assert limit in " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert limit in (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


# --- the other commands -----------------------------------------------------------------------------------------


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    assert capsys.readouterr().out.startswith("anny")
    assert main(["models", "info", "anny", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert "CC0" in facts["licence"]
    assert len(facts["expression"]) == 52
    assert facts["landmarks"] == ["ibug68", "mediapipe478"]
    assert main(["models", "info", "nonsense"]) == 2
    assert "anny" in capsys.readouterr().err


def test_doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # no weights there
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert said.endswith("`fit3d fit` works.\n")
    assert "'auto' takes mediapipe; for a better one, face-alignment, type: fit3d weights pull face-alignment\n" in said
    assert "for a better one, facer:lapa, type: fit3d weights pull facer:lapa\n" in said
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    assert main(["doctor"]) == 1
    assert 'pip install -c constraints.txt ".[embedded]"' in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    failing = {check["name"]: check["needed"] for check in report["checks"] if not check["ok"]}
    assert failing == {"landmark detector": True, "face-alignment": False, "mediapipe": False, "facer": False}
    checked = {check["name"] for check in report["checks"]}
    assert {"face parser", "numpy", "pillow", "rich", "scipy", "torch", "trimesh", "typer"} <= checked
    assert not any("fit3d[embedded]" in check["remedy"] for check in report["checks"])
    monkeypatch.setattr(resources, "_PACKAGE", Path("/site-packages/fit3d"))  # no checkout
    assert main(["doctor"]) == 1
    assert 'pip install "fit3d[embedded]"' in capsys.readouterr().out


def test_evaluate_parts(shared_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("h190.png", "h190_parts.png", "c0.png", "c0_parts.png"):
        (tmp_path / name).write_bytes((shared_data / "labelled" / name).read_bytes())
    Image.new("RGB", (64, 64)).save(tmp_path / "nobody.png")
    Image.new("L", (64, 64)).save(tmp_path / "nobody_parts.png")
    arguments = ["evaluate", "parts", str(tmp_path), "--json", "--sheet", str(tmp_path / "sheets")]
    assert main(arguments) == 1
    said = capfd.readouterr()
    report = json.loads(said.out)
    assert [photo["photo"] for photo in report["photos"]] == ["c0.png", "h190.png"]
    assert set(report["failures"]) == {"nobody.png"}
    assert len(said.err.splitlines()) == 1
    assert report["average"]["part_iou"]["mean"] > 0.7
    means = [photo["part_iou"]["mean"] for photo in report["photos"]]
    assert report["average"]["part_iou"]["mean"] == pytest.approx(sum(means) / 2)
    assert names_in(tmp_path / "sheets") == {"c0.png", "h190.png"}


def test_full_disk_for_a_sheet(shared_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    resource = pytest.importorskip("resource")
    for name in ("h190.png", "h190_parts.png"):
        (tmp_path / name).write_bytes((shared_data / "labelled" / name).read_bytes())
    sheets = tmp_path / "sheets"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        code = main(["evaluate", "parts", str(tmp_path), "--sheet", str(sheets), "--iterations", "1", "--quiet"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert capfd.readouterr().err.startswith(f"error: cannot write {sheets / 'h190.png'}: ")
    assert names_in(sheets) == set()


def test_evaluate_geometry(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "geometry", "--heads", "1", "--loss", "landmarks,prdl", "--noise", "1.5", "--json"]
    assert main([*arguments, "--label-noise", "0"]) == 0
    alone, with_parts = json.loads(capsys.readouterr().out)["rows"]
    assert (alone["loss"], with_parts["loss"]) == ("landmarks", "prdl")
    assert with_parts["neutral_mm"] < with_parts["mean_head_mm"]
    assert with_parts["part_iou"] > alone["part_iou"]
    assert main(["evaluate", "geometry", "--noise", "1,x"]) == 2
    assert capsys.readouterr().err.startswith("error: --noise 1,x: expected numbers")


def test_as_a_process_it_is_silent_but_for_the_result(astronaut: Path, tmp_path: Path) -> None:
    """Native libraries log to stderr behind Python's back; users must not see that."""
    cli = Path(__file__).resolve().parent.parent / "cli.py"
    arguments = [sys.executable, str(cli), "fit", str(tmp_path / "missing.jpg"), str(astronaut), "-o", str(tmp_path)]
    done = subprocess.run([*arguments, *QUICK], capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    error, note = done.stderr.splitlines()
    assert "missing.jpg" in error and note.startswith("landmarks by ")
    assert done.stderr.startswith("error: ")


@pytest.mark.skipif(sys.platform == "win32", reason="a shell")
@pytest.mark.parametrize("command", ["fit", "batch"])
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(command: str, closed: str, astronaut: Path, tmp_path: Path) -> None:
    """Nothing is said there, nothing else changes, and no file that is opened takes their place."""
    cli, photos, out = Path(__file__).resolve().parent.parent / "cli.py", tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    Image.open(astronaut).crop((120, 0, 360, 240)).resize((150, 150)).save(photos / "a.png")
    Image.new("RGB", (64, 64)).save(photos / "b.png")  # is told of on stderr
    given = [str(photos)] if command == "batch" else [str(photos / name) for name in ("a.png", "b.png")]
    options = [*QUICK, "--loss", "landmarks", "--overlay", "none", "--format", "obj"]
    arguments = [sys.executable, str(cli), command, *given, "-o", str(out), *options]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 1
    assert ("b.png: " in done.stderr) == ("2>&-" not in closed)
    assert bool(done.stdout) == (">&-" not in closed.split())
    assert {path.name for path in (out / "a").iterdir()} == {
        *("a.json", "a.mtl", "a.obj", "a_neutral.obj", "a_parts.png", "a_texture.png")
    }
    for path in out.rglob("*"):
        assert path.is_dir() or b"b.png: " not in path.read_bytes() or path.name.startswith(("results.", "index."))
