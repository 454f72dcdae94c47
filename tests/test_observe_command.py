"""`fit3d observe` from end to end, and its files, corrected, back into `fit3d fit`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fit3d.commands.app import main
from fit3d.labels import LOWER_LIP, PART_COLOURS, RIGHT_EYE, SKIN
from fit3d.observe.landmark_file import read_landmark_file
from fit3d.photo import load_photo

QUICK = ["--iterations", "1", "--texture-size", "32"]
FILES = ("{}_landmarks.json", "{}.pts", "{}_labelme.json", "{}_parts.png", "{}_observation.jpg")


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def files_of(stem: str) -> set[str]:
    return {name.format(stem) for name in FILES}


@pytest.fixture(scope="module")
def observed(astronaut: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("observed")
    assert main(["observe", str(astronaut), "-o", str(out), "--quiet", "--parser", "contours"]) == 0
    return out / "astronaut"


def test_files(observed: Path, astronaut: Path) -> None:
    assert names_in(observed) == files_of("astronaut")
    photo = load_photo(astronaut)
    record = json.loads((observed / "astronaut_landmarks.json").read_text(encoding="utf-8"))
    assert record["photo"] == {"path": str(astronaut), "width": 512, "height": 512, "sha256": photo.sha256}
    assert (record["layout"], record["face"], record["backend"]["name"]) == ("mediapipe478", 1, "mediapipe")
    assert len(record["landmarks_px"]) == 478 and "confidence" in record
    from_json, warnings = read_landmark_file(observed / "astronaut_landmarks.json", photo)
    assert warnings == ()
    from_pts, _ = read_landmark_file(observed / "astronaut.pts", photo)
    np.testing.assert_allclose(from_json.points_px, record["landmarks_px"])
    np.testing.assert_allclose(from_pts.points_px, from_json.points_px, atol=1e-9)
    from_labelme, _ = read_landmark_file(observed / "astronaut_labelme.json", photo)
    np.testing.assert_array_equal(from_labelme.points_px, from_json.points_px)
    assert Path(json.loads((observed / "astronaut_labelme.json").read_text())["imagePath"]).samefile(astronaut)
    parts = Image.open(observed / "astronaut_parts.png")
    assert parts.mode == "P" and parts.size == (512, 512)
    assert parts.getpalette()[:36] == [channel for colour in PART_COLOURS for channel in colour]  # type: ignore[index]
    # the nose's tip lies on the nose, the eyes in the eyes
    labels, points = np.asarray(parts), from_json.points_px.astype(int)
    assert [labels[y, x] for x, y in points[[4, 468, 473]]] == [5, 1, 2]
    with Image.open(observed / "astronaut_observation.jpg") as picture:
        assert picture.width > 1.9 * 0.9 * picture.height


def test_the_picture_shows_points_and_parts(observed: Path, astronaut: Path) -> None:
    from fit3d.observe.base import Backend, Landmarks, Observation
    from fit3d.render.overlay import observation_picture

    photo = load_photo(astronaut)
    points = np.stack(np.meshgrid(np.linspace(150, 300, 4), np.linspace(60, 180, 17)), -1).reshape(-1, 2)
    points[0] = np.nan
    trust = np.repeat([0.0, 1.0], 34)
    labels = np.asarray(Image.open(observed / "astronaut_parts.png"))
    backend = Backend("test", "0")
    pictures = {
        told: observation_picture(photo, Observation(Landmarks("ibug68", points, backend, values), labels, backend))
        for told, values in (("told", trust), ("not told", None))
    }
    told, untold = (pictures[key].astype(int) for key in ("told", "not told"))
    height, width = told.shape[:2]
    left = told[:, : width // 2]
    red, green = ((left == colour).all(-1) for colour in ((255, 0, 0), (0, 255, 0)))
    assert red.sum() > 200 and green.sum() > 200
    # doubtful points stand above sure ones
    assert np.nonzero(red)[0].max() < np.nonzero(green)[0].min() + 0.1 * height
    assert not (untold[:, : width // 2] == (255, 0, 0)).all(-1).any()
    # the outline of each lip in its colour, on the right
    for label in (RIGHT_EYE, LOWER_LIP):
        assert (told[:, width // 2 :] == PART_COLOURS[label]).all(-1).sum() > 10


def test_nothing_corrected_gives_the_same_head(observed: Path, astronaut: Path, tmp_path: Path) -> None:
    given = [
        *("--landmarks-file", str(observed / "astronaut_landmarks.json")),
        *("--parts", str(observed / "astronaut_parts.png")),
    ]
    # a label image tells no confidence, and neither does this parser
    for name, options in (("plain", ["--parser", "contours"]), ("given", given)):
        arguments = ["fit", str(astronaut), "-o", str(tmp_path / name), "--quiet", "--texture-size", "32"]
        assert main([*arguments, *options]) == 0
    plain, again = (
        json.loads((tmp_path / name / "astronaut" / "astronaut.json").read_text()) for name in ("plain", "given")
    )
    for key in ("landmarks_px", "landmark_confidence"):
        assert again["observation"][key] == plain["observation"][key]
    paths = [tmp_path / name / "astronaut" / "astronaut_parts.png" for name in ("plain", "given")]
    first, second = (np.asarray(Image.open(path)) for path in paths)
    assert (first != second).sum() < 0.01 * (first > 0).sum()  # what the fit took from them
    # landmarks lose their fourth decimal, which may move flat directions of the energy
    np.testing.assert_allclose(again["parameters"]["identity"], plain["parameters"]["identity"], atol=0.25)
    for pose in ("cam_from_world", "K"):
        np.testing.assert_allclose(again["camera"][pose], plain["camera"][pose], rtol=2e-3, atol=5e-3)
    assert again["observation"]["landmarks_file"]["path"] == given[1]
    assert again["observation"]["parts_file"]["path"] == given[3]
    assert plain["observation"]["landmarks_file"] is None


def test_both_files_need_no_backend(
    observed: Path, astronaut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("mediapipe", "cv2")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("mediapipe", "cv2", "face_alignment", "facer"):
        monkeypatch.setitem(sys.modules, name, None)  # as if they were not installed
    given = ["--landmarks-file", str(observed / "astronaut.pts"), "--parts", str(observed / "astronaut_parts.png")]
    assert main(["fit", str(astronaut), "-o", str(tmp_path), "--quiet", *QUICK, *given]) == 0
    result = json.loads((tmp_path / "astronaut" / "astronaut.json").read_text())["observation"]
    assert (result["landmark_backend"]["name"], result["parser_backend"]["name"]) == ("landmark_file", "label_image")


def test_a_part_painted_in_rgb_is_followed(observed: Path, astronaut: Path, tmp_path: Path) -> None:
    painted = np.array(Image.open(observed / "astronaut_parts.png").convert("RGB"))
    lip = (painted == PART_COLOURS[LOWER_LIP]).all(-1)
    thicker = lip.copy()
    for _ in range(6):  # six pixels fuller, downwards
        thicker[1:] |= thicker[:-1]
    painted[thicker & (painted == PART_COLOURS[SKIN]).all(-1)] = PART_COLOURS[LOWER_LIP]
    Image.fromarray(painted).save(tmp_path / "painted.png")
    results = []
    for parts in (observed / "astronaut_parts.png", tmp_path / "painted.png"):
        out = tmp_path / parts.stem
        assert main(["fit", str(astronaut), "-o", str(out), "--quiet", "--parts", str(parts)]) == 0
        results.append(np.asarray(Image.open(out / "astronaut" / "astronaut_parts.png")) == LOWER_LIP)
    before, after = results
    bottom = [np.nonzero(mask)[0].max() for mask in (before, after)]
    assert bottom[1] >= bottom[0] + 3
    assert (after & thicker).sum() / (after | thicker).sum() > (before & thicker).sum() / (before | thicker).sum() + 0.1


def test_faces_and_lines(shared_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    girls = str(shared_data / "photos" / "twogirls.jpg")
    missing = str(tmp_path / "missing.jpg")
    out = tmp_path / "out"
    assert main(["observe", girls, girls, "-o", str(out)]) == 0
    said = capfd.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()] == [str(out / "twogirls"), str(out / "twogirls-2")]
    assert said.err.count("warning: ") == 2 and "--face X,Y" in said.err
    assert main(["observe", missing, girls, "-o", str(out), "--face", "all", "--json"]) == 1
    said = capfd.readouterr()
    failed, first, second = (json.loads(line) for line in said.out.splitlines())
    assert (failed["status"], first["face"], second["face"]) == ("unreadable", 1, 2)
    assert len(said.err.splitlines()) == 1
    assert names_in(out) == {"twogirls", "twogirls-2", "twogirls-face1", "twogirls-face2"}
    assert names_in(out / "twogirls-face2") == files_of("twogirls-face2")
    for number, line in ((1, first), (2, second)):
        left, top, right, bottom = line["face_box_px"]
        place = f"{(left + right) / 2:.1f},{(top + bottom) / 2:.0f}"
        chosen = tmp_path / f"chosen{number}"
        assert main(["observe", girls, "-o", str(chosen), "--face", place, "--quiet"]) == 0
        name = f"twogirls-face{number}"
        assert (chosen / "twogirls" / "twogirls.pts").read_bytes() == (out / name / f"{name}.pts").read_bytes()
    assert capfd.readouterr().err == ""
    assert main(["observe", girls, "-o", str(tmp_path / "none"), "--face", "3,4"]) == 1
    assert "no face at pixel 3,4; the nearest is face" in capfd.readouterr().err
    assert not (tmp_path / "none").exists()


def test_files_of_several_photos_go_by_their_order(
    observed: Path, astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pts = str(observed / "astronaut.pts")
    moved = tmp_path / "moved.pts"
    lines = Path(pts).read_text().splitlines()
    shifted = [" ".join(f"{float(value) + 5:.3f}" for value in line.split()) for line in lines[3:-1]]
    moved.write_text("\n".join([*lines[:3], *shifted, "}"]))
    given = ["--landmarks-file", pts, "--landmarks-file", str(moved)]
    photos = [str(astronaut), str(astronaut)]
    assert main(["observe", *photos, "-o", str(tmp_path / "out"), "--quiet", *given]) == 0
    first, second = (
        np.array(json.loads((tmp_path / "out" / name / f"{name}_landmarks.json").read_text())["landmarks_px"])
        for name in ("astronaut", "astronaut-2")
    )
    np.testing.assert_allclose(second - first, 5.0, atol=2e-3)
    assert main(["fit", *photos, "-o", str(tmp_path / "no"), "--landmarks-file", pts]) == 2
    assert "--landmarks-file was given 1 times for 2 photos" in capfd.readouterr().err
    (tmp_path / "bad.pts").write_text("nothing")
    given = ["--landmarks-file", str(tmp_path / "bad.pts"), "--landmarks-file", pts]
    assert main(["fit", *photos, "-o", str(tmp_path / "some"), *QUICK, *given]) == 1
    said = capfd.readouterr()
    assert names_in(tmp_path / "some") == {"astronaut-2"}
    (error,) = (line for line in said.err.splitlines() if line.startswith("error: "))
    assert "bad.pts" in error and str(astronaut) in error


def test_painted_labels_are_not_replaced(
    observed: Path, astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in observed.iterdir()}
    assert main(["fit", str(astronaut), "-o", str(observed.parent), *QUICK]) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"error: {observed} holds the observation of a photo") and len(err.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in observed.iterdir()} == before
    assert main(["fit", str(astronaut), "-o", str(tmp_path), "--quiet", *QUICK]) == 0
    assert main(["observe", str(astronaut), "-o", str(tmp_path)]) == 2
    assert capfd.readouterr().err.startswith(f"error: {tmp_path / 'astronaut'} holds the fit of a photo")


@pytest.mark.parametrize("kind", ["landmarks", "reformatted", "no landmarks", "pts", "labelme", "parts"])
def test_edited_files_are_not_replaced(
    kind: str, observed: Path, astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = dict(zip(("landmarks", "pts", "labelme", "parts"), FILES, strict=False))
    folder = tmp_path / "astronaut"
    shutil.copytree(observed, folder)
    observe = ["observe", str(astronaut), "-o", str(tmp_path), "--parser", "contours"]
    record = folder / "astronaut_landmarks.json"
    edited = folder / names.get(kind, names["pts"]).format("astronaut")
    if kind == "landmarks":
        edited.write_text(edited.read_text().replace('"landmarks_px": [\n    [', '"landmarks_px": [\n    [1'))
    elif kind == "reformatted":  # not edited
        record.write_text(json.dumps(json.loads(record.read_text())))
    elif kind == "no landmarks":  # nobody knows what was written
        record.unlink()
    elif kind == "parts":
        painted = Image.open(edited)
        painted.putpixel((5, 7), SKIN)
        painted.save(edited)
    else:
        edited.write_text(edited.read_text() + "\n")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    if kind == "reformatted":
        assert main([*observe, "--quiet"]) == 0
        assert {path.name: path.read_bytes() for path in observed.iterdir()} == {
            path.name: path.read_bytes() for path in folder.iterdir()
        }
        return
    for command in (observe, [*observe[:1], "missing.jpg", *observe[1:]]):  # before anything is looked at
        assert main(command) == 2
        err = capfd.readouterr().err
        assert err == (
            f"error: {edited} is not as fit3d wrote it and would be replaced; move it away or choose another folder "
            "(-o)\n"
        )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    edited.rename(tmp_path / "mine")
    if kind not in ("landmarks", "no landmarks"):
        assert main([*observe, "--quiet"]) == 0
        assert names_in(folder) == files_of("astronaut")


@pytest.mark.parametrize("command", ["fit", "observe"])
def test_occupied_folders_of_faces_are_found_before_anything_is_looked_at(
    command: str, observed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "girls-face2"
    folder.mkdir()
    name = "girls-face2_landmarks.json" if command == "fit" else "girls-face2.json"
    (folder / name).write_text("{}")
    looked: list[object] = []
    monkeypatch.setattr("fit3d.pipeline.look", lambda *args, **kwargs: looked.append(args))
    assert main([command, "one.jpg", "girls.jpg", "-o", str(tmp_path), "--face", "all"]) == 2
    assert capfd.readouterr().err.startswith(f"error: {folder} holds the ") and not looked
    # folders of other names are not in the way, nor are these where one face is wanted
    for arguments in (["girl.jpg", "--face", "all"], ["girls.jpg"], ["s.jpg", "--face", "all"]):
        main([command, *arguments, "-o", str(tmp_path)])
        assert looked and "holds the" not in capfd.readouterr().err
        looked.clear()


def test_a_blocked_folder_fails_its_photo_alone(
    astronaut: Path, shared_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    girl = shared_data / "photos" / "girl.jpg"
    photos = [str(girl), str(astronaut)]
    for out, command in (("observe", ["observe", *photos]), ("fit", ["fit", *photos, *QUICK])):
        (tmp_path / out).mkdir()
        (tmp_path / out / "girl").write_text("mine")
        assert main([*command, "-o", str(tmp_path / out), "--json"]) == 1
        said = capfd.readouterr()
        assert len(said.err.splitlines()) == 1 and said.err.startswith(f"error: {girl}: cannot write ")
        assert str(tmp_path / out / "girl") in said.err and "a file stands" in said.err
        failed, done = (json.loads(line) for line in said.out.splitlines())
        assert failed["status"] == "failed" and done["folder"] == str(tmp_path / out / "astronaut")
        assert names_in(tmp_path / out) == {"girl", "astronaut"} and (tmp_path / out / "girl").read_text() == "mine"
        # the folder of all is another matter
        assert main([*command, "-o", str(tmp_path / out / "girl")]) == 2
        capfd.readouterr()


def test_landmarks_of_another_photo_are_warned_of(
    observed: Path, astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.png"
    Image.open(astronaut).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(other)
    given = ["--landmarks-file", str(observed / "astronaut_landmarks.json"), "--parser", "contours"]
    assert main(["fit", str(other), "-o", str(tmp_path / "out"), *QUICK, *given]) == 0
    assert "the landmarks were made for another photo" in capfd.readouterr().err
    warnings = json.loads((tmp_path / "out" / "other" / "other.json").read_text())["warnings"]
    assert any("the landmarks were made for another photo" in warning for warning in warnings)
    assert main(["fit", str(astronaut), "-o", str(tmp_path / "out"), *QUICK, *given]) == 0
    assert "another photo" not in capfd.readouterr().err


@pytest.mark.parametrize("face", ["0", "smallest", "1,", "1,2,3", "-1,2", "1.5", "nan,1", "1e3,2", "1;2", "٣"])
@pytest.mark.parametrize("command", ["observe", "fit"])
def test_faces_that_cannot_be(command: str, face: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([command, "missing.jpg", "-o", str(tmp_path / "out"), f"--face={face}"]) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"error: --face {face}: expected ") and len(err.splitlines()) == 1
