"""Labels of other layouts, predictions of other tools, the paper's protocol, and what the command makes of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fit3d.commands.app import main
from fit3d.config import FitConfig
from fit3d.errors import LabelImageError, UsageError
from fit3d.evaluate.label_files import LabelFile, labelled_photos, predicted_labels, read_labels
from fit3d.evaluate.paper_protocol import FittedHead, parse_render, render_head
from fit3d.evaluate.parts import PartScore, average_score, headline, spread_of, worst_of
from fit3d.export.files import write_labels
from fit3d.labels import HAIR, INNER_MOUTH, OTHER, PART_IDS, PART_NAMES, SKIN
from fit3d.metrics import part_iou
from fit3d.morphable.registry import load_model
from fit3d.observe.base import Backend, Landmarks
from fit3d.observe.label_layouts import LAYOUTS, mirrored, sides_exchanged
from fit3d.photo import Photo
from fit3d.pipeline import look
from fit3d.solve.fit import fit_observation

SIZE = 64
CELEBAMASK = {
    **{"skin": 1, "nose": 2, "eye_g": 3, "l_eye": 4, "r_eye": 5, "l_brow": 6, "r_brow": 7, "l_ear": 8, "r_ear": 9},
    **{
        "mouth": 10,
        "u_lip": 11,
        "l_lip": 12,
        "hair": 13,
        "hat": 14,
        "ear_r": 15,
        "neck_l": 16,
        "neck": 17,
        "cloth": 18,
    },
}
"""As the data set's README lists them."""
_LAPA_CLASSES = ("skin", "l_brow", "r_brow", "l_eye", "r_eye", "nose", "u_lip", "mouth", "l_lip", "hair")
LAPA = {name: number for number, name in enumerate(_LAPA_CLASSES, 1)}
"""As LaPa's README lists them, in CelebAMask-HQ's words."""


def face() -> np.ndarray:
    """(64, 64) fit3d labels of an upright face: the person's right is on the left."""
    labels = np.zeros((SIZE, SIZE), np.uint8)
    labels[2:62, 6:58] = HAIR
    labels[8:60, 10:54] = SKIN
    boxes = {
        **{"right_eye": (20, 24, 16, 26), "left_eye": (20, 24, 38, 47), "right_eyebrow": (14, 17, 14, 27)},
        **{"left_eyebrow": (14, 17, 37, 50), "nose": (22, 38, 28, 36), "upper_lip": (42, 45, 24, 40)},
        **{"inner_mouth": (45, 47, 24, 40), "lower_lip": (47, 52, 24, 40)},
    }
    for name, (top, bottom, left, right) in boxes.items():
        labels[top:bottom, left:right] = PART_IDS[name]
    return labels


def viewers_name(part: str) -> str:
    """What data sets whose left is the viewer's call a part of fit3d."""
    return {
        **{"right_eye": "l_eye", "left_eye": "r_eye", "right_eyebrow": "l_brow", "left_eyebrow": "r_brow"},
        **{"upper_lip": "u_lip", "lower_lip": "l_lip", "inner_mouth": "mouth"},
    }.get(part, part)


def in_layout(labels: np.ndarray, ids: dict[str, int]) -> np.ndarray:
    """The label image with other ids."""
    table = np.array([ids.get(viewers_name(name), 0) for name in PART_NAMES], np.uint8)
    return table[labels]


def grey(size: int = SIZE) -> Photo:
    return Photo.from_array(np.full((size, size, 3), 128, np.uint8), "x.png")


def upright_landmarks(mirror: bool = False) -> Landmarks:
    """68 landmarks whose eyes are where those of `face` are."""
    points = np.full((68, 2), np.nan)
    right, left = ((16, 22), (26, 22)), ((38, 22), (47, 22))
    points[[36, 39]], points[[42, 45]] = (left, right) if mirror else (right, left)
    return Landmarks("ibug68", points.astype(float), Backend("truth", "0"))


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


# --- layouts ----------------------------------------------------------------------------------------------------


def test_ids_of_data_sets_become_parts_by_name() -> None:
    expected = face()
    assert np.array_equal(LAYOUTS["celebamask"].to_fit3d(in_layout(expected, CELEBAMASK)), expected)
    for name in ("lapa", "helen"):
        assert np.array_equal(LAYOUTS[name].to_fit3d(in_layout(expected, LAPA)), expected)
    assert np.array_equal(LAYOUTS["3ddfa-v3"].to_fit3d(np.arange(9, dtype=np.uint8)), np.arange(9))
    assert LAYOUTS["celebamask"].parts[CELEBAMASK["hat"]] == LAYOUTS["celebamask"].parts[3] == OTHER
    assert LAYOUTS["bisenet"].parts[11] == INNER_MOUTH and LAYOUTS["bisenet"].parts[17] == HAIR
    assert [len(LAYOUTS[name].parts) for name in ("lapa", "helen", "celebamask", "bisenet")] == [11, 11, 19, 19]


def test_left_of_the_viewer_is_right_of_the_person() -> None:
    """On an upright face what LaPa and CelebAMask-HQ call left lies on the left of the picture."""
    labels = np.zeros((8, 8), np.uint8)
    for name, ids in (("lapa", LAPA), ("celebamask", CELEBAMASK)):
        labels[2:4, :3], labels[2:4, 5:] = ids["l_eye"], ids["r_eye"]
        mapped = LAYOUTS[name].to_fit3d(labels)
        assert set(mapped[2, :3]) == {PART_IDS["right_eye"]} and set(mapped[2, 5:]) == {PART_IDS["left_eye"]}


def test_sides_are_checked_with_the_landmarks() -> None:
    assert not sides_exchanged(face(), upright_landmarks())
    assert sides_exchanged(mirrored(face()), upright_landmarks())
    assert sides_exchanged(face(), upright_landmarks(mirror=True))
    assert not sides_exchanged(np.zeros((4, 4), np.uint8), upright_landmarks())
    assert np.array_equal(mirrored(mirrored(face())), face())


def test_unknown_ids_are_named() -> None:
    with pytest.raises(ValueError, match=r"ids 11, 200 are not among 0 to 10 of LaPa's 11 classes"):
        LAYOUTS["lapa"].to_fit3d(np.array([[0, 11, 200]], np.uint8))


# --- files ------------------------------------------------------------------------------------------------------


def test_celebamask_as_it_is_given_away(tmp_path: Path) -> None:
    """Binary masks of half the photo's size, in folders of 2000; later parts lie over earlier ones."""
    expected = face()
    write(tmp_path / "CelebA-HQ-img" / "2001.jpg", np.zeros((2 * SIZE, 2 * SIZE, 3), np.uint8))
    write(tmp_path / "CelebA-HQ-img" / "7.jpg", np.zeros((2 * SIZE, 2 * SIZE, 3), np.uint8))  # has no masks
    masks = tmp_path / "CelebAMask-HQ-mask-anno" / "1"
    for part in PART_NAMES[1:]:
        if part == "other":
            continue
        covers = expected == PART_IDS[part]
        if part == "skin":  # theirs has no holes
            covers = (expected != 0) & (expected != HAIR)
        mask = np.repeat((covers * 255).astype(np.uint8)[..., None], 3, 2)
        write(masks / f"02001_{viewers_name(part)}.png", mask)
    (pair,) = labelled_photos(tmp_path)
    assert pair.photo.name == "2001.jpg" and pair.labels.layout == "celebamask"
    found = read_labels(pair.labels, grey(2 * SIZE))
    assert np.array_equal(found, expected.repeat(2, 0).repeat(2, 1))
    before = pair.digest
    write(masks / "02001_nose.png", np.zeros((SIZE, SIZE), np.uint8))
    assert pair.digest != before


def test_helen_masks(tmp_path: Path) -> None:
    """Soft masks: the highest one counts."""
    expected = face()
    write(tmp_path / "images" / "x.jpg", np.zeros((SIZE, SIZE, 3), np.uint8))
    ids = in_layout(expected, LAPA)
    for number in range(11):
        soft = np.where(ids == number, 140, 115 if number == 1 else 0).astype(np.uint8)
        write(tmp_path / "labels" / "x" / f"x_lbl{number:02d}.png", soft)
    (pair,) = labelled_photos(tmp_path)
    assert np.array_equal(read_labels(pair.labels, grey()), expected)
    (tmp_path / "labels" / "x" / "x_lbl05.png").unlink()
    with pytest.raises(LabelImageError, match=r"x_lbl05\.png: this one of Helen's 11 masks is missing"):
        read_labels(pair.labels, grey())


def test_lapa_is_asked_for_by_name(tmp_path: Path) -> None:
    write(tmp_path / "images" / "x.jpg", np.zeros((SIZE, SIZE, 3), np.uint8))
    write(tmp_path / "labels" / "x.png", in_layout(face(), LAPA))
    with pytest.raises(UsageError, match=r"nothing tells which ids .* has; give --labels, of fit3d, lapa"):
        labelled_photos(tmp_path)
    (pair,) = labelled_photos(tmp_path, "lapa")
    assert np.array_equal(read_labels(pair.labels, grey()), face())
    with pytest.raises(UsageError, match=r"no photo X\.png"):
        labelled_photos(tmp_path / "images")


def test_3ddfa_v3_npy_is_read_without_running_it(tmp_path: Path) -> None:
    visible = np.where(face() <= SKIN, face(), 0).astype(float)[..., None]
    path = tmp_path / "x.npy"
    np.save(path, {"ldm68": np.zeros((68, 2)), "seg_visible": visible})  # type: ignore[arg-type]
    write(tmp_path / "x.png", np.zeros((128, 64), np.uint8))  # the demo's sheet of pictures lies beside it
    file = predicted_labels(tmp_path, "x", "auto")
    assert file == LabelFile(path, "3ddfa-v3", "3ddfa-v3 npy")
    assert predicted_labels(tmp_path, "x", "3ddfa-v3") == file
    assert predicted_labels(tmp_path, "x", "lapa").path == tmp_path / "x.png"
    assert np.array_equal(read_labels(file, grey()), visible[..., 0])
    with pytest.raises(LabelImageError, match="expected numbers of the photo's size, 32 x 32"):
        read_labels(file, grey(32))

    class Evil:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    np.save(path, {"seg_visible": Evil()})  # type: ignore[arg-type]
    with pytest.raises(LabelImageError, match=r"x\.npy: not the \.npy of 3DDFA-V3's demo"):
        read_labels(file, grey())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((SIZE, SIZE + 1), np.uint8), "65 x 64 px, its photo x.png is 64 x 64 px"),
        (np.full((SIZE, SIZE), 40, np.uint8), "ids 40 are not among 0 to 10"),
        (np.zeros((SIZE, SIZE), np.uint16), "a label image of mode I;16"),
        (np.dstack([face(), face(), face() + 1]), "a label image of mode RGB"),
    ],
)
def test_bad_label_images(pixels: np.ndarray, message: str, tmp_path: Path) -> None:
    file = LabelFile(write(tmp_path / "x_parts.png", pixels), "lapa")
    with pytest.raises(LabelImageError, match=message) as caught:
        read_labels(file, grey())
    assert "\n" not in str(caught.value) and "x_parts.png" in str(caught.value)


def test_predictions_are_looked_for(tmp_path: Path) -> None:
    with pytest.raises(LabelImageError, match=r"no prediction for x; expected x/x_parts\.png"):
        predicted_labels(tmp_path, "x", "auto")
    plain = write(tmp_path / "x.png", face())
    with pytest.raises(LabelImageError, match="nothing tells which ids it has; give --predicted-labels"):
        predicted_labels(tmp_path, "x", "auto")
    assert predicted_labels(tmp_path, "x", "lapa") == LabelFile(plain, "lapa")
    ours = write(tmp_path / "x" / "x_parts.png", face())
    assert predicted_labels(tmp_path, "x", "auto") == LabelFile(ours, "fit3d")


# --- summaries --------------------------------------------------------------------------------------------------


def test_summaries() -> None:
    scores = [PartScore(name, {"nose": iou, "skin": 0.5, "mean": iou}) for name, iou in (("a", 0.6), ("b", 0.9))]
    scores.append(PartScore("c", {"skin": 0.8, "mean": float("nan")}))
    told = headline(scores)
    assert told["mean"] == pytest.approx(0.75) and told["skin"] == pytest.approx(0.6)
    assert told["parts"] == pytest.approx({"nose": 0.75}) and told["worst"] == ["a", "b"]
    assert spread_of(scores)["mean"] == pytest.approx(0.3 / 2**0.5)
    assert [score.photo for score in worst_of(scores, 1)] == ["a"]
    assert np.isnan(average_score(scores).landmark_nme)


# --- the paper's protocol ---------------------------------------------------------------------------------------


def test_a_render_shows_the_parser_what_was_fitted(astronaut: Path) -> None:
    """Of the picture of a fit the parser sees what it was fitted to; of another head's, less."""
    pytest.importorskip("mediapipe")
    model = load_model("anny")
    sighting = look(astronaut, landmarks="mediapipe", parser="embedded")
    photo, seen = sighting.photo, sighting.observations[0].parts
    fit = fit_observation(model, sighting.observations[0], photo.width, photo.height, photo.focal_px, FitConfig())
    head = FittedHead(model, fit.identity, fit.expression, fit.camera, fit.parts)
    middle = (fit.crop.left + fit.crop.size / 2.0, fit.crop.top + fit.crop.size / 2.0)

    def overlap(head: FittedHead) -> float:
        labels = parse_render(render_head(head, photo, "photo"), middle, "mediapipe", "embedded")
        assert labels is not None
        return part_iou(labels, seen)["mean"]

    picture = render_head(head, photo, "photo")
    plain = render_head(head, photo, "plain")
    on_head = (picture == plain).all(2)
    assert 0.05 < on_head.mean() < 0.6 and (picture[~on_head] == photo.pixels[~on_head]).all()
    right_brow = picture[fit.parts == PART_IDS["right_eyebrow"]].mean()
    assert right_brow < 0.6 * picture[fit.parts == SKIN].mean()
    gaping = fit.expression.clone()
    gaping[model.expression_names.index("jawOpen")] = 0.9
    far = fit_observation(
        model, sighting.observations[0], photo.width, photo.height, photo.focal_px, FitConfig(loss="landmarks")
    )
    assert overlap(head) > 0.72, overlap(head)
    assert overlap(head) > overlap(FittedHead(model, fit.identity, gaping, fit.camera, far.parts)) + 0.05
    nobody = np.full_like(photo.pixels, 90)
    assert parse_render(nobody, middle, "mediapipe", "embedded") is None


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def labelled(astronaut: Path, tmp_path: Path) -> Path:
    """The example photo with labels of the `contours` parser in the place of people's."""
    pytest.importorskip("mediapipe")
    folder = tmp_path / "labelled"
    folder.mkdir()
    shutil.copy(astronaut, folder / "astronaut.jpg")
    observation = look(astronaut, landmarks="mediapipe", parser="contours").observations[0]
    write_labels(folder / "astronaut_parts.png", observation.parts)
    return folder


def test_command_scores_label_images_of_other_tools(
    labelled: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    truth = np.asarray(Image.open(labelled / "astronaut_parts.png"))
    shutil.copy(labelled / "astronaut.jpg", labelled / "second.jpg")
    shutil.copy(labelled / "astronaut_parts.png", labelled / "second_parts.png")
    shutil.copy(labelled / "astronaut.jpg", labelled / "third.jpg")
    shutil.copy(labelled / "astronaut_parts.png", labelled / "third_parts.png")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    worse = np.roll(truth, 4, 1)
    # a tool whose left is the person's
    write(theirs / "astronaut.png", in_layout(mirrored(worse), LAPA))
    write(theirs / "second.png", in_layout(mirrored(truth), LAPA))
    arguments = ["evaluate", "parts", str(labelled), "--predictions", str(theirs), "--predicted-labels", "lapa"]
    assert main([*arguments, "--json", "--sheet", str(tmp_path / "sheets")]) == 1
    said = capfd.readouterr()
    report = json.loads(said.out)
    by_photo = {row["photo"]: row["part_iou"] for row in report["photos"]}
    assert by_photo["astronaut.jpg"] == pytest.approx(part_iou(worse, truth))
    assert by_photo["second.jpg"]["mean"] == 1.0
    assert set(report["failures"]) == {"third.jpg"}
    warning, error = said.err.splitlines()
    assert warning.startswith("warning: ") and "left and right are exchanged" in warning
    assert error.startswith("error: third.jpg: ") and "no prediction for third" in error
    assert report["mean"] == pytest.approx((by_photo["astronaut.jpg"]["mean"] + 1.0) / 2.0)
    assert report["worst"] == ["astronaut.jpg", "second.jpg"]
    assert set(report["parts"]) == set(PART_NAMES[1:8])
    assert report["command"] == "fit3d evaluate parts FOLDER --predictions PREDICTIONS --predicted-labels lapa"
    assert report["data"]["photos"] == 3 and len(report["data"]["digest"]) == 64

    # sides are one choice for the tool: where it takes them this way and that, it errs
    write(theirs / "third.png", in_layout(truth, LAPA))
    assert main([*arguments, "--json"]) == 0
    said = capfd.readouterr()
    by_photo = {row["photo"]: row["part_iou"] for row in json.loads(said.out)["photos"]}
    assert by_photo["second.jpg"]["mean"] == 1.0
    assert by_photo["third.jpg"] == pytest.approx(part_iou(mirrored(truth), truth))
    assert by_photo["third.jpg"]["mean"] < 0.6 and len(said.err.splitlines()) == 1
    (theirs / "third.png").unlink()
    assert {"fit3d", "torch", "numpy", "python"} <= set(report["versions"])
    assert {path.name for path in (tmp_path / "sheets").iterdir()} == {"astronaut.png", "second.png"}

    assert main(arguments) == 1
    table = [line for line in capfd.readouterr().out.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1 and set(table[1]) == {"|", "-", " "}
    assert [line.split("|")[1].strip() for line in table[2:]] == ["astronaut.jpg", "second.jpg", "mean", "sd"]


def test_command_scores_results_of_fit3d(labelled: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A stored fit scores as the same fit made anew, by either protocol; that of another photo is refused."""
    out, quick = tmp_path / "out", ["--iterations", "2"]
    backends = ["--landmarks", "mediapipe", "--parser", "embedded"]
    small = ["--texture-size", "64", "--overlay", "none", "--format", "obj"]
    assert main(["fit", str(labelled / "astronaut.jpg"), "-o", str(out), *backends, *quick, *small, "--quiet"]) == 0
    capfd.readouterr()

    def report(*options: str) -> dict[str, dict[str, float]]:
        assert main(["evaluate", "parts", str(labelled), "--json", *options]) == 0
        (row,) = json.loads(capfd.readouterr().out)["photos"]
        found: dict[str, dict[str, float]] = row
        return found

    for protocol in (["--protocol", "labels"], ["--protocol", "paper", "--against", "labels"]):
        stored = report("--predictions", str(out), *protocol)
        anew = report(*protocol, "--observed", "parser", *quick)
        # rounded to nine digits, a stored head is drawn with a pixel here or there another
        assert stored["part_iou"] == pytest.approx(anew["part_iou"], abs=1e-9 if protocol[1] == "labels" else 0.01)
        if protocol[1] == "labels":
            assert stored["landmark_nme"] == pytest.approx(anew["landmark_nme"])
    labels, paper = report("--observed", "parser", *quick), report("--protocol", "paper", *quick)
    assert labels["part_iou"] != paper["part_iou"]

    assert main(["evaluate", "compare", str(out), str(out / "astronaut"), "--json"]) == 0
    (same,) = json.loads(capfd.readouterr().out)["comparisons"]
    figures = {each["figure"]: each for each in same["differences"]}
    assert figures["landmark_nme"]["mean_b"] == pytest.approx(labels["landmark_nme"])
    assert {each["mean"] for each in figures.values()} == {0.0} and "part_iou.nose" in figures

    Image.open(labelled / "astronaut.jpg").save(labelled / "astronaut.jpg", quality=50)
    assert main(["evaluate", "parts", str(labelled), "--predictions", str(out)]) == 1
    assert "the result of another photo" in capfd.readouterr().err


def test_the_labelled_face_counts_not_the_largest(labelled: Path, capfd: pytest.CaptureFixture[str]) -> None:
    small, large = Image.open(labelled / "astronaut.jpg"), Image.open(labelled / "astronaut.jpg").resize((700, 700))
    labels = Image.open(labelled / "astronaut_parts.png")
    photo, drawn = Image.new("RGB", (1212, 700)), Image.new("L", (1212, 700))
    photo.paste(large, (0, 0))
    photo.paste(small, (700, 188))
    drawn.paste(Image.fromarray(np.asarray(labels)), (700, 188))
    photo.save(labelled / "two.png")
    drawn.save(labelled / "two_parts.png")
    elsewhere = Image.fromarray(np.roll(np.asarray(drawn), (300, -350), (0, 1)))
    photo.save(labelled / "wrong.png")
    elsewhere.save(labelled / "wrong_parts.png")
    commands = ["parts", str(labelled), "--iterations", "3"], ["parser", str(labelled), "--parser", "contours"]
    for command in commands:
        assert main(["evaluate", *command, "--json"]) == 1
        said = capfd.readouterr()
        report = json.loads(said.out)
        by_photo = {row["photo"]: row["part_iou"]["mean"] for row in report["photos"]}
        assert by_photo["two.png"] == pytest.approx(by_photo["astronaut.jpg"], abs=0.06)
        assert set(by_photo) == {"astronaut.jpg", "two.png"}
        assert "wrong.png: no face found where the labels are, from " in said.err


def test_labels_of_another_layout_drive_the_fit(labelled: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "parts", str(labelled), "--json", "--iterations", "2"]
    assert main(arguments) == 0
    ours = json.loads(capfd.readouterr().out)
    truth = np.asarray(Image.open(labelled / "astronaut_parts.png"))
    write(labelled / "astronaut_parts.png", in_layout(np.where(truth == OTHER, 0, truth), LAPA))
    assert main([*arguments, "--labels", "lapa"]) == 0
    theirs = json.loads(capfd.readouterr().out)
    assert theirs["mean"] == pytest.approx(ours["mean"], abs=0.01)
    # read as if left were the person's, eyes and brows change places, which is not taken in silence
    write(labelled / "astronaut_parts.png", mirrored(truth))
    assert main(arguments) == 1
    assert "left and right are exchanged" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--predictions", "nowhere"], "--predictions nowhere: expected a folder"),
        (["--predicted-labels", "lapa"], "--predicted-labels is for --predictions"),
        (["--labels", "cityscapes"], "--labels"),
        (["--protocol", "theirs"], "--protocol"),
    ],
)
def test_wrong_use_is_one_line(
    options: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "x.png", np.zeros((SIZE, SIZE, 3), np.uint8))
    write(tmp_path / "x_parts.png", face())
    assert main(["evaluate", "parts", str(tmp_path), *options]) == 2
    said = capfd.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith("error: ") and message in said.err
