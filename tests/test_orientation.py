"""Orientation of dots whose lattice was turned by a known rotation."""

import numpy as np
import pandas as pd
import pytest
from orix.quaternion import Rotation
from orix.vector import Vector3d

from mesotomo_utils import lattice
from mesotomo_utils.analysis import orientation_sigma
from mesotomo_utils.mapping import (
    lattice_signal,
    lattice_spots,
    model_dot,
    orientation,
    orientation_errors,
    orientation_follow,
    orientation_search,
    strain,
)
from mesotomo_utils.mapping.orientation import QUATERNION
from mesotomo_utils.mapping.replicas import Replicas
from mesotomo_utils.tomography.cutting import cut_cube
from mesotomo_utils.tomography.projector import Projector
from mesotomo_utils.visualization import export

A_NM, VOXEL_NM, WINDOW_NM = 0.612, 0.09, 5.5
SETTINGS = {"lattice_nm": A_NM, "window_nm": WINDOW_NM, "workers": 1}
HERE = np.zeros((1, 3))
TURN = lattice.axis_angle([1.0, -2.0, 0.7], np.deg2rad(31.0))


def dot(R: np.ndarray, **options: object) -> np.ndarray:
    """Volume with one dot at its centre."""
    return model_dot.turned_dot(R, lattice_nm=A_NM, voxel_nm=VOXEL_NM, edge_nm=4.8, **options)


def matrices(table: pd.DataFrame) -> np.ndarray:
    return lattice.from_quaternions(table[QUATERNION].to_numpy())


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    return dot(TURN)


@pytest.fixture(scope="module")
def oriented(clean: np.ndarray) -> pd.DataFrame:
    return orientation.orient_dots(clean, VOXEL_NM, HERE, superlattice=TURN, control=True, **SETTINGS)


# ------------------------------------------------------------------ known answers


def test_a_turned_crystal_is_recovered(oriented: pd.DataFrame):
    assert lattice.rotation_angle_deg(matrices(oriented)[0] @ TURN.T) < 0.05
    assert oriented["lattice_nm"][0] == pytest.approx(A_NM, rel=1e-3)
    cell = oriented.loc[0, ["a_nm", "b_nm", "c_nm"]].to_numpy(float)
    assert cell == pytest.approx([A_NM] * 3, rel=1e-3)
    assert oriented["lattice_snr"][0] > 50 * oriented["control_snr"][0]


def test_any_orientation_is_found_without_a_guess():
    q = np.random.default_rng(0).normal(size=(5, 4))
    for R in lattice.from_quaternions(q):
        table = orientation.orient_dots(dot(R), VOXEL_NM, HERE, **SETTINGS)
        assert lattice.disorientation_deg(matrices(table)[0], R) < 0.05


def test_noise_moves_the_answer_by_little():
    volume = dot(TURN, noise=4.0, rng=np.random.default_rng(1))
    table = orientation.orient_dots(volume, VOXEL_NM, HERE, superlattice=TURN, **SETTINGS)
    assert lattice.rotation_angle_deg(matrices(table)[0] @ TURN.T) < 0.25


def test_a_strained_lattice_gives_three_parameters_along_its_own_axes():
    volume = dot(TURN, stretch=[0.99, 1.0, 1.015])
    table = orientation.orient_dots(volume, VOXEL_NM, HERE, superlattice=TURN, **SETTINGS)
    cell = table.loc[0, ["a_nm", "b_nm", "c_nm"]].to_numpy(float)
    assert cell == pytest.approx(np.array([0.99, 1.0, 1.015]) * A_NM, rel=1e-3)
    # Named after another choice of axes, the parameters go with them.
    cyclic = TURN[:, [2, 0, 1]]
    again = orientation.orient_dots(volume, VOXEL_NM, HERE, superlattice=cyclic, **SETTINGS)
    assert again.loc[0, ["b_nm", "c_nm", "a_nm"]].to_numpy(float) == pytest.approx(cell, rel=1e-6)


def test_neighbours_turned_otherwise_stay_out():
    other = lattice.axis_angle([0, 1, 1], np.deg2rad(12.0)) @ TURN
    positions, cation = model_dot.rocksalt_dot(lattice_nm=A_NM, edge_nm=4.8)
    weights = np.where(cation, 4.5, 1.0)
    sites = 5.8 * np.array([[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, -1]])
    atoms = [positions @ (other if k else TURN).T + TURN @ site for k, site in enumerate(sites)]
    volume = model_dot.blobs(
        np.concatenate(atoms),
        np.tile(weights, len(sites)),
        shape=(81, 81, 81),
        voxel_nm=VOXEL_NM,
        sigma_nm=0.09,
    )
    table = orientation.orient_dots(volume, VOXEL_NM, HERE, superlattice=TURN, **SETTINGS)
    assert lattice.rotation_angle_deg(matrices(table)[0] @ TURN.T) < 0.1


# ------------------------------------------------------------------ laws


def test_turning_the_volume_turns_the_answer(clean: np.ndarray, oriented: pd.DataFrame):
    # [z, y, x] turned from x towards y, by the right hand about z.
    turned = np.rot90(clean, axes=(2, 1))
    quarter = lattice.axis_angle([0, 0, 1], np.pi / 2)
    table = orientation.orient_dots(turned, VOXEL_NM, HERE, superlattice=quarter @ TURN, **SETTINGS)
    expected = quarter @ matrices(oriented)[0]
    assert lattice.rotation_angle_deg(matrices(table)[0] @ expected.T) < 0.02


def test_a_mirrored_volume_is_another_crystal(clean: np.ndarray):
    # A cubic crystal is its own mirror image, but not in the same place: x -> -x takes R to M R M.
    mirror = np.diag([-1.0, 1.0, 1.0])
    table = orientation.orient_dots(clean[:, :, ::-1], VOXEL_NM, HERE, **SETTINGS)
    found = matrices(table)[0]
    assert lattice.disorientation_deg(found, mirror @ TURN @ mirror) < 0.05
    assert lattice.disorientation_deg(found, TURN) > 5


def test_shift_and_scale_of_the_density_change_nothing(clean: np.ndarray, oriented: pd.DataFrame):
    table = orientation.orient_dots(3.0 * clean + 7.0, VOXEL_NM, HERE, superlattice=TURN, **SETTINGS)
    assert lattice.rotation_angle_deg(matrices(table)[0] @ matrices(oriented)[0].T) < 1e-3
    assert table["lattice_snr"][0] == pytest.approx(oriented["lattice_snr"][0], rel=1e-2)


def test_dots_are_found_at_their_centres_and_one_by_one(clean: np.ndarray):
    other = lattice.axis_angle([3, 1, 0], np.deg2rad(14.0))
    volume = np.concatenate([clean, dot(other)], axis=2)
    n = clean.shape[0]
    centres = np.array([[-(n / 2), 0, 0], [n / 2, 0, 0]]) * VOXEL_NM
    table = orientation.orient_dots(volume, VOXEL_NM, centres, **SETTINGS)
    assert (lattice.disorientation_deg(matrices(table), np.stack([TURN, other])) < 0.1).all()
    swapped = orientation.orient_dots(volume, VOXEL_NM, centres[::-1], **SETTINGS)
    pd.testing.assert_frame_equal(swapped[::-1].reset_index(drop=True), table)


def test_the_equivalent_follows_the_superlattice(clean: np.ndarray):
    for operation in lattice.cubic_rotations()[[0, 7, 20]]:
        V = TURN @ operation
        table = orientation.orient_dots(clean, VOXEL_NM, HERE, superlattice=V, **SETTINGS)
        assert lattice.rotation_angle_deg(matrices(table)[0] @ V.T) < 0.05


def test_an_array_read_piece_by_piece_gives_the_same(clean: np.ndarray, oriented: pd.DataFrame):
    zarr = pytest.importorskip("zarr")
    stored = zarr.array(clean, chunks=(32, 32, 32))
    table = orientation.orient_dots(stored, VOXEL_NM, HERE, superlattice=TURN, **SETTINGS)
    pd.testing.assert_frame_equal(table, oriented.drop(columns="control_snr"))


# ------------------------------------------------------------------ when not to trust it


def test_noise_is_not_accepted():
    rng = np.random.default_rng(0)
    volume = rng.standard_normal((75, 75, 75)).astype(np.float32)
    centres = rng.uniform(-0.5, 0.5, size=(12, 3))
    table = orientation.orient_dots(volume, VOXEL_NM, centres, control=True, **SETTINGS)
    assert table["qw"].isna().all()
    assert table["lattice_snr"].between(1.5, 3.5).all()
    assert orientation.lattice_visible(table)[0] is False


@pytest.mark.slow
def test_hardly_a_cube_of_white_noise_is_accepted():
    rng = np.random.default_rng(5)
    threshold = orientation.snr_threshold(voxel_nm=VOXEL_NM, lattice_nm=A_NM, window_nm=WINDOW_NM)
    snr = [
        orientation.orient_dots(rng.standard_normal((63, 63, 63)).astype(np.float32), VOXEL_NM, HERE, **SETTINGS)[
            "lattice_snr"
        ][0]
        for _ in range(80)
    ]
    assert np.mean(np.array(snr) > threshold) <= 0.02
    # The threshold is not much larger than it need be.
    assert np.max(snr) > threshold - 1.0


def test_noise_after_back_projection_is_not_accepted():
    rng = np.random.default_rng(8)
    voxel_nm, angles = 0.14, np.arange(-90, 90, 1.5) + rng.normal(0, 0.1, 120)
    noise = rng.standard_normal((120, 60, 240)).astype(np.float32)
    volume = Projector(angles, 240, device="cpu").fbp(noise)
    step = np.arange(-2, 3) * 5.5
    centres = np.array([(x, y, 0.0) for x in step for y in step])
    table = orientation.orient_dots(volume, voxel_nm, centres, **SETTINGS)
    assert table["qw"].isna().mean() >= 0.96
    # in proportion to the frequency across the axis, and so measured: no direction is preferred
    assert table["lattice_snr"].median() < 3.8


def test_an_empty_place_gives_no_orientation(clean: np.ndarray):
    centres = np.array([[0.0, 0.0, 100.0]])
    table = orientation.orient_dots(clean, VOXEL_NM, centres, control=True, **SETTINGS)
    assert table["qw"].isna().all()
    assert table["lattice_snr"][0] == 0


def test_visibility_counts_the_accepted_dots():
    table = pd.DataFrame({"qw": [1.0] * 2 + [np.nan] * 8})
    assert orientation.lattice_visible(table) == (True, "")
    answer, reason = orientation.lattice_visible(table.iloc[1:])
    assert not answer
    assert "1 of 9" in reason
    assert not orientation.lattice_visible(table.iloc[:0])[0]
    assert not orientation.lattice_visible(orientation.without_lattice(4))[0]


@pytest.mark.parametrize(
    ("lattice_nm", "voxel_nm", "seen"),
    [(A_NM, 0.07, True), (A_NM, 0.15, True), (A_NM, 0.16, False), (None, 0.07, False)],
)
def test_voxels_must_carry_the_lattice(lattice_nm, voxel_nm, seen):
    answer, reason = orientation.visible_in_principle(lattice_nm, voxel_nm)
    assert answer is seen
    assert bool(reason) is not seen


def test_coarse_voxels_use_the_reflections_they_carry():
    families = orientation_search.visible_reflections(A_NM, 0.12)["family"].unique()
    assert list(families) == ["111", "200"]
    volume = model_dot.turned_dot(TURN, lattice_nm=A_NM, voxel_nm=0.12, edge_nm=4.8)
    table = orientation.orient_dots(volume, 0.12, HERE, superlattice=TURN, control=True, **SETTINGS)
    assert lattice.rotation_angle_deg(matrices(table)[0] @ TURN.T) < 0.2
    assert table["control_snr"].isna().all()  # its reflections would lie beyond the voxels' frequencies


# ------------------------------------------------------------------ the transform


def test_the_transform_equals_a_direct_sum(clean: np.ndarray):
    window = lattice_signal.prepare_window(voxel_nm=VOXEL_NM, window_nm=4.0, g_max_per_nm=5.2)
    cube = cut_cube(clean, VOXEL_NM, np.zeros(3), window.n)
    hkl = lattice.reflections(A_NM)[["h", "k", "l"]].to_numpy()
    g = hkl / A_NM @ TURN.T + np.random.default_rng(0).normal(scale=0.08, size=hkl.shape)

    def direct(points: np.ndarray) -> np.ndarray:
        x = (np.arange(window.n) - window.n // 2) * VOXEL_NM
        density = (cube - np.average(cube, weights=window.window)) * window.window
        waves = np.exp(-2j * np.pi * points[:, :, None] * x)
        F = np.einsum("zyx,mx,my,mz->m", density, *waves.transpose(1, 0, 2), optimize=True)
        return np.abs(F) ** 2

    spectrum = lattice_signal.transform(window, cube)
    power, gradient, curvature = lattice_signal.read_power(window, spectrum, g)
    assert power == pytest.approx(direct(g), abs=5e-4 * direct(g).max())
    h = 1e-4
    for axis in range(3):
        step = h * np.eye(3)[axis]
        slope = (direct(g + step) - direct(g - step)) / (2 * h)
        assert gradient[:, axis] == pytest.approx(slope, abs=1e-3 * np.abs(slope).max())
        behind, ahead = (lattice_signal.read_power(window, spectrum, g + s)[1] for s in (-step, step))
        bend = (ahead - behind) / (2 * h)
        assert curvature[:, axis] == pytest.approx(bend, abs=1e-3 * np.abs(bend).max())


def test_sums_near_a_reflection_stand_for_the_transform(clean: np.ndarray):
    window = lattice_signal.prepare_window(voxel_nm=VOXEL_NM, window_nm=4.0, g_max_per_nm=5.2)
    cube = cut_cube(clean, VOXEL_NM, np.zeros(3), window.n)
    hkl = lattice.reflections(A_NM)[["h", "k", "l"]].to_numpy()
    g = hkl / A_NM @ TURN.T + np.random.default_rng(0).normal(scale=0.08, size=hkl.shape)
    spectrum = lattice_signal.transform(window, cube)
    middle = np.array([0.04, -0.03, 0.02])
    near = lattice_signal.local_transform(window, cube[None], g[None], middles_nm=middle[None])
    # a quarter of a Fourier voxel away, in any direction
    away = np.random.default_rng(1).normal(size=g.shape)
    away *= 0.25 / window.window_nm / np.linalg.norm(away, axis=1, keepdims=True)
    for step, errors in ((0 * away, (1e-4, 2e-4, 5e-4)), (away, (2e-3, 3e-2, 0.1))):
        exact = lattice_signal.read_power(window, spectrum, g + step)
        for found, true, error in zip(near.read_power((g + step)[None], [0]), exact, errors, strict=True):
            assert np.abs(found - true).max() < error * np.abs(true).max()
    # phases count from the point asked for, and one cube can be taken off another
    moved = lattice_signal.fourier_sums(window, cube, g) * np.exp(-2j * np.pi * g @ middle)
    assert np.abs(near.value - moved).max() < 1e-4 * np.abs(moved).max()
    nothing = near.less(near, 1.0)
    assert max(np.abs(part).max() for part in nothing.read_power(g[None], [0])) == 0
    nothing.put([0], lattice_signal.local_transform(window, cube[None], (g + away)[None]))
    power = nothing.read_power((g + away)[None], [0])[0][0]
    assert power == pytest.approx(exact[0], rel=1e-3, abs=1e-4 * exact[0].max())
    assert np.array_equal(near.g_per_nm[0], g)


def test_known_orientations_are_followed_into_another_tomogram(clean: np.ndarray, oriented: pd.DataFrame):
    tables = pd.concat([oriented, oriented], ignore_index=True)
    tables.loc[1, QUATERNION] = np.nan
    far = lattice.axis_angle([0.2, 1.0, -0.4], np.deg2rad(1.5)) @ TURN  # two thirds of a Fourier voxel
    too_far = lattice.axis_angle([0.2, 1.0, -0.4], np.deg2rad(3.0)) @ TURN
    lost = orientation_follow.follow_dots(dot(too_far), VOXEL_NM, HERE, oriented, **SETTINGS)
    assert np.isnan(lost.R).all()
    for R in (TURN, far):
        found = orientation_follow.follow_dots(dot(R), VOXEL_NM, np.zeros((2, 3)), tables, **SETTINGS)
        again = orientation.orient_dots(dot(R), VOXEL_NM, HERE, superlattice=TURN, **SETTINGS)
        assert lattice.rotation_angle_deg(found.R[0] @ matrices(again)[0].T) < 0.01
        assert found.lattice_nm[0] == pytest.approx(again["lattice_nm"][0], rel=1e-4)
        assert not found.taken_deg[0].any()
        assert found.power[0] == 1
        cell = lattice.cell_parameters(found.cells_nm[0])
        lengths, angles = ["a_nm", "b_nm", "c_nm"], ["alpha_deg", "beta_deg", "gamma_deg"]
        np.testing.assert_allclose([cell[name] for name in lengths], again.loc[0, lengths].astype(float), rtol=2e-4)
        np.testing.assert_allclose([cell[name] for name in angles], again.loc[0, angles].astype(float), atol=0.02)
        assert lattice.disorientation_deg((found.cells_nm[0] / A_NM)[None], R)[0] < 0.1
        for values in (found.R, found.lattice_nm, found.cells_nm, found.taken_deg, found.power):
            assert np.isnan(values[1]).all()
    assert np.isnan(orientation_follow.follow_dots(0 * clean, VOXEL_NM, HERE, oriented, **SETTINGS).R).all()


def test_a_foreign_lattice_is_taken_off(clean: np.ndarray, oriented: pd.DataFrame):
    foreign = 0.4 * dot(lattice.axis_angle([1, 3, 2], np.deg2rad(1.2)) @ TURN)
    mixed = orientation.orient_dots(clean + foreign, VOXEL_NM, HERE, superlattice=TURN, **SETTINGS)
    replicas = Replicas(foreign, VOXEL_NM)
    [turned] = lattice.rotation_angle_deg(matrices(mixed) @ np.swapaxes(matrices(oriented), 1, 2))
    assert turned > 0.2
    table, turn_deg = orientation_follow.without_replicas(clean + foreign, VOXEL_NM, HERE, mixed, replicas, **SETTINGS)
    assert lattice.rotation_angle_deg(matrices(table)[0] @ matrices(oriented)[0].T) < 0.01
    assert turn_deg[0] == pytest.approx(turned, abs=0.01)
    assert table["lattice_nm"][0] == pytest.approx(oriented["lattice_nm"][0], rel=1e-4)
    for name in strain.CELL:
        assert table[name][0] == pytest.approx(oriented[name][0], rel=3e-4)
    assert table["lattice_snr"][0] < mixed["lattice_snr"][0]  # the foreign lattice had added to the power
    # a lattice that was others' altogether is none
    nothing, turn_deg = orientation_follow.without_replicas(
        clean + foreign, VOXEL_NM, HERE, mixed, Replicas(clean + foreign, VOXEL_NM), **SETTINGS
    )
    assert nothing[[*QUATERNION, "lattice_nm", *strain.CELL]].isna().all(axis=None)
    assert np.isnan(turn_deg).all()


def test_the_rotation_grid_covers_every_orientation():
    grid = orientation_search.rotation_grid(8.0)
    q = np.random.default_rng(0).normal(size=(60, 4))
    nearest = [lattice.disorientation_deg(grid, R).min() for R in lattice.from_quaternions(q)]
    assert max(nearest) < 8.0
    assert len(grid) == pytest.approx(np.pi**2 / 3 / np.deg2rad(8.0) ** 3, rel=0.03)


def test_joint_fit_and_kabsch_agree(clean: np.ndarray):
    R, spots, planes, extent = lattice_spots.inspect_dot(
        clean, VOXEL_NM, np.zeros(3), lattice_nm=A_NM, window_nm=WINDOW_NM, superlattice=TURN
    )
    assert lattice.rotation_angle_deg(lattice_spots.triad_from_spots(spots) @ R.T) < 0.05
    assert spots["offset_voxels"].max() < 0.05
    in_planes = lattice_spots.spots_in_planes(R, spots)
    assert in_planes.groupby("plane").size().to_dict() == {"(001)": 8, "(-110)": 8}
    for spot in in_planes.itertuples():
        picture = planes[spot.plane]
        axis = np.linspace(-extent, extent, len(picture))
        row, column = (np.abs(axis - x).argmin() for x in (spot.v_per_nm, spot.u_per_nm))
        assert picture[row, column] > np.nanmedian(picture) + 1


# ------------------------------------------------------------------ errors from half sets


def test_half_sets_give_the_true_error():
    rng = np.random.default_rng(3)
    clean, noise, n = dot(TURN), 6.0, 12
    volumes = {name: [] for name in ("all", "even", "odd")}
    for _ in range(n):
        even, odd = (
            clean + noise * clean.std() * rng.standard_normal(clean.shape).astype(np.float32) for _ in range(2)
        )
        for name, volume in zip(volumes, ((even + odd) / 2, even, odd), strict=True):
            volumes[name].append(volume)
    joined = {name: np.concatenate(parts, axis=0) for name, parts in volumes.items()}
    edge = clean.shape[0] * VOXEL_NM
    centres = np.zeros((n, 3))
    centres[:, 2] = (np.arange(n) - (n - 1) / 2) * edge
    table = orientation.orient_dots(joined["all"], VOXEL_NM, centres, superlattice=TURN, **SETTINGS)
    errors, common = orientation_errors.half_set_sigmas(
        joined["even"], joined["odd"], VOXEL_NM, centres, table, **SETTINGS
    )
    true = lattice.rotation_angle_deg(matrices(table) @ TURN.T)
    sigma = errors["half_set_deg"].median()
    # white noise leaves no streaks; it alone is foretold by the lattice SNR
    outermost = np.sqrt(8) / A_NM
    expected = orientation_errors.NOISE_DEG / (outermost * WINDOW_NM * np.sqrt(table["lattice_snr"].median()))
    assert sigma == pytest.approx(expected, rel=0.25)
    ratio = np.sqrt(np.mean(true**2)) / sigma
    assert 0.6 < ratio < 1.6
    assert np.abs(common).max() < 0.3
    # and of the cells, all of which are one: how they scatter
    scatter = table[list(strain.CELL)].std().to_numpy() / errors[list(strain.SIGMA)].median().to_numpy()
    assert 0.6 < np.sqrt(np.mean(scatter**2)) < 1.6
    found = orientation_errors.summary(table, errors, common)
    assert found["n"] == n
    assert found["a_nm"][0] == pytest.approx(A_NM, rel=2e-3)


def test_a_turn_common_to_all_dots_is_no_error():
    rng = np.random.default_rng(0)
    R = lattice.from_rotation_vectors(rng.normal(scale=0.1, size=(30, 3)))
    frame = lattice.axis_angle([0, 0, 1], np.deg2rad(2.0))
    even, odd = R, frame @ R
    odd[4] = np.nan
    turns, common = orientation_errors.half_set_turns(even, odd)
    assert common == pytest.approx([0, 0, 2.0], abs=1e-6)
    assert np.abs(np.delete(turns, 4, axis=0)).max() < 1e-6
    assert np.isnan(turns[4]).all()


def test_what_is_left_of_the_replicas_is_told_from_noise():
    rng = np.random.default_rng(0)
    noise = np.full(2000, 0.05)
    taken = rng.normal(scale=0.4, size=(2000, 3))
    halves = 0.3 * rng.permutation(taken) + rng.normal(scale=0.1 / np.sqrt(3), size=taken.shape)
    taken[:, 2] += 1.0  # a turn common to all is none of theirs
    assert orientation_errors.part_left(halves, taken, noise) == pytest.approx(0.3, abs=0.01)
    assert orientation_errors.part_left(0 * halves, taken, noise) == 0
    assert orientation_errors.part_left(5 * halves, taken, noise) == 1


def test_the_noise_model_learns_scale_and_slope():
    rng = np.random.default_rng(0)
    snr = np.geomspace(5, 500, 400)
    sigma = 2.0 * snr**-0.5
    turns = rng.normal(size=(400, 3)) * (2 * sigma / np.sqrt(3))[:, None]
    turns[::50] *= 20  # lost dots must not set the scale
    found = orientation_errors.noise_model_deg(turns, snr)
    assert found == pytest.approx(sigma, rel=0.2)
    assert np.isnan(orientation_errors.noise_model_deg(turns[:4], snr[:4])).all()


def test_the_noise_model_is_true_for_one_component_and_for_lengths_too():
    turns, snr = np.random.default_rng(0).normal(size=(20000, 3)), np.full(20000, 30.0)
    for given, sigma, options in (
        (turns, np.sqrt(3) / 2, {}),
        (turns[:, :1], 0.5, {}),
        (np.linalg.norm(turns, axis=1)[:, None], np.sqrt(3) / 2, {"components": 3}),
    ):
        assert orientation_errors.noise_model_deg(given, snr, **options)[0] == pytest.approx(sigma, rel=0.012)


# ------------------------------------------------------------------ orix, projection, messages


def test_export_to_orix_keeps_the_directions(oriented: pd.DataFrame):
    table = pd.concat([oriented, oriented * np.nan], ignore_index=True)
    table[["x_nm", "y_nm", "z_nm"]] = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    xmap = export.crystal_map(table, lattice_nm=A_NM)
    assert xmap.phases[0].point_group.name == "m-3m"
    assert xmap.size == 1
    assert xmap.prop["z_nm"] == pytest.approx([3.0])
    c_axis = Vector3d(matrices(oriented)[0][:, 2])
    stored = Rotation(xmap.rotations.data[0])
    assert (stored * c_axis).data[0] == pytest.approx([0, 0, 1], abs=1e-6)


def test_axes_lean_towards_the_axes_they_lean_towards():
    lean = lattice.axis_angle([0, 0, 1], np.deg2rad(3.0))  # a towards b, b away from a
    found = orientation.axis_deviations_deg(np.stack([lean, lean.T]))
    assert found["a"] == pytest.approx(np.array([[3.0, 0], [-3.0, 0]]), abs=1e-9)
    assert found["b"] == pytest.approx(np.array([[0, -3.0], [0, 3.0]]), abs=1e-9)
    assert found["c"] == pytest.approx(np.zeros((2, 2)), abs=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volume": np.zeros((4, 4))}, "z, y, x"),
        ({"centres_nm": np.zeros((2, 2))}, r"\(N, 3\)"),
        ({"centres_nm": np.array([[0, 0, 0], [0, np.nan, 0]])}, "row 1"),
        ({"voxel_nm": 0.2}, "under two voxels"),
        ({"window_nm": 0.5}, "eight voxels"),
    ],
)
def test_wrong_input_is_named(clean: np.ndarray, change: dict, message: str):
    arguments = {"volume": clean, "voxel_nm": VOXEL_NM, "centres_nm": HERE} | SETTINGS | change
    with pytest.raises(ValueError, match=message):
        orientation.orient_dots(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: orientation.default_window_nm(0.0), "diameter_nm"),
        (
            lambda: lattice_signal.prepare_window(voxel_nm=0.2, window_nm=5, g_max_per_nm=4.6),
            "Nyquist",
        ),
        (lambda: orientation_errors.noise_model_deg(np.zeros((3, 3)), np.ones(4)), "3 turns and 4"),
        (
            lambda: orientation_errors.half_set_sigmas(
                None, None, 0.1, HERE, orientation.without_lattice(2), lattice_nm=1, window_nm=1
            ),
            "2 rows for 1",
        ),
        (
            lambda: model_dot.turned_dot(TURN, lattice_nm=A_NM, voxel_nm=0.1, edge_nm=2.0, noise=1.0),
            "rng",
        ),
    ],
)
def test_more_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_cube_of_another_size_is_refused():
    window = lattice_signal.prepare_window(voxel_nm=0.1, window_nm=3.0, g_max_per_nm=4.6)
    with pytest.raises(ValueError, match=r"\(3, 3, 3\)"):
        lattice_signal.transform(window, np.zeros((3, 3, 3)))


def test_a_few_strong_foreign_spots_do_not_win():
    """Three strong spots of the lattice turned by 60 degrees about [111] against all 13 of the true one."""
    R = lattice.from_rotation_vectors(np.array([0.1, -0.2, 0.3]))
    twin = R @ lattice.axis_angle([1, 1, 1], np.pi / 3)
    hkl = lattice.reflections(0.612)[["h", "k", "l"]].to_numpy() / 0.612
    foreign = np.linalg.norm(hkl[:, None] - hkl @ (R.T @ twin).T, axis=2).min(axis=0) > 1
    grid = (np.arange(96) - 47.5) * 0.09
    z, y, x = np.meshgrid(grid, grid, grid, indexing="ij")
    waves = [(1.0, R @ g) for g in hkl] + [(4.0, twin @ g) for g in hkl[foreign][-3:]]
    volume = sum(a * np.cos(2 * np.pi * (g[0] * x + g[1] * y + g[2] * z)) for a, g in waves)
    volume += np.random.default_rng(0).normal(scale=0.5, size=volume.shape)
    table = orientation.orient_dots(volume.astype(np.float32), 0.09, np.zeros((1, 3)), lattice_nm=0.612, window_nm=6.0)
    found = lattice.from_quaternions(table[["qw", "qx", "qy", "qz"]].to_numpy())[0]
    assert lattice.disorientation_deg(found, R) < 0.5


def half_sets(n: int, rng: np.random.Generator, *, noise: float = 0.02, left: float = 0.3) -> pd.DataFrame:
    """What half sets say of dots that replicas turn by 0.3° rms, `left` of it left in the halves."""
    taken = rng.normal(scale=0.6 / np.sqrt(3), size=(n, 3))
    turns = left * rng.permutation(taken) + rng.normal(scale=2 * noise / np.sqrt(3), size=(n, 3))
    replica_turn = np.linalg.norm(rng.normal(scale=0.3 / np.sqrt(3), size=(n, 3)), axis=1)
    frame = pd.DataFrame(turns, columns=orientation_errors.TURN)
    frame[orientation_errors.TAKEN] = taken
    return frame.assign(sigma_deg=0.1, replica_turn_deg=replica_turn, noise_deg=noise)


def test_the_typical_error_scatters_as_its_bootstrap_says():
    """Over samples, against resamples of some of them; by the laws fitted anew. A median scatters more by these."""
    rng = np.random.default_rng(0)
    everything, snr = np.arange(150), np.full(150, 100.0)
    samples = [half_sets(150, rng) for _ in range(150)]
    over_samples = [orientation_errors.typical_sigma(sample, snr, everything) for sample in samples]
    over_draws = [
        np.std([orientation_errors.typical_sigma(sample, snr, rng.integers(0, 150, 150)) for _ in range(20)])
        for sample in samples[:10]
    ]
    # replicas turn by 0.3°, and halves differ by 0.3 times 0.6°, of which an error is the half
    left = orientation_errors.LEFT_SCALE * 0.3**orientation_errors.LEFT_POWER * np.sqrt(0.3 * 0.3 * 0.3)
    expected = np.hypot(0.02, left)
    assert np.mean(over_samples) == pytest.approx(expected, rel=0.1)
    assert 0.8 < np.mean(over_draws) / np.std(over_samples) < 1.6
    wedge = [orientation_errors.typical_sigma(samples[0], snr, everything, wedge=factor) for factor in (1.0, 1.65)]
    assert wedge[1] > 1.5 * wedge[0]


def test_the_typical_error_has_an_interval_where_half_sets_tell_it():
    rng = np.random.default_rng(2)
    errors = half_sets(64, rng)
    table = pd.DataFrame({"qw": 1.0, "lattice_snr": np.full(64, 100.0)})
    table.loc[60:, "qw"] = errors.loc[60:, "sigma_deg"] = np.nan
    cell = lattice.cell_matrix(6.2, 6.0, 5.8, 98, 95, 93)
    xyz = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), axis=-1).reshape(-1, 3) @ cell.T
    options = {"wedge": 1.0, "n_resamples": 100}
    found = orientation_sigma.typical_error(errors, table, xyz, cell, **options, rng=np.random.default_rng(3))
    low, high = found.low, found.high
    assert found.n == 60
    assert low < found.value < high
    # the constants alone are off by so much
    assert np.log(high / low) > 2 * 1.96 * orientation_errors.LAW_SPREAD
    missing = errors.assign(sigma_deg=np.nan)
    nothing = orientation_sigma.typical_error(missing, table, xyz, cell, **options, rng=np.random.default_rng(3))
    assert np.isnan(nothing.value)
    assert nothing.as_result()["interval_95"] is None


def test_the_typical_error_is_that_of_the_dots_with_an_orientation():
    rng = np.random.default_rng(1)
    errors = half_sets(60, rng, noise=0.1).assign(replica_turn_deg=np.nan)
    snr = np.geomspace(10, 1000, 60)
    errors.loc[30:, "sigma_deg"] = np.nan
    rows = np.arange(60)
    sigma = orientation_errors.HALF_SET_SHARE * orientation_errors.noise_model_deg(
        errors[orientation_errors.TURN].to_numpy(), snr
    )
    assert orientation_errors.typical_sigma(errors, snr, rows) == pytest.approx(np.median(sigma[:30]))
    assert np.isnan(orientation_errors.typical_sigma(errors, snr, rows[30:]))
