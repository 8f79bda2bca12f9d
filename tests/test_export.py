"""Every export is read back by its own reader; films have the frames they should."""

import imageio.v3 as imageio
import numpy as np
import pandas as pd
import pytest

from mesotomo_utils import lattice
from mesotomo_utils.visualization import export, glyphs, movies

QUATERNION = list(export.QUATERNION)


@pytest.fixture
def dots():
    rng = np.random.default_rng(0)
    n = 12
    table = pd.DataFrame(rng.normal(0, 10, (n, 3)), columns=list(export.POSITION))
    table.insert(0, "qd", np.arange(n))
    table["layer"] = 1 + np.arange(n) % 3
    table["misorientation_deg"] = rng.uniform(0, 8, n)
    table[QUATERNION] = lattice.to_quaternions(lattice.from_rotation_vectors(rng.normal(0, 0.3, (n, 3))))
    table.loc[4, [*QUATERNION, "misorientation_deg"]] = np.nan
    return table


@pytest.fixture
def pairs():
    return pd.DataFrame(
        {"row_1": [0, 1, 2], "row_2": [1, 2, 5], "axis": list("ABC"), "diameter_nm": [2.5, 0.0, np.nan]}
    )


def test_csv(tmp_path, dots):
    back = pd.read_csv(export.write_csv(tmp_path / "dots.csv", dots))
    pd.testing.assert_frame_equal(back, dots)


def test_extended_xyz(tmp_path, dots):
    back = export.read_extended_xyz(export.write_extended_xyz(tmp_path / "dots.xyz", dots, edge_nm=4.0))
    np.testing.assert_allclose(back[list(export.POSITION)], dots[list(export.POSITION)], atol=1e-6)
    known = dots["qw"].notna()
    np.testing.assert_allclose(back.loc[known, QUATERNION], dots.loc[known, QUATERNION], atol=1e-8)
    assert back["measured"].tolist() == known.astype(int).tolist()
    np.testing.assert_allclose(back.loc[4, QUATERNION].to_numpy(float), [1, 0, 0, 0])
    np.testing.assert_allclose(back[[f"aspherical_shape_{k}" for k in range(3)]], 2.0)  # half an edge
    # OVITO wants x, y, z, w: the scalar is the last of the four on the line.
    words = (tmp_path / "dots.xyz").read_text().splitlines()[2].split()
    assert float(words[7]) == pytest.approx(dots.loc[0, "qw"], abs=1e-8)


def test_extended_xyz_that_was_cut_off_is_refused(tmp_path, dots):
    path = export.write_extended_xyz(tmp_path / "dots.xyz", dots, edge_nm=4.0)
    path.write_text("\n".join(path.read_text().splitlines()[:-2]) + "\n")
    with pytest.raises(ValueError, match="10 rows, but its first line says 12"):
        export.read_extended_xyz(path)


def test_dots_vtp(tmp_path, dots, pairs):
    pyvista = pytest.importorskip("pyvista")
    back = pyvista.read(export.write_dots_vtp(tmp_path / "dots.vtp", dots, pairs))
    np.testing.assert_allclose(back.points, dots[list(export.POSITION)], atol=1e-5)
    assert (back.n_verts, back.n_lines) == (12, 3)
    np.testing.assert_allclose(back.cell_data["diameter_nm"][12:], [2.5, 0.0, np.nan])
    R = lattice.from_quaternions(dots[QUATERNION].to_numpy(float))
    np.testing.assert_allclose(back.point_data["a"], R[:, :, 0])  # lab direction of [100]
    np.testing.assert_allclose(back.point_data["layer"], dots["layer"])


def test_dots_vtp_without_necks_or_orientations(tmp_path, dots):
    pyvista = pytest.importorskip("pyvista")
    none = pd.DataFrame({"row_1": [], "row_2": []}, dtype=int)
    back = pyvista.read(export.write_dots_vtp(tmp_path / "dots.vtp", dots[list(export.POSITION)], none))
    assert (back.n_verts, back.n_lines) == (12, 0)


def test_scene_vtp(tmp_path):
    pyvista = pytest.importorskip("pyvista")
    colours = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    mesh = glyphs.cube_mesh(np.eye(3)[:2], np.stack([np.eye(3)] * 2), edge_nm=1.0, colours=colours)
    back = pyvista.read(export.write_scene_vtp(tmp_path / "scene.vtp", mesh))
    assert back.n_cells == 12
    np.testing.assert_array_equal(back.cell_data["rgb"][[0, 11]], [[255, 0, 0], [0, 0, 255]])
    np.testing.assert_allclose(back.points, mesh.points, atol=1e-6)


def test_crystal_map(tmp_path, dots):
    io = pytest.importorskip("orix.io")
    path = export.write_crystal_map(tmp_path / "dots.h5", dots, lattice_nm=0.612)
    back = io.load(str(path))
    known = dots[dots["qw"].notna()]
    assert back.size == len(known)
    # orix keeps lab → crystal; its inverse is ours.
    ours = lattice.from_quaternions(known[QUATERNION].to_numpy(float))
    theirs = lattice.from_quaternions((~back.rotations).data.reshape(-1, 4))
    np.testing.assert_allclose(theirs, ours, atol=1e-9)
    np.testing.assert_allclose(back.prop["z_nm"], known["z_nm"])
    assert back.phases[0].structure.lattice.a == pytest.approx(6.12)
    assert back.scan_unit == "nm"


def test_bad_tables_are_named_and_leave_nothing(tmp_path, dots, pairs):
    with pytest.raises(ValueError, match="lacks z_nm"):
        export.write_extended_xyz(tmp_path / "a.xyz", dots.drop(columns="z_nm"), edge_nm=4.0)
    with pytest.raises(ValueError, match="lacks x_nm"):
        export.write_dots_vtp(tmp_path / "a.vtp", dots.drop(columns="x_nm"), pairs)
    with pytest.raises(ValueError, match="one word"):
        export.write_extended_xyz(tmp_path / "a.xyz", dots, edge_nm=4.0, name="Pb Se")
    with pytest.raises(ValueError, match="no dot has an orientation"):
        export.write_crystal_map(tmp_path / "a.h5", dots.assign(qw=np.nan), lattice_nm=0.612)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_film_through_a_tilt_series(tmp_path, suffix):
    rng = np.random.default_rng(0)
    images = rng.random((9, 40, 60), dtype=np.float32)
    angles = np.linspace(-60, 60, 9)
    frames = list(movies.tilt_frames(images, angles, size=120, every=2))
    assert [f.shape for f in frames] == [(80, 120)] * 5
    path = movies.write_movie(tmp_path / f"tilt{suffix}", frames)
    back = imageio.imread(path, plugin="FFMPEG" if suffix == ".mp4" else None)
    assert back.shape[:3] == (5, 80, 120)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_aligned_images_stand_beside_the_recorded_ones():
    images = np.zeros((3, 20, 20), np.float32)
    images[:, :, 5] = 1.0
    aligned = np.zeros((2, 20, 20), np.float32)
    aligned[:, :, 10] = 1.0
    used = np.array([True, False, True])
    frames = np.stack(list(movies.tilt_frames(images, np.arange(3.0), aligned=aligned, used=used, size=20)))
    assert frames.shape == (3, 20, 44)
    below = frames[:, -2]  # clear of the text
    assert below[:, :20].argmax(axis=1).tolist() == [5, 5, 5]
    assert below[[0, 2], 24:].argmax(axis=1).tolist() == [10, 10]
    assert below[1, 24:].max() == 0
    with pytest.raises(ValueError, match="2 aligned images but 3 of 3 are used"):
        next(movies.tilt_frames(images, np.arange(3.0), aligned=aligned))


def test_a_film_without_a_suffix_is_what_can_be_written(tmp_path, monkeypatch):
    frames = np.random.default_rng(0).integers(0, 255, (4, 32, 48), np.uint8)
    assert movies.write_movie(tmp_path / "film", frames).name == "film.mp4"
    monkeypatch.setattr(movies, "_has_ffmpeg", lambda: False)
    path = movies.write_movie(tmp_path / "film", frames)
    assert path.name == "film.gif"
    assert np.abs(imageio.imread(path)[..., 0].astype(int) - frames).max() < 20


def test_a_film_of_noise_stays_small(tmp_path):
    """A hundred frames of 320 pixels, as noisy as a tomogram: under 2 MB as MP4, and not all one grey."""
    frames = np.random.default_rng(0).normal(100, 25, (100, 320, 320)).clip(0, 255).astype(np.uint8)
    path = movies.write_movie(tmp_path / "film.mp4", frames)
    assert path.stat().st_size < 2e6
    back = imageio.imread(path, plugin="FFMPEG")
    assert len(back) == 100
    assert back.std() > 5


def test_frames_grow_upwards_and_run_in_order_of_angle():
    images = np.zeros((2, 40, 40), dtype=np.float32)
    images[0, 30:36] = 1.0  # high z, at the larger angle
    images[1, 4:10] = 1.0
    low, high = movies.tilt_frames(images, np.array([10.0, -10.0]), size=40)
    assert low[32, 20] > high[32, 20]  # first the smaller angle, whose bar lies at the bottom
    assert high[7, 20] > low[7, 20]


def test_film_through_a_tomogram():
    volume = np.random.default_rng(0).random((10, 20, 30), dtype=np.float32)
    shapes = {axis: next(movies.slice_frames(volume, 0.5, axis=axis, size=60)).shape for axis in "zyx"}
    assert shapes == {"z": (40, 60), "y": (20, 60), "x": (30, 60)}
    assert len(list(movies.slice_frames(volume, 0.5, axis="x", n_frames=7))) == 7
    one = np.zeros_like(volume)
    one[4, 6, 12] = 1.0
    frames = np.stack(list(movies.slice_frames(one, 0.5, box=(slice(2, 8), slice(5, 15), slice(10, 30)), size=200)))
    assert frames.shape == (6, 100, 200)
    assert frames[2, 80:90, 20:30].mean() > 150  # voxel (1, 2) of the box in its third section, y upwards
    assert frames[[0, 1, 3, 4, 5], 50:].max() == 0


def test_films_refuse_what_they_cannot_write(tmp_path):
    with pytest.raises(ValueError, match=r"\.gif or \.mp4"):
        movies.write_movie(tmp_path / "film.avi", [np.zeros((4, 4), np.uint8)])
    with pytest.raises(ValueError, match="no frame"):
        movies.write_movie(tmp_path / "film.gif", [])
    with pytest.raises(ValueError, match="3 images but 2 angles"):
        next(movies.tilt_frames(np.zeros((3, 4, 4)), np.zeros(2)))
    with pytest.raises(ValueError, match="axis must be"):
        next(movies.slice_frames(np.zeros((3, 4, 4)), 1.0, axis="t"))
