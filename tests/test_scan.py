"""A mesh against a scan of the true face."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from fit3d.commands.app import main
from fit3d.errors import Fit3dError
from fit3d.evaluate.mesh_file import Mesh, read_mesh
from fit3d.evaluate.scan import measure_scan
from fit3d.evaluate.scan_landmarks import BY_COUNT, read_scan_landmarks
from fit3d.evaluate.scan_picture import STOPS, colours_of, error_picture, error_ply
from synthetic import synthetic_model

SEVEN = BY_COUNT[7]
COLUMNS_DEG = 4.5
"""Of the synthetic head: coarse, so that the search for nearest points ends soon."""


def head() -> tuple[Mesh, dict[int, np.ndarray]]:
    """The outer surface of the synthetic head, mm, and the seven landmarks."""
    model = synthetic_model(COLUMNS_DEG)
    vertices = 1000.0 * model.mean.double().numpy()
    triangles = model.annotation.triangles[model.annotation.fixed_label < 0].numpy()
    points = model.landmarks["ibug68"].points.of(torch.from_numpy(vertices)).numpy()
    return Mesh(vertices, triangles), {index: points[index] for index in SEVEN}


def moved(points: np.ndarray, size: float = 1.0) -> np.ndarray:
    turn = trimesh.transformations.rotation_matrix(2.0, [0.3, -0.5, 0.8])[:3, :3]
    return size * points @ turn.T + np.array([300.0, -20.0, 900.0])


def scan_of(mesh: Mesh, landmarks: dict[int, np.ndarray], size: float = 1.0) -> tuple[Mesh, dict[int, np.ndarray]]:
    """The same face in another pose and size, from finer triangles."""
    fine = trimesh.remesh.subdivide(mesh.vertices, mesh.triangles)
    return Mesh(moved(fine[0], size), fine[1]), {n: moved(p[None], size)[0] for n, p in landmarks.items()}


class TestMeasure:
    @pytest.mark.parametrize(("alignment", "size"), [("similarity", 1.3), ("rigid", 1.0)])
    def test_the_same_face_in_another_pose_has_no_error(self, alignment: str, size: float) -> None:
        mesh, landmarks = head()
        scan, scan_landmarks = scan_of(mesh, landmarks, size)
        wrong = {n: p + np.array([1.5, -1.0, 2.0]) * (-1) ** n for n, p in landmarks.items()}  # only a start
        measured = measure_scan(mesh, wrong, scan, scan_landmarks, alignment)  # type: ignore[arg-type]
        assert measured.distances_mm.max() < 1e-3
        assert measured.motion.scale == pytest.approx(size, abs=1e-5)

    def test_a_rigid_alignment_lets_the_size_count(self) -> None:
        mesh, landmarks = head()
        scan, scan_landmarks = scan_of(mesh, landmarks, 1.1)
        assert measure_scan(mesh, landmarks, scan, scan_landmarks, "rigid").figures()["mean_mm"] > 1.0

    def test_waves_give_their_height(self) -> None:
        """Distances along the normals that no motion can take up: all figures are those of the waves."""
        mesh, landmarks = head()
        scan, scan_landmarks = scan_of(mesh, landmarks)
        normals = trimesh.Trimesh(scan.vertices, scan.triangles, process=False).vertex_normals
        k = 2.0 * math.pi / 15.0
        by = 0.8 * np.sin(k * scan.vertices[:, 0]) * np.sin(k * scan.vertices[:, 1])
        waved = Mesh(scan.vertices + by[:, None] * normals, scan.triangles)
        measured = measure_scan(mesh, landmarks, waved, scan_landmarks, "similarity")
        rows = {tuple(point): row for row, point in enumerate(waved.vertices.round(6).tolist())}
        heights = np.abs(by[[rows[tuple(point)] for point in measured.points.round(6).tolist()]])
        figures = measured.figures()
        assert figures["mean_mm"] == pytest.approx(heights.mean(), rel=0.05)
        assert figures["rms_mm"] == pytest.approx(math.sqrt((heights**2).mean()), rel=0.05)
        assert figures["p90_mm"] == pytest.approx(np.quantile(heights, 0.9), rel=0.05)

    def test_the_face_is_a_sphere_about_the_nose(self) -> None:
        mesh, landmarks = head()
        scan, scan_landmarks = scan_of(mesh, landmarks)
        measured = measure_scan(mesh, landmarks, scan, scan_landmarks, "similarity")
        right_outer, right_inner, left_inner, left_outer, base = (scan_landmarks[n] for n in (36, 39, 42, 45, 33))
        bridge = (right_inner + left_inner) / 2.0
        radius = 0.7 * (np.linalg.norm(right_outer - left_outer) + np.linalg.norm(bridge - base))
        used = np.unique(scan.triangles)  # eyeballs and teeth are vertices of the model, not of this surface
        far = np.linalg.norm(scan.vertices[used] - (0.7 * base + 0.3 * bridge), axis=1)
        assert len(measured.points) == np.count_nonzero(far <= radius) < len(used)
        corners = measured.points[measured.triangles]
        assert np.linalg.norm(corners - (0.7 * base + 0.3 * bridge), axis=2).max() <= radius

    def test_landmarks_on_one_line_are_refused(self) -> None:
        mesh, landmarks = head()
        line = {n: np.array([float(i), 0.0, 0.0]) for i, n in enumerate(landmarks)}
        with pytest.raises(Fit3dError, match="not on one line"):
            measure_scan(mesh, line, mesh, landmarks, "similarity")


class TestLandmarks:
    def points(self) -> np.ndarray:
        return np.arange(21.0).reshape(7, 3) + 0.25

    @pytest.mark.parametrize("form", ["text", "csv", "json", "object", "pp"])
    def test_all_forms(self, tmp_path: Path, form: str) -> None:
        points = self.points()
        picked = "".join(f'<point y="{y}" name="{i}" x="{x}" z="{z}"/>' for i, (x, y, z) in enumerate(points.tolist()))
        texts = {
            "text": "# picked\n" + "\n".join(" ".join(map(str, row)) for row in points.tolist()),
            "csv": "\n".join(",".join(map(str, row)) for row in points.tolist()),
            "json": json.dumps(points.tolist()),
            "object": json.dumps({str(n): row for n, row in zip(SEVEN, points.tolist(), strict=True)}),
            "pp": "<!DOCTYPE PickedPoints>\n<PickedPoints><DocumentData/>"
            f'{picked}<point x="9" y="9" z="9" active="0"/></PickedPoints>',
        }
        (tmp_path / "landmarks").write_text(texts[form])
        found = read_scan_landmarks(tmp_path / "landmarks")
        assert list(found) == list(SEVEN)
        np.testing.assert_array_equal(np.array(list(found.values())), points)

    def test_numbers_say_which_points_they_are(self, tmp_path: Path) -> None:
        (tmp_path / "four.txt").write_text("1 2 3\n4 5 7\n7 9 9\n1 1 1\n")
        assert list(read_scan_landmarks(tmp_path / "four.txt", [33, 8, 30, 27])) == [33, 8, 30, 27]
        with pytest.raises(Fit3dError, match="--landmark-ids"):
            read_scan_landmarks(tmp_path / "four.txt")

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b'<!DOCTYPE p [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><PickedPoints>&b;</PickedPoints>', "entities"),
            (b'<!DOCTYPE p [<!ENTITY a SYSTEM "file:///etc/passwd">]><PickedPoints>&a;</PickedPoints>', "entities"),
            (b'<PickedPoints><point x="1" y="2"/></PickedPoints>', "picked points"),
            (b"<PickedPoints>", "picked points"),
            (b"1 2 3\n4 five 6\n", "line 2"),
            (b"nan 1 2\n" * 7, "not finite"),
            (b"[" * 100000, "not JSON"),
            (b"\xff\xfe\x00\x01", "not text"),
            (b'{"36": [1, 2, 3], "99": [1, 2, 3]}', "'99'"),
            (b'{"36": [1, 2, 3]}', "needs 3"),
            (b" " * (5 * 2**20), "larger than"),
        ],
    )
    def test_hostile_files(self, tmp_path: Path, content: bytes, says: str) -> None:
        (tmp_path / "landmarks").write_bytes(content)
        with pytest.raises(Fit3dError, match=says) as caught:
            read_scan_landmarks(tmp_path / "landmarks")
        assert "\n" not in str(caught.value)


class TestMeshFile:
    @pytest.mark.parametrize("ending", ["ply", "stl", "obj"])
    def test_reads_what_trimesh_writes(self, tmp_path: Path, ending: str) -> None:
        ball = trimesh.creation.icosphere(2)
        ball.export(tmp_path / f"ball.{ending}")
        mesh = read_mesh(tmp_path / f"ball.{ending}")
        np.testing.assert_allclose(mesh.vertices[mesh.triangles], ball.triangles, atol=1e-6)

    def test_quads_and_their_order(self, tmp_path: Path) -> None:
        (tmp_path / "a.obj").write_text(
            "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 2 2 2\nvt 0 0\nf 1 2 3 4\nf 2/1 3/1 5/1\n"
        )
        np.testing.assert_array_equal(read_mesh(tmp_path / "a.obj").triangles, [[0, 1, 2], [0, 2, 3], [1, 2, 4]])

    @pytest.mark.parametrize(
        ("name", "content", "says"),
        [
            (
                "a.ply",
                b"ply\nformat ascii 1.0\nelement vertex 999999999999\nproperty float x\nend_header\n",
                "promises",
            ),
            ("a.ply", b"plywood", "not a PLY"),
            (
                "a.ply",
                b"ply\nformat binary_little_endian 1.0\nelement vertex 3\nproperty float x\nend_header\n1",
                "a.ply",
            ),
            ("a.stl", b"\0" * 84, "a.stl"),
            ("a.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "corner 9"),
            ("a.glb", b"glTF", "expected a mesh as"),
        ],
    )
    def test_hostile_files(self, tmp_path: Path, name: str, content: bytes, says: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Fit3dError, match=says) as caught:
            read_mesh(tmp_path / name)
        assert "\n" not in str(caught.value)


class TestErrorMap:
    def test_colours(self) -> None:
        colours = colours_of(np.array([0.0, 2.5, 5.0, 99.0]), 5.0)
        np.testing.assert_array_equal(colours[0], np.rint(255 * np.array(STOPS[0])))
        np.testing.assert_array_equal(colours[[2, 3]], np.rint(255 * np.array([STOPS[-1]] * 2)))

    def test_ply_and_picture_show_the_distances(self, tmp_path: Path) -> None:
        """A dent of the scan: elsewhere the colours are those of nearly no error."""
        mesh, landmarks = head()
        scan, scan_landmarks = scan_of(mesh, landmarks)
        cheek = moved(((landmarks[36] + landmarks[48]) / 2.0 + [-5.0, 0.0, 10.0])[None])[0]
        normals = trimesh.Trimesh(scan.vertices, scan.triangles, process=False).vertex_normals
        dent = 6.0 * np.exp(-((np.linalg.norm(scan.vertices - cheek, axis=1) / 10.0) ** 2))
        dented = Mesh(scan.vertices - dent[:, None] * normals, scan.triangles)
        measured = measure_scan(mesh, landmarks, dented, scan_landmarks, "similarity")
        (tmp_path / "error.ply").write_bytes(error_ply(measured, 4.0))
        written = trimesh.load(tmp_path / "error.ply", process=False)
        np.testing.assert_allclose(written.vertices, measured.points, atol=1e-4)
        np.testing.assert_array_equal(written.visual.vertex_colors[:, :3], colours_of(measured.distances_mm, 4.0))
        np.testing.assert_array_equal(written.faces, measured.triangles)
        picture = error_picture(measured, scan_landmarks, 4.0).astype(int)
        hot = (picture[..., 0] > 120) & (picture[..., 2] < 80)
        rows, columns = np.nonzero(hot[:480, 482 : 2 * 480])  # the front view
        assert len(rows) > 200 and columns.mean() < 240 < rows.mean() + 120  # the person's right is left in the picture
        np.testing.assert_array_equal(error_picture(measured, scan_landmarks, 4.0), picture)


class TestCommand:
    def write(self, folder: Path) -> list[str]:
        mesh, landmarks = head()
        scan, scan_landmarks = scan_of(mesh, landmarks, 0.1)
        trimesh.Trimesh(scan.vertices, scan.triangles, process=False).export(folder / "scan.ply")
        trimesh.Trimesh(mesh.vertices + 0.0, mesh.triangles, process=False).export(folder / "mesh.obj")
        np.savetxt(folder / "scan.txt", np.array(list(scan_landmarks.values())))
        np.savetxt(folder / "mesh.txt", np.array(list(landmarks.values())))
        call = ["evaluate", "geometry", str(folder / "mesh.obj"), "--scan", str(folder / "scan.ply")]
        return [*call, "--landmarks", str(folder / "scan.txt"), "--mesh-landmarks", str(folder / "mesh.txt")]

    def test_units_and_files(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        call = [*self.write(tmp_path), "--scan-unit", "cm", "--mesh-unit", "mm", "--align", "rigid"]
        assert main([*call, "--json", "-o", str(tmp_path / "out")]) == 0
        report = json.loads(capfd.readouterr().out)
        assert report["scale"] == 1.0 and report["max_mm"] < 1e-2 and report["alignment"] == "rigid"
        assert report["command"].startswith("fit3d evaluate geometry FIT --scan")
        assert Image.open(tmp_path / "out" / "error.png").size[0] > 3 * 400
        assert (tmp_path / "out" / "error.ply").read_bytes().startswith(b"ply\n")
        assert main(call) == 0
        assert "| mesh.obj" in capfd.readouterr().out

    def test_what_is_missing(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        call = self.write(tmp_path)
        assert main(call[:5]) == 2
        assert "--scan MESH --landmarks FILE" in capfd.readouterr().err
        assert main(call[:7]) == 2  # a mesh of no known model
        assert "--mesh-landmarks" in capfd.readouterr().err
