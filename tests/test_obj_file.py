"""OBJ files: what other programs write, and what is said of those that are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fit3d.errors import ModelFileError
from fit3d.morphable.obj_file import read_obj, read_obj_positions


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4\n", "line 4"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 0\n", "line 4"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 -4\n", "line 4"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 x\n", "line 4"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2\n", "three corners"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\n", "no faces"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1/1 2/1 3/1\n", "line 4"),
        ("v 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "line 1"),
    ],
)
def test_damaged_obj(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.obj").write_text(text)
    with pytest.raises(ModelFileError, match=said) as caught:
        read_obj(tmp_path / "x.obj")
    assert "\n" not in str(caught.value)


def test_obj_of_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "x.obj"
    corners = "v 0 0 0 0.5 0.5 0.5\r\nv  1 0 0\r\nv 1 1 0\r\nv 0.5 2 0\r\nv 0 1 0\r\n"
    path.write_bytes((corners + "vn 0 0 1\r\no skin\r\nf 1//1 2//1 3//1\r\ng rest\r\nf -5 -3 -2 -1\r\n").encode())
    mesh = read_obj(path)
    np.testing.assert_array_equal(mesh.vertices[3], [0.5, 2, 0])
    np.testing.assert_array_equal(mesh.faces, [[0, 1, 2, -1], [0, 2, 3, 4]])
    assert mesh.uv.shape == (0, 2)
    assert not mesh.uv_faces.any()
    assert [mesh.materials[i] for i in mesh.face_materials] == ["skin", "rest"]
    path.write_bytes((corners + "f 1 2 3 4 5\r\n").encode())
    np.testing.assert_array_equal(read_obj(path).faces, [[0, 1, 2, -1], [0, 2, 3, -1], [0, 3, 4, -1]])
    np.testing.assert_array_equal(read_obj_positions(path, 5), read_obj(path).vertices)


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.obj"
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # a hole, no bytes on disk
    with pytest.raises(ModelFileError, match="larger than 256 MB"):
        read_obj(path)
