"""The Surrey Face Model, read from small files in the layout of eos."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from fit3d.commands.app import main
from fit3d.errors import ModelFileError
from fit3d.morphable.store import stored_names
from fit3d.morphable.surrey import read_surrey
from model_files import IBUG_TO_SFM, Surrey, surrey

SHAPE, SHAPES, MARKS = "sfm_shape_3448.bin", "expression_blendshapes_3448.bin", "ibug_to_sfm.txt"


@pytest.fixture
def stored() -> Surrey:
    return surrey(np.random.default_rng(3))


@pytest.fixture
def share(stored: Surrey, tmp_path: Path) -> Path:
    """The folder `share` of a checkout of eos."""
    folder = tmp_path / "eos" / "share"
    folder.mkdir(parents=True)
    (folder / SHAPE).write_bytes(stored.archive())
    (folder / SHAPES).write_bytes(stored.expression_archive())
    (folder / MARKS).write_text(IBUG_TO_SFM)
    return folder


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.dtype == np.float32 and np.allclose(found, expected, rtol=2e-6, atol=2e-9)


def test_numbers_arrive_in_metres(share: Path, stored: Surrey) -> None:
    model = read_surrey(share)
    eyes = (stored.mean[[11, 12]].mean(0) + stored.mean[[13, 14]].mean(0)) / 2 + [0.0, 0.0, -12.0]
    assert close(model.mean, (stored.mean - eyes) * 1e-3)
    for k in range(5):
        expected = stored.basis[:, k].reshape(42, 3) * np.sqrt(stored.eigenvalues[k]) * 1e-3
        assert close(model.identity[k], expected)
    assert model.expression_names == ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
    for name, shape in zip(model.expression_names, model.expression, strict=True):
        assert close(shape, stored.blendshapes[name] * 1e-3)
    assert (model.expression_bounds == [0.0, 1.0]).all()
    assert model.faces[:, :3].tolist() == stored.triangles.tolist()
    assert (model.faces[:, 3] == -1).all()
    assert close(model.uv, stored.uv * [1.0, -1.0] + [0.0, 1.0])
    assert model.uv_faces.tolist() == model.faces.tolist()
    assert (model.name, model.version) == ("surrey", "42 vertices")
    assert "must not be sold" in model.licence


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_every_version_of_the_archive(version: int, share: Path, stored: Surrey) -> None:
    first = read_surrey(share)
    (share / SHAPE).write_bytes(stored.archive(version))
    model = read_surrey(share)
    assert np.array_equal(model.mean, first.mean)
    assert np.array_equal(model.identity, first.identity)
    assert np.array_equal(model.uv, first.uv)


def test_the_checkout_or_the_file_will_do(share: Path) -> None:
    mean = read_surrey(share).mean
    assert np.array_equal(read_surrey(share.parent).mean, mean)
    assert np.array_equal(read_surrey(share / SHAPE).mean, mean)


def test_the_shape_alone_has_no_expressions(share: Path, stored: Surrey) -> None:
    (share / SHAPES).unlink()
    (share / MARKS).unlink()
    model = read_surrey(share)
    assert model.expression.shape == (0, 42, 3)
    tip = stored.mean[stored.mean[:, 2].argmax()] * 1e-3
    assert close(model.mean, stored.mean * 1e-3 - tip - [0.0, 0.036, -0.048])


def test_every_truncation_is_refused(share: Path, stored: Surrey) -> None:
    """Whatever number of bytes is left; and one byte too many."""
    for name, content in ((SHAPE, stored.archive(4)), (SHAPES, stored.expression_archive())):
        path = share / name
        whole = path.read_bytes()
        for length in (*range(0, 40), *range(40, len(content), 97), len(content) - 1):
            path.write_bytes(content[:length])
            with pytest.raises(ModelFileError, match=name):
                read_surrey(share)
        path.write_bytes(content + b"\0")
        with pytest.raises(ModelFileError, match="goes on for 1 bytes"):
            read_surrey(share)
        path.write_bytes(whole)


def _with(content: bytes, at: int, layout: str, *values: float) -> bytes:
    return content[:at] + struct.pack(layout, *values) + content[at + struct.calcsize(layout) :]


MEAN, BASIS = 4, 4 + 8 + 126 * 4
EIGENVALUES, TRIANGLES = BASIS + 8 + 126 * 5 * 4, BASIS + 8 + 126 * 5 * 4 + 8 + 5 * 4


@pytest.mark.parametrize(
    ("at", "layout", "values", "said"),
    [
        (0, "<I", (0,), "version 0, expected 1 ... 4"),
        (0, "<I", (5,), "version 5, expected"),
        (0, "<I", (2**32 - 1,), "version 4294967295"),
        (MEAN, "<ii", (2**31 - 1, 1), "claims a matrix 2147483647 x 1"),
        (MEAN, "<ii", (-3, 1), "claims a matrix -3 x 1"),
        (MEAN, "<ii", (125, 1), "claims a matrix|numbers in its mean|not finite"),
        (MEAN + 8, "<f", (float("nan"),), "not finite"),
        (BASIS, "<ii", (3 * 300_000, 1000), "truncated"),
        (BASIS + 8, "<f", (float("inf"),), "not finite"),
        (EIGENVALUES + 8, "<f", (-1.0,), "a negative eigenvalue"),
        (TRIANGLES, "<Q", (2**62,), "claims 4611686018427387904 entries"),
        (TRIANGLES + 8, "<i", (42,), r"must lie in 0 \.\.\. 41"),
        (TRIANGLES + 8, "<i", (-1,), r"must lie in 0 \.\.\. 41"),
    ],
)
def test_absurd_files_are_said_in_one_line_and_nothing_is_kept(
    at: int,
    layout: str,
    values: tuple[float, ...],
    said: str,
    share: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FIT3D_HOME", str(tmp_path / "home"))
    path = share / SHAPE
    path.write_bytes(_with(path.read_bytes(), at, layout, *values))
    with pytest.raises(ModelFileError, match=said):
        read_surrey(share)
    assert main(["models", "add", "surrey", "--from", str(share)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and SHAPE in lines[0]
    assert not stored_names()


def test_files_that_do_not_fit_together_are_refused(share: Path, stored: Surrey) -> None:
    for name, content, said in (
        (SHAPES, surrey(np.random.default_rng(1)).archive(), "entries|truncated"),
        (SHAPES, stored.expression_archive().replace(b"fear", b"\x00ear"), "a name that is no text"),
        (SHAPES, stored.expression_archive().replace(b"happiness", b"sadness\x7f\x7f"), "a name that is no text"),
        (MARKS, b"9 = 4000\n", "no list of landmarks"),
        (MARKS, b"", "no list of landmarks"),
        (MARKS, b"\xff\xfe", "cannot be read as text"),
    ):
        whole = (share / name).read_bytes()
        (share / name).write_bytes(content)
        with pytest.raises(ModelFileError, match=said) as caught:
            read_surrey(share)
        assert name in str(caught.value)
        (share / name).write_bytes(whole)
    with pytest.raises(ModelFileError, match=r"no sfm_shape_3448\.bin in it"):
        read_surrey(share / "elsewhere")


def test_is_added_and_listed(
    share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FIT3D_HOME", str(tmp_path / "home"))
    assert main(["models", "add", "surrey", "--from", str(share)]) == 0
    assert main(["models", "list"]) == 0
    said = capsys.readouterr().out
    assert "42 vertices, 5 identity shapes, 6 expression shapes" in said
    assert "fit3d models annotate surrey" in said
